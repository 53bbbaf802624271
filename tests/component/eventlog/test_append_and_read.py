"""Appending and reading while nothing is broken."""

import asyncio

import pytest

from peregrine.kit.eventlog import Entry, Fenced, LogFinished, LogNotFound
from peregrine.kit.postgres import DatabaseError
from tests.component.eventlog.conftest import Cluster, Process, added, ending
from tests.support.eventually import eventually


def gapless(entries: list[Entry], *, after: int = 0) -> bool:
    return [entry.sequence for entry in entries] == list(range(after + 1, after + 1 + len(entries)))


async def test_an_entry_is_visible_then_durable_at_the_position_it_got(process: Process) -> None:
    writer = await process.create()
    assert writer.next_sequence == 1
    assert [writer.append(b"a"), writer.append(b"b")] == [1, 2]
    await writer.visible(2)
    await writer.durable(2)
    assert writer.durable_sequence == 2


async def test_a_finished_log_is_read_from_every_position_on_every_process(
    cluster: Cluster, process: Process
) -> None:
    other = await cluster.process()
    writer = await process.create()
    for number in range(1, 40):
        writer.append(b"%d" % number)
    await writer.finish(b"end")
    whole = await process.read(writer)
    assert gapless(whole)
    assert [entry.terminal for entry in whole] == [False] * 39 + [True]
    for after in range(41):
        for reader in (process, other):
            assert await reader.read(writer, after=after) == whole[after:]
            assert await reader.read(writer, after=after, after_epoch=1) == whole[after:]


async def test_readers_follow_while_the_owner_appends(cluster: Cluster, process: Process) -> None:
    other = await cluster.process()
    writer = await process.create()
    async with asyncio.TaskGroup() as group:
        readers = [
            group.create_task(where.read(writer, after=after))
            for where in (process, other)
            for after in (0, 0, 7, 150)
        ]
        for number in range(1, 200):
            writer.append(b"%d" % number)
            if number % 3 == 0:
                await writer.visible(number)
        await writer.finish(b"end")
    whole = readers[0].result()
    assert gapless(whole) and len(whole) == 200
    for task, after in zip(readers, (0, 0, 7, 150) * 2, strict=True):
        assert task.result() == whole[after:]


async def test_a_follower_elsewhere_sees_each_entry_before_the_next(cluster: Cluster) -> None:
    owner = await cluster.process(flush_seconds=30.0)
    other = await cluster.process()
    writer = await owner.create()
    stream = other.log.read(tenant=writer.tenant, log_id=writer.log_id)
    writer.append(b"first")
    assert [entry.payload for entry in await anext(stream)] == [b"first"]
    writer.append(b"second")
    assert [entry.payload for entry in await anext(stream)] == [b"second"]
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_reading_without_following_ends_with_what_is_there(
    cluster: Cluster, process: Process
) -> None:
    other = await cluster.process()
    writer = await process.create()
    writer.append(b"a")
    writer.append(b"b")
    await writer.visible(2)
    assert len(await process.read(writer, follow=False)) == 2
    assert len(await other.read(writer, follow=False)) == 2


async def test_a_log_of_another_tenant_does_not_exist(process: Process) -> None:
    writer = await process.create()
    writer.append(b"a")
    await writer.durable(1)
    with pytest.raises(LogNotFound):
        async for _ in process.log.read(tenant="other", log_id=writer.log_id):
            pass


async def test_nothing_follows_the_terminal_entry(process: Process) -> None:
    writer = await process.create()
    assert await writer.finish(b"end") == 1
    with pytest.raises(LogFinished):
        writer.append(b"more")
    with pytest.raises(LogFinished):
        await writer.finish(b"again")


async def test_what_the_caller_adds_to_the_finish_is_all_or_nothing(process: Process) -> None:
    writer = await process.create()
    writer.append(b"a")
    with pytest.raises(DatabaseError):
        await writer.finish(b"end", also=ending("refuse"))
    assert writer.append(b"b") == 2
    assert await writer.finish(b"end", also=ending("kept")) == 3
    assert await added(process) == ["kept"]
    assert [entry.payload for entry in await process.read(writer)] == [b"a", b"b", b"end"]


async def test_the_end_is_seen_when_what_it_waits_for_has_come(process: Process) -> None:
    writer = await process.create()
    writer.append(b"a")
    asked, come = asyncio.Event(), asyncio.Event()

    async def ready() -> None:
        asked.set()
        await come.wait()

    finishing = asyncio.create_task(writer.finish(b"end", also=ending("kept"), ready=ready))
    await asyncio.wait_for(asked.wait(), 10)
    assert await added(process) == []
    assert b"end" not in [entry.payload for entry in await process.read(writer, follow=False)]
    come.set()
    assert await finishing == 2
    assert await added(process) == ["kept"]
    assert [entry.payload for entry in await process.read(writer)] == [b"a", b"end"]


async def test_an_end_that_waits_for_what_does_not_come_is_none(process: Process) -> None:
    writer = await process.create()
    writer.append(b"a")

    async def ready() -> None:
        raise LookupError("it does not come")

    with pytest.raises(LookupError):
        await writer.finish(b"end", also=ending("void"), ready=ready)
    assert writer.append(b"b") == 2
    assert await writer.finish(b"end", also=ending("kept")) == 3
    assert await added(process) == ["kept"]
    assert [entry.payload for entry in await process.read(writer)] == [b"a", b"b", b"end"]


async def test_a_cancelled_finish_completes(process: Process) -> None:
    writer = await process.create()

    async def waits() -> bool:
        async with process.db.transaction("acme") as conn:
            return bool(
                await conn.fetchval(
                    "t", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                )
            )

    async with process.db.transaction("acme") as conn:
        await conn.execute("t", "SELECT pg_advisory_xact_lock(1)")
        task = asyncio.create_task(writer.finish(b"end", also=ending("wait")))
        await eventually(waits)
        task.cancel()
        await asyncio.wait([task])
    assert [entry.payload for entry in await process.read(writer)] == [b"end"]


async def test_a_discarded_log_takes_nothing_more(process: Process) -> None:
    writer = await process.create()
    writer.discard()
    with pytest.raises(Fenced):
        writer.append(b"a")


async def test_a_finished_log_is_folded_and_reads_the_same(
    cluster: Cluster, process: Process
) -> None:
    other = await cluster.process()
    writer = await process.create()
    for number in range(50):
        writer.append(b"%d" % number)
    await writer.finish(b"end")
    whole = await process.read(writer)

    async def folded() -> bool:
        async with process.db.transaction("acme") as conn:
            left = await conn.fetchval(
                "t", "SELECT count(*) FROM eventlog.entries WHERE log_id = $1", writer.log_id
            )
        return bool(left == 0)

    await eventually(folded)
    assert await other.read(writer) == whole
    assert await other.read(writer, after=20) == whole[20:]
    assert await other.read(writer, after=51) == []


async def test_many_writers_at_once_stay_gapless(cluster: Cluster, process: Process) -> None:
    other = await cluster.process()
    writers = [await process.create() for _ in range(40)]

    async def write(number: int) -> None:
        for index in range(30):
            sequence = writers[number].append(b"%d/%d" % (number, index))
            if index % 7 == number % 7:
                await writers[number].visible(sequence)
        await writers[number].finish(b"end")

    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(other.read(writer)) for writer in writers]
        for number in range(40):
            group.create_task(write(number))
    for number, read in enumerate(reads):
        entries = read.result()
        assert gapless(entries)
        assert [entry.payload for entry in entries] == [
            b"%d/%d" % (number, index) for index in range(30)
        ] + [b"end"]
