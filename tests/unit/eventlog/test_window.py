"""The window: what readers of this process are served from."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.kit.eventlog.entry import Entry
from peregrine.kit.eventlog.window import Window


def entry(sequence: int) -> Entry:
    return Entry(sequence, 1, b"%d" % sequence)


def test_entries_are_readable_only_once_revealed() -> None:
    window = Window(epoch=1, next_sequence=1)
    window.append(entry(1))
    window.append(entry(2))
    assert window.after(0) == []
    window.reveal(1)
    assert window.after(0) == [entry(1)]
    assert window.after(1) == []
    window.reveal(2)
    assert window.after(0) == [entry(1), entry(2)]


def test_a_window_that_begins_later_cannot_tell() -> None:
    window = Window(epoch=1, next_sequence=5)
    assert window.after(3) is None
    assert window.after(4) == []


async def test_whoever_waits_is_woken_by_what_came_after_its_look() -> None:
    window = Window(epoch=1, next_sequence=1)
    version = window.version
    window.extend([entry(1)])
    await window.moved(version)
    waiting = asyncio.create_task(window.moved(window.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    window.extend([entry(2)])
    async with asyncio.timeout(20):
        await waiting


async def test_those_who_stop_waiting_leave_nothing_behind() -> None:
    window = Window(epoch=1, next_sequence=1)
    waiting = asyncio.create_task(window.moved(window.version))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not window._waiting


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=30), st.integers(1, 16))
def test_a_window_is_the_contiguous_end_of_the_log(
    steps: list[tuple[int, bool]], keep: int
) -> None:
    window = Window(epoch=1, next_sequence=1, keep=keep)
    durable = 0
    for count, trim in steps:
        for _ in range(count):
            window.append(entry(window.next_sequence))
        window.reveal(window.next_sequence - 1)
        if trim:
            durable = window.visible
        window.trim(durable)
        assert window.first <= durable + 1
        assert window.next_sequence - window.first >= min(keep, window.visible)
        kept = window.slice(window.first, window.visible)
        assert [each.sequence for each in kept] == list(range(window.first, window.visible + 1))
    if durable:
        # What may go does go, in steps of half of what is kept.
        assert durable - window.first < keep + max(keep // 2, 1) + (window.visible - durable)
