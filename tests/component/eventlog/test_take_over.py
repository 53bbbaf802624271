"""Changing owners: what a new owner finds, and what an old one can still do."""

import asyncio

import pytest

from peregrine.kit.eventlog import Fenced, Writer
from tests.component.eventlog.conftest import Cluster, added, ending
from tests.support.eventually import eventually


async def test_a_new_owner_adopts_what_only_the_tail_holds(cluster: Cluster) -> None:
    first = await cluster.process(flush_seconds=60.0)
    second = await cluster.process()
    writer = await first.create()
    for number in range(1, 11):
        writer.append(b"%d" % number)
    await writer.visible(10)
    assert writer.durable_sequence == 0
    first.crash()
    recovered = await second.take_over(writer.log_id)
    assert not recovered.truncated
    assert [entry.payload for entry in recovered.entries] == [b"%d" % n for n in range(1, 11)]
    assert {entry.epoch for entry in recovered.entries} == {1}
    assert recovered.writer.epoch == 2
    assert recovered.writer.append(b"11") == 11
    await recovered.writer.finish(b"end")
    assert [entry.epoch for entry in await second.read(writer)] == [1] * 10 + [2] * 2


async def test_a_reader_follows_across_a_take_over(cluster: Cluster) -> None:
    first = await cluster.process()
    second = await cluster.process()
    third = await cluster.process()
    writer = await first.create()
    reads = [
        asyncio.create_task(where.read(writer, after=after))
        for where in (second, third)
        for after in (0, 3)
    ]
    for number in range(1, 6):
        writer.append(b"%d" % number)
    await writer.visible(5)
    first.crash()
    recovered = await second.take_over(writer.log_id)
    for number in range(6, 11):
        recovered.writer.append(b"%d" % number)
    await recovered.writer.finish(b"end")
    whole = await reads[0]
    assert [entry.payload for entry in whole] == [b"%d" % n for n in range(1, 11)] + [b"end"]
    assert await reads[1] == whole[3:]
    assert await reads[2] == whole
    assert await reads[3] == whole[3:]


async def test_an_old_owner_can_append_nothing_anywhere(cluster: Cluster) -> None:
    # It renews and flushes so rarely that it learns of its loss from the append itself.
    first = await cluster.process(renew_seconds=60.0, flush_seconds=60.0)
    second = await cluster.process()
    writer = await first.create()
    writer.append(b"1")
    await writer.visible(1)
    recovered = await second.take_over(writer.log_id)
    position = writer.append(b"from the dead")
    with pytest.raises(Fenced):
        await writer.visible(position)
    with pytest.raises(Fenced):
        await writer.durable(position)
    assert writer.lost.is_set()
    with pytest.raises(Fenced):
        writer.append(b"again")
    recovered.writer.append(b"2")
    await recovered.writer.finish(b"end")
    assert [entry.payload for entry in await first.read(writer)] == [b"1", b"2", b"end"]


async def test_an_old_owner_cannot_finish(cluster: Cluster) -> None:
    first = await cluster.process(renew_seconds=60.0, flush_seconds=60.0)
    second = await cluster.process()
    writer = await first.create()
    recovered = await second.take_over(writer.log_id)
    with pytest.raises(Fenced):
        await writer.finish(b"mine", also=ending("mine"))
    assert await added(second) == []
    await recovered.writer.finish(b"theirs", also=ending("theirs"))
    assert await added(second) == ["theirs"]
    assert [entry.payload for entry in await second.read(writer)] == [b"theirs"]


async def test_a_released_log_is_claimed_at_once_and_whole(cluster: Cluster) -> None:
    first = await cluster.process(lease_seconds=30.0, flush_seconds=60.0)
    second = await cluster.process(lease_seconds=30.0)
    writer = await first.create()
    writer.append(b"1")
    await writer.release()
    with pytest.raises(Fenced):
        writer.append(b"2")
    assert not writer.lost.is_set()
    async with asyncio.timeout(20):
        await second.log.released.wait()
    recovered = await second.take_over(writer.log_id)
    assert [entry.payload for entry in recovered.entries] == [b"1"]
    assert not recovered.truncated


async def test_a_closed_process_leaves_everything_durable_and_free(cluster: Cluster) -> None:
    first = await cluster.process(lease_seconds=30.0, flush_seconds=60.0)
    second = await cluster.process()
    writer = await first.create()
    for number in range(1, 4):
        writer.append(b"%d" % number)
    await first.log.close()
    assert writer.lost.is_set()
    recovered = await second.take_over(writer.log_id)
    assert [entry.payload for entry in recovered.entries] == [b"1", b"2", b"3"]
    assert not recovered.truncated


async def test_of_many_claimers_one_gets_each_log(cluster: Cluster) -> None:
    first = await cluster.process()
    writers = [await first.create() for _ in range(20)]
    first.crash()
    others = [await cluster.process() for _ in range(3)]
    claimed: list[object] = []

    async def all_claimed() -> bool:
        for claims in await asyncio.gather(*(each.log.claim_expired(50) for each in others)):
            claimed.extend(claim.log_id for claim in claims)
        return len(claimed) >= 20

    await eventually(all_claimed)
    assert sorted(map(str, claimed)) == sorted(str(writer.log_id) for writer in writers)


async def test_a_living_owner_keeps_its_logs(cluster: Cluster) -> None:
    first = await cluster.process()
    second = await cluster.process()
    writer = await first.create()

    async def renewed() -> bool:
        async with first.db.transaction("acme") as conn:
            return bool(
                await conn.fetchval(
                    "t",
                    "SELECT lease_until - create_time > interval '1.5 s' FROM eventlog.logs",
                )
            )

    assert await second.log.claim_expired(10) == []
    await eventually(renewed)
    assert await second.log.claim_expired(10) == []
    assert not writer.lost.is_set()


async def test_an_idle_owner_learns_that_it_lost_its_log(cluster: Cluster) -> None:
    first = await cluster.process()
    second = await cluster.process()
    writer = await first.create()
    async with second.db.transaction("acme") as conn:
        await conn.execute("t", "UPDATE eventlog.logs SET epoch = 2")
    async with asyncio.timeout(20):
        await writer.lost.wait()
    assert isinstance(writer.failure, Fenced)


async def test_two_take_overs_in_a_row_lose_nothing(cluster: Cluster) -> None:
    processes = [await cluster.process(flush_seconds=60.0) for _ in range(3)]
    writer: Writer = await processes[0].create()
    log_id = writer.log_id
    expected = []
    for number, process in enumerate(processes):
        if number:
            processes[number - 1].crash()
            recovered = await process.take_over(log_id)
            assert not recovered.truncated
            writer = recovered.writer
        payload = b"by %d" % number
        await writer.visible(writer.append(payload))
        expected.append(payload)
    await writer.finish(b"end")
    whole = await processes[-1].read(writer)
    assert [entry.payload for entry in whole] == [*expected, b"end"]
    assert [entry.epoch for entry in whole] == [1, 2, 3, 3]
