"""When a restart is worth while."""

import pytest

from peregrine_operator.lease import Seen, may_take
from peregrine_operator.liveness import Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_loop_that_stands_still_is_sick(clock: Clock) -> None:
    health = Health(clock=clock)
    clock.now += 29.0
    assert health.sick() == ""
    clock.now += 2.0
    assert "loop" in health.sick()
    health.turn()
    assert health.sick() == ""


def test_each_loop_of_a_term_has_to_turn_while_it_lasts(clock: Clock) -> None:
    health = Health(clock=clock)
    health.lead(True)
    health.turn("pools")
    clock.now += 31.0
    health.turn()
    assert "the loop of pools" in health.sick()
    health.lead(False)
    assert health.sick() == ""
    health.lead(True)
    assert health.sick() == ""


def test_who_stands_by_has_to_be_able_to_read_the_lease(clock: Clock) -> None:
    health = Health(clock=clock)
    unread = 89.0
    health.lease_unread_for = lambda: unread
    assert health.sick() == ""
    unread = 91.0
    assert "the lease could not be read" in health.sick()
    health.lead(True)
    assert health.sick() == ""


def test_who_works_has_to_list_and_who_stands_by_has_not(clock: Clock) -> None:
    health = Health(clock=clock)
    clock.now += 1000.0
    health.turn()
    assert health.sick() == ""
    health.lead(True)
    clock.now += 89.0
    health.turn()
    assert health.sick() == ""
    clock.now += 2.0
    health.turn()
    assert "listed" in health.sick()
    health.listed = clock()
    assert health.sick() == ""
    clock.now += 500.0
    health.lead(False)
    health.turn()
    assert health.sick() == ""


def test_watches_that_keep_failing_are_sick(clock: Clock) -> None:
    health = Health(clock=clock)
    health.lead(True)
    failing = 0.0
    health.watches_failing_for = lambda: failing
    assert health.sick() == ""
    failing = 181.0
    assert "watches" in health.sick()


@pytest.mark.parametrize(
    ("seen", "now", "may"),
    [
        (None, 0.0, True),
        (Seen("1", "", 15.0, 0.0), 0.0, True),
        (Seen("1", "me", 15.0, 0.0), 1.0, True),
        (Seen("1", "other", 15.0, 0.0), 15.0, False),
        (Seen("1", "other", 15.0, 0.0), 15.1, True),
        (Seen("1", "other", 60.0, 0.0), 15.1, False),
    ],
)
def test_a_lease_is_taken_when_nobody_holds_it(seen: Seen | None, now: float, may: bool) -> None:
    assert may_take(seen, "me", now) is may
