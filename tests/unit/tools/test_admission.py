"""Admission: bounds, priorities, refusal by estimated wait, and nothing lost on cancellation."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peregrine.tools.admission import Admission, Lane, Overloaded


def admission(slots: int = 2, max_wait: float = 60.0, max_queue: int = 100) -> Admission:
    return Admission(slots=slots, max_wait=max_wait, max_queue=max_queue)


async def queued(gate: Admission, lane: Lane, priority: int = 0) -> "asyncio.Task[None]":
    """A call that waits."""
    before = gate.queued
    task = asyncio.create_task(gate.enter(lane, priority=priority))
    await turn_of_the_loop()
    assert gate.queued == before + 1
    return task


async def turn_of_the_loop() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_free_place_is_taken_at_once() -> None:
    gate = admission(slots=2)
    lane = gate.open_lane(10)
    await gate.enter(lane)
    await gate.enter(lane)
    assert (gate.in_flight, lane.in_flight, gate.queued) == (2, 2, 0)
    gate.leave(lane)
    assert (gate.in_flight, lane.in_flight) == (1, 1)


async def test_the_highest_priority_goes_first_and_equals_in_order() -> None:
    gate = admission(slots=1)
    lane, other = gate.open_lane(10), gate.open_lane(10)
    await gate.enter(lane)
    order: list[str] = []
    waiting = []
    for name, where, priority in (
        ("low", lane, -5),
        ("first", lane, 0),
        ("second", other, 0),
        ("high", other, 5),
    ):
        task = await queued(gate, where, priority)
        task.add_done_callback(lambda _, name=name: order.append(name))
        waiting.append((task, where))
    gate.leave(lane)
    for _ in range(4):
        await turn_of_the_loop()
        where = {"low": lane, "first": lane, "second": other, "high": other}[order[-1]]
        gate.leave(where)
    assert order == ["high", "first", "second", "low"]
    assert (gate.in_flight, gate.queued) == (0, 0)


async def test_a_full_lane_stands_in_nobodys_way() -> None:
    gate = admission(slots=2)
    narrow, wide = gate.open_lane(1), gate.open_lane(10)
    await gate.enter(narrow)
    blocked = await queued(gate, narrow, priority=100)
    await gate.enter(wide)
    assert gate.in_flight == 2
    gate.leave(narrow)
    await blocked
    assert (narrow.in_flight, wide.in_flight) == (1, 1)


async def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    gate = admission(slots=1, max_wait=2.0)
    lane = gate.open_lane(10)
    for _ in range(200):
        lane.took(1.0)
    await gate.enter(lane)
    first = await queued(gate, lane)
    with pytest.raises(Overloaded) as caught:
        await asyncio.wait_for(gate.enter(lane, limit=1.5), 0.1)
    assert 0.4 < caught.value.retry_after < 1.1
    # One that goes before the waiting one waits less.
    second = await queued(gate, lane, priority=1)
    for task in (first, second):
        task.cancel()
    await asyncio.wait([first, second])
    assert gate.queued == 0


async def test_the_wait_ends_at_its_limit_when_the_estimate_was_too_good() -> None:
    gate = admission(slots=1, max_wait=0.05)
    lane = gate.open_lane(10)
    for _ in range(200):
        lane.took(0.001)
    await gate.enter(lane)
    with pytest.raises(Overloaded):
        await gate.enter(lane)
    assert gate.queued == 0
    gate.leave(lane)
    assert gate.in_flight == 0


async def test_the_queue_is_bounded_however_short_its_calls_are() -> None:
    gate = admission(slots=1, max_queue=1)
    lane = gate.open_lane(10)
    for _ in range(200):
        lane.took(0.0)
    await gate.enter(lane)
    waiting = await queued(gate, lane)
    with pytest.raises(Overloaded):
        await gate.enter(lane)
    gate.leave(lane)
    await waiting


async def test_a_call_given_up_in_the_moment_of_admission_gives_its_place_back() -> None:
    gate = admission(slots=1)
    lane = gate.open_lane(10)
    await gate.enter(lane)
    waiting = await queued(gate, lane)
    gate.leave(lane)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert (gate.in_flight, lane.in_flight, gate.queued) == (0, 0, 0)


async def test_what_keeps_its_place_gives_back_the_slot() -> None:
    gate = admission(slots=1)
    stuck, other = gate.open_lane(1), gate.open_lane(1)
    await gate.enter(stuck)
    gate.free_slot()
    await gate.enter(other)
    gate.leave(other)
    waiting = await queued(gate, stuck)
    gate.free_place(stuck)
    await waiting
    gate.leave(stuck)
    assert (gate.in_flight, stuck.in_flight) == (0, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_flood_of_important_calls_starves_nobody() -> None:
    clock = Clock()
    gate = Admission(slots=1, max_wait=60, max_queue=100, aging=0.5, clock=clock)
    lane = gate.open_lane(10)
    await gate.enter(lane)
    low = await queued(gate, lane, -100)
    started = 0
    waiting = [await queued(gate, lane, 100)]
    while not low.done():
        waiting.append(await queued(gate, lane, 100))
        clock.now += 0.1
        gate.leave(lane)
        await turn_of_the_loop()
        started += 1
    # Five starts until it is overdue, and then the fourth is its own.
    assert started == 8
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-3, 3), st.integers(0, 3)),
        min_size=1,
        max_size=40,
    ),
)
def test_nobody_is_passed_by_one_that_came_later_and_is_no_more_important(
    slots: int, lanes: list[int], calls: list[tuple[int, int, int]]
) -> None:
    async def scenario() -> None:
        clock = Clock()
        gate = Admission(slots=slots, max_wait=1e6, max_queue=100, aging=1.0, clock=clock)
        opened = [gate.open_lane(concurrency) for concurrency in lanes]
        running: list[Lane] = []
        waiting: dict[int, tuple[Lane, int]] = {}

        async def one(number: int, lane: Lane, priority: int) -> None:
            waiting[number] = lane, priority
            await gate.enter(lane, priority=priority)
            del waiting[number]
            for other, (where, importance) in waiting.items():
                could_run = where.in_flight < where.concurrency or where is lane
                assert not (could_run and other < number and importance >= priority)
            running.append(lane)

        tasks = []
        for number, (which, priority, ended) in enumerate(calls):
            lane = opened[which % len(opened)]
            tasks.append(asyncio.create_task(one(number, lane, priority)))
            await turn_of_the_loop()
            clock.now += 0.3
            for _ in range(ended):
                if running:
                    gate.leave(running.pop(0))
                    await turn_of_the_loop()
        while running:
            gate.leave(running.pop(0))
            await turn_of_the_loop()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=40
    ),
)
def test_bounds_hold_and_nothing_is_lost(
    slots: int, lanes: list[int], calls: list[tuple[int, int, bool]]
) -> None:
    async def scenario() -> None:
        gate = admission(slots=slots)
        opened = [gate.open_lane(concurrency) for concurrency in lanes]
        running: list[Lane] = []
        admitted = 0

        async def one(lane: Lane, priority: int) -> None:
            nonlocal admitted
            await gate.enter(lane, priority=priority)
            admitted += 1
            running.append(lane)
            assert gate.in_flight <= slots
            assert lane.in_flight <= lane.concurrency

        tasks = []
        for number, (which, priority, cancel) in enumerate(calls):
            task = asyncio.create_task(one(opened[which % len(opened)], priority))
            tasks.append(task)
            await turn_of_the_loop()
            if cancel and number:
                tasks[number // 2].cancel()
            if number % 3 == 2 and running:
                gate.leave(running.pop(0))
        while not all(task.done() for task in tasks) or running:
            await turn_of_the_loop()
            assert running, "a call waits although nothing runs"
            gate.leave(running.pop(0))
            await turn_of_the_loop()
        assert admitted == sum(not task.cancelled() for task in tasks)
        assert (gate.in_flight, gate.queued) == (0, 0)

    asyncio.run(scenario())
