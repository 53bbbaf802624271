"""Looks that are due: one at a time for each resource, failures later."""

import asyncio

import pytest

from peregrine_operator.kubernetes import Key
from peregrine_operator.work import LONGEST_DELAY, Work

A, B = Key("Agent", "one", "a"), Key("Agent", "one", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def work(clock: Clock) -> Work:
    return Work(clock=clock)


async def none_is_due(work: Work) -> bool:
    taking = asyncio.ensure_future(work.take())
    for _ in range(5):
        await asyncio.sleep(0)
    due = taking.done()
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    return not due


async def test_ten_changes_are_one_look(work: Work) -> None:
    for _ in range(10):
        work.add(A)
    assert await work.take() == (A, 0.0)
    assert await none_is_due(work)


async def test_a_change_during_a_look_is_another_look_afterwards(work: Work) -> None:
    work.add(A)
    await work.take()
    work.add(A)
    assert await none_is_due(work)
    work.done(A)
    assert (await work.take())[0] == A


async def test_another_resource_does_not_wait(work: Work) -> None:
    work.add(A)
    work.add(B)
    assert (await work.take())[0] == A
    assert (await work.take())[0] == B


async def test_a_failure_comes_back_later_each_time_and_success_forgets(
    work: Work, clock: Clock
) -> None:
    delays = []
    for _ in range(10):
        work.add(A)
        await work.take()
        delay = work.done(A, failed=True)
        assert delay is not None
        delays.append(delay)
        clock.now += 1000.0
        assert (await work.take())[0] == A
        work.done(A, failed=True)
        clock.now += 1000.0
    assert delays[0] <= 0.5
    assert delays[0] < delays[1] < delays[2]
    assert max(delays) <= LONGEST_DELAY
    await work.take()
    assert work.done(A) is None
    work.add(A)
    await work.take()
    assert (work.done(A, failed=True) or 9.0) <= 0.5


async def test_the_delay_that_a_service_asks_for_is_kept(work: Work, clock: Clock) -> None:
    work.add(A)
    await work.take()
    assert work.done(A, failed=True, after=20.0) == 20.0
    clock.now += 19.0
    assert await none_is_due(work)
    clock.now += 1.0
    work.add(B)
    assert {(await work.take())[0], (await work.take())[0]} == {A, B}


async def test_a_change_does_not_wait_for_the_delay_of_a_failure(work: Work) -> None:
    work.add(A)
    await work.take()
    work.done(A, failed=True, after=20.0)
    work.add(A)
    assert (await work.take())[0] == A


async def test_what_is_due_later_is_waited_for() -> None:
    work = Work()
    work.add(A, after=0.02)
    assert (await work.take())[0] == A
