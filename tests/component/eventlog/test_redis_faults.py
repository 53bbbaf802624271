"""Redis away, slow, restarted empty, restarted with an old state: coarser, never wrong."""

import asyncio
import shutil

import pytest

from peregrine.kit import redis
from peregrine.kit.eventlog import Writer
from peregrine.kit.eventlog import tail as tails
from peregrine.local.servers import RedisServer
from tests.component.eventlog.conftest import Cluster, Process
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy
from tests.support.redis import target, through


@pytest.fixture
def cluster_on(cluster: Cluster, redis_server: RedisServer) -> Cluster:
    """A cluster with a Redis server of its own, which may be killed."""
    cluster.redis_url = redis_server.url()
    return cluster


async def append(writer: Writer, first: int, last: int) -> None:
    for number in range(first, last + 1):
        assert writer.append(b"%d" % number) == number
        if number % 4 == 0:
            await writer.visible(number)


async def check_whole(where: list[Process], writer: Writer, count: int) -> None:
    for process in where:
        entries = await process.read(writer)
        assert [entry.payload for entry in entries] == [
            b"%d" % number for number in range(1, count + 1)
        ] + [b"end"]
        assert [entry.sequence for entry in entries] == list(range(1, count + 2))


async def tail_of(process: Process, writer: Writer) -> list[bytes]:
    entries = await process.log._tail.read(writer.address, writer.durable_sequence, 100)
    return [entry.payload for entry in entries]


async def test_without_redis_logs_go_on_and_are_followed_elsewhere(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    owner, other = await cluster_on.process(), await cluster_on.process()
    writer = await owner.create()
    follow = asyncio.create_task(other.read(writer))
    await append(writer, 1, 10)
    await redis_server.kill()
    await append(writer, 11, 40)
    await writer.visible(40)
    await writer.finish(b"end")
    await follow
    await check_whole([owner, other], writer, 40)


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "with its data"])
async def test_redis_restarted_under_a_running_log(
    cluster_on: Cluster, redis_server: RedisServer, empty: bool
) -> None:
    owner, other = await cluster_on.process(), await cluster_on.process()
    writer = await owner.create()
    follow = asyncio.create_task(other.read(writer))
    await append(writer, 1, 10)
    await redis_server.kill()
    await append(writer, 11, 20)
    await redis_server.restart(empty=empty)
    await append(writer, 21, 30)
    # The tail lives again: new entries are in it before they are durable.
    await eventually(lambda: owner.log._appender.well)
    await append(writer, 31, 40)
    await writer.finish(b"end")
    await follow
    await check_whole([owner, other], writer, 40)


async def test_a_restarted_empty_redis_gets_what_is_not_durable(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    # Flushing needs Redis to be away, so what is appended now is only in memory and the tail.
    owner = await cluster_on.process(flush_seconds=60.0)
    other = await cluster_on.process()
    writer = await owner.create()
    await append(writer, 1, 8)
    async with asyncio.timeout(10):
        await redis_server.restart(empty=True)
    await append(writer, 9, 12)
    await writer.visible(12)

    async def filled() -> bool:
        return await tail_of(other, writer) == [
            b"%d" % n for n in range(writer.durable_sequence + 1, 13)
        ]

    await eventually(filled)
    await writer.finish(b"end")
    await check_whole([owner, other], writer, 12)


async def test_a_head_that_vanished_is_opened_again(cluster: Cluster, process: Process) -> None:
    other = await cluster.process()
    writer = await process.create()
    follow = asyncio.create_task(other.read(writer))
    await append(writer, 1, 8)
    client = redis.connect(cluster.redis_url)
    await client.delete(*tails.keys(writer.address)[:2])
    await append(writer, 9, 12)
    await writer.visible(12)
    await client.hset(tails.keys(writer.address)[0], "next", 3)  # as an older state would have it
    await append(writer, 13, 16)
    await redis.close(client)
    await writer.finish(b"end")
    await follow
    await check_whole([process, other], writer, 16)


async def test_redis_restored_from_an_older_state(
    cluster_on: Cluster, redis_server: RedisServer, tmp_path: object
) -> None:
    owner, other = await cluster_on.process(), await cluster_on.process()
    writer = await owner.create()
    await append(writer, 1, 8)
    await redis_server.stop()
    directory = redis_server._directory
    old = directory.with_name("old")
    shutil.copytree(directory / "appendonlydir", old)
    await redis_server.start()
    await append(writer, 9, 16)
    await redis_server.kill()
    shutil.rmtree(directory / "appendonlydir")
    shutil.copytree(old, directory / "appendonlydir")
    await redis_server.start()
    await append(writer, 17, 24)
    await writer.finish(b"end")
    await check_whole([owner, other], writer, 24)


async def test_redis_and_owner_lost_together_is_said(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    first = await cluster_on.process(flush_seconds=60.0)
    second, third = await cluster_on.process(), await cluster_on.process()
    writer = await first.create()
    await append(writer, 1, 4)
    await writer.durable(4)
    await append(writer, 5, 8)
    await writer.visible(8)
    # This reader has seen entries that will turn out to be void.
    seen = []
    stream = third.log.read(tenant=writer.tenant, log_id=writer.log_id)
    while len(seen) < 8:
        seen += await anext(stream)
    first.crash()
    await redis_server.kill()
    await redis_server.restart(empty=True)
    recovered = await second.take_over(writer.log_id)
    assert recovered.truncated
    assert [entry.sequence for entry in recovered.entries] == [1, 2, 3, 4]
    assert recovered.writer.append(b"truncated") == 5
    await recovered.writer.finish(b"end")
    rest = []
    async with asyncio.timeout(10):
        async for batch in stream:
            rest += batch
    assert [(entry.sequence, entry.payload) for entry in rest] == [(5, b"truncated"), (6, b"end")]
    # The same for one who comes back with the void position, with and without its epoch.
    for reader in (second, third):
        assert await reader.read(writer, after=8, after_epoch=1) == rest
        assert await reader.read(writer, after=8) == rest
        assert await reader.read(writer, after=5, after_epoch=1) == rest
        assert await reader.read(writer, after=4, after_epoch=1) == rest
        assert await reader.read(writer, after=5, after_epoch=2) == rest[1:]


async def test_redis_that_lost_its_last_second_with_the_owner_is_said(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    first = await cluster_on.process(flush_seconds=60.0)
    second = await cluster_on.process()
    writer = await first.create()
    await append(writer, 1, 4)
    await writer.visible(4)
    first.crash()
    await redis_server.kill()
    await redis_server.restart()
    recovered = await second.take_over(writer.log_id)
    # All of it is there, but that cannot be known: another run of the server wrote it.
    assert [entry.sequence for entry in recovered.entries] == [1, 2, 3, 4]
    assert recovered.truncated


async def test_take_over_without_redis_then_redis_returns_with_the_old_tail(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    async with fault_proxy(str(redis_server.socket_path)) as proxy:
        cluster.redis_url = redis_server.url()
        first = await cluster.process(flush_seconds=60.0)
        writer = await first.create()
        await append(writer, 1, 4)
        await writer.visible(4)
        first.crash()
        second = await cluster.process(redis_url=f"redis://{proxy.address}", flush_seconds=60.0)
        third = await cluster.process()
        proxy.cut()
        recovered = await second.take_over(writer.log_id)
        assert recovered.truncated and not recovered.entries
        mine = recovered.writer
        mine.append(b"truncated")
        await mine.visible(1)
        proxy.resume()
        await eventually(lambda: second.log._appender.well)
        for number in range(2, 7):
            mine.append(b"new %d" % number)
        await mine.visible(6)
        await mine.finish(b"end")
        expected = [b"truncated", *(b"new %d" % number for number in range(2, 7)), b"end"]
        for process in (second, third):
            assert [entry.payload for entry in await process.read(writer)] == expected
            whole = await process.read(writer, after=4, after_epoch=1)
            assert [entry.payload for entry in whole] == expected


async def test_a_stalled_redis_delays_but_does_not_stop(cluster: Cluster) -> None:
    async with fault_proxy(target(cluster.redis_url)) as proxy:
        owner = await cluster.process(redis_url=through(cluster.redis_url, proxy.address))
        other = await cluster.process()
        writer = await owner.create()
        await append(writer, 1, 4)
        proxy.stall()
        await append(writer, 5, 12)
        await writer.visible(12)
        proxy.resume()
        await append(writer, 13, 16)
        await writer.finish(b"end")
        await check_whole([owner, other], writer, 16)


async def test_a_lost_reply_does_not_double_entries(cluster: Cluster) -> None:
    async with fault_proxy(target(cluster.redis_url)) as proxy:
        owner = await cluster.process(
            redis_url=through(cluster.redis_url, proxy.address), flush_seconds=0.1
        )
        other = await cluster.process()
        writer = await owner.create()
        follow = asyncio.create_task(other.read(writer))
        for number in range(1, 61):
            writer.append(b"%d" % number)
            if number % 6 == 0:
                proxy.reset()  # whatever is on its way either arrives or does not
            if number % 10 == 0:
                await writer.visible(number)
        await writer.finish(b"end")
        await follow
        await check_whole([owner, other], writer, 60)


async def test_a_zombie_cannot_open_a_redis_that_lost_everything(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    # It renews so rarely that only the check before the open stands in its way.
    first = await cluster_on.process(renew_seconds=60.0, flush_seconds=60.0)
    second = await cluster_on.process()
    writer = await first.create()
    await append(writer, 1, 4)
    await writer.visible(4)
    recovered = await second.take_over(writer.log_id)
    await redis_server.kill()
    await redis_server.restart(empty=True)
    zombie = writer.append(b"from the dead")
    await append(recovered.writer, 5, 8)
    with pytest.raises(Exception, match="no longer owns"):
        await writer.visible(zombie)
    await recovered.writer.finish(b"end")
    await check_whole([first, second], recovered.writer, 8)


async def test_redis_that_takes_nothing_is_as_good_as_away(
    cluster_on: Cluster, redis_server: RedisServer
) -> None:
    owner, other = await cluster_on.process(), await cluster_on.process()
    writer = await owner.create()
    await append(writer, 1, 4)
    client = redis.connect(redis_server.url())
    await client.config_set("maxmemory", "1")
    await append(writer, 5, 8)
    await writer.visible(8)
    await client.config_set("maxmemory", "0")
    await redis.close(client)
    await append(writer, 9, 12)
    await writer.finish(b"end")
    await check_whole([owner, other], writer, 12)
