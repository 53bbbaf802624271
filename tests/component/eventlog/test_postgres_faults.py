"""PostgreSQL away: logs go on within a bound, endings wait, nothing acknowledged is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog import Fenced
from tests.component.eventlog.conftest import Cluster, Process, added, ending
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy(eventlog_dsn: str) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(socket_path(eventlog_dsn)) as proxy:
        yield proxy


async def owner_behind(cluster: Cluster, proxy: FaultProxy, **options: float) -> Process:
    return await cluster.process(dsn=through(cluster.dsn, proxy.address), **options)


async def test_without_postgres_entries_are_followed_and_later_stored(
    cluster: Cluster, proxy: FaultProxy
) -> None:
    owner = await owner_behind(cluster, proxy, lease_seconds=30.0)
    other = await cluster.process()
    writer = await owner.create()
    writer.append(b"1")
    await writer.durable(1)
    stream = other.log.read(tenant=writer.tenant, log_id=writer.log_id)
    assert [entry.payload for entry in await anext(stream)] == [b"1"]
    proxy.cut()
    writer.append(b"2")
    await writer.visible(2)
    async with asyncio.timeout(20):
        assert [entry.payload for entry in await anext(stream)] == [b"2"]
    assert writer.durable_sequence == 1
    proxy.resume()
    await writer.durable(2)
    await writer.finish(b"end")
    assert [entry.payload for entry in await other.read(writer)] == [b"1", b"2", b"end"]


async def test_what_waits_for_postgres_too_long_fails(cluster: Cluster, proxy: FaultProxy) -> None:
    owner = await owner_behind(cluster, proxy, buffer_seconds=0.5, lease_seconds=30.0)
    second = await cluster.process()
    writer = await owner.create()
    idle = await owner.create()
    writer.append(b"1")
    await writer.durable(1)
    proxy.cut()
    writer.append(b"2")
    with pytest.raises(Unavailable):
        await writer.durable(2)
    assert writer.lost.is_set() and not idle.lost.is_set()
    with pytest.raises(Unavailable):
        writer.append(b"3")
    async with second.db.transaction("acme") as conn:
        await conn.execute("t", "UPDATE eventlog.logs SET lease_until = now()")
    recovered = await second.take_over(writer.log_id)
    # The next owner finds in the tail what was acknowledged to readers.
    assert [entry.payload for entry in recovered.entries] == [b"1", b"2"]


async def test_more_than_may_be_held_makes_writers_wait_then_fail(
    cluster: Cluster, proxy: FaultProxy
) -> None:
    owner = await owner_behind(cluster, proxy, buffer_bytes=10_000, lease_seconds=30.0)
    writer = await owner.create()
    writer.append(b"1")
    await writer.durable(1)
    await writer.room()
    proxy.stall()
    for _ in range(11):
        writer.append(b"x" * 1000)
    waiting = asyncio.create_task(writer.room())
    await writer.visible(12)
    assert not waiting.done()
    proxy.resume()
    async with asyncio.timeout(10):
        await waiting
    proxy.cut()
    with pytest.raises(Unavailable):
        for _ in range(40):
            writer.append(b"x" * 1000)
    await writer.lost.wait()


async def test_a_finish_whose_reply_is_lost_happened_once(
    cluster: Cluster, proxy: FaultProxy
) -> None:
    owner = await owner_behind(cluster, proxy, lease_seconds=30.0)
    writer = await owner.create()
    writer.append(b"1")
    # The call reaches the server, its answer does not come back.
    proxy.delay = 0.2
    asyncio.get_running_loop().call_later(0.3, proxy.reset)
    asyncio.get_running_loop().call_later(0.5, setattr, proxy, "delay", 0.0)
    assert await writer.finish(b"end", also=ending("once")) == 2
    assert await added(owner) == ["once"]
    assert [entry.payload for entry in await owner.read(writer)] == [b"1", b"end"]


async def test_a_finish_waits_for_postgres_to_return(cluster: Cluster, proxy: FaultProxy) -> None:
    owner = await owner_behind(cluster, proxy, lease_seconds=30.0)
    writer = await owner.create()
    writer.append(b"1")
    await writer.durable(1)
    proxy.cut()
    ending = asyncio.create_task(writer.finish(b"end"))
    await asyncio.wait([ending], timeout=0.6)
    assert not ending.done()
    proxy.resume()
    assert await ending == 2
    assert [entry.payload for entry in await owner.read(writer)] == [b"1", b"end"]


async def test_a_batch_whose_reply_is_lost_does_not_cost_the_log(
    cluster: Cluster, proxy: FaultProxy
) -> None:
    owner = await owner_behind(
        cluster, proxy, flush_seconds=60.0, lease_seconds=30.0, renew_seconds=60.0
    )
    direct = await cluster.process()
    writer = await owner.create()
    writer.append(b"1")
    await writer.visible(1)
    proxy.delay = 0.15
    waiting = asyncio.create_task(writer.durable(1))

    async def committed() -> bool:
        async with direct.db.transaction("acme") as conn:
            return bool(await conn.fetchval("t", "SELECT durable_sequence = 1 FROM eventlog.logs"))

    await eventually(committed)
    assert not waiting.done()
    proxy.reset()
    proxy.delay = 0.0
    await waiting
    writer.append(b"2")
    await writer.finish(b"end")
    assert [entry.payload for entry in await direct.read(writer)] == [b"1", b"2", b"end"]


@pytest.mark.parametrize("seed", range(6))
async def test_batches_whose_replies_are_lost_are_stored_once(
    cluster: Cluster, proxy: FaultProxy, seed: int
) -> None:
    owner = await owner_behind(cluster, proxy, flush_seconds=0.01, lease_seconds=30.0)
    other = await cluster.process()
    writer = await owner.create()
    for number in range(1, 61):
        writer.append(b"%d" % number)
        if number % (seed + 5) == 0:
            await writer.visible(number)
            proxy.reset()
    await writer.finish(b"end")
    whole = await other.read(writer)
    assert [entry.payload for entry in whole] == [b"%d" % n for n in range(1, 61)] + [b"end"]


async def test_finish_against_take_over_has_one_winner(cluster: Cluster) -> None:
    """Each time one of the two happened, wholly."""
    winners = set()
    for attempt in range(12):
        first = await cluster.process(renew_seconds=60.0, flush_seconds=60.0, lease_seconds=0.05)
        second = await cluster.process()
        writer = await first.create()
        writer.append(b"1")
        await writer.visible(1)
        expired = asyncio.create_task(_claim_until(second, writer.log_id, attempt))
        try:
            await writer.finish(b"first")
        except Fenced:
            pass
        claims = await expired
        if claims:
            recovered = await second.log.recover(claims[0])
            await recovered.writer.finish(b"second")
        whole = [entry.payload for entry in await second.read(writer)]
        assert whole in ([b"1", b"first"], [b"1", b"second"])
        assert bool(claims) == (whole[-1] == b"second")
        winners.add(whole[-1])
        await first.close()
        await second.close()
    assert winners


async def _claim_until(process: Process, log_id: object, attempt: int) -> list[object]:
    for _ in range(attempt):
        claims = [c for c in await process.log.claim_expired(5) if c.log_id == log_id]
        if claims:
            return list(claims)
    return []
