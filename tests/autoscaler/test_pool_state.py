"""What is remembered of a pool is in its status, and a process that starts there forgets nothing.

A restart reads the status, as JSON, and enters what runs as a recommendation of that moment. So it
goes on with all that lasts (panic, an outage, a hold, a floor, trust) and lowers nothing for five
minutes, whenever it comes.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peregrine_operator import pool_state
from peregrine_operator.pool_state import DOWN_WINDOW, State
from peregrine_operator.scaling import Pool
from peregrine_operator.signals import NoData
from tests.autoscaler import golden
from tests.autoscaler.pool_samples import DIRECT, LOOK, NOW, Replay, signals

ERROR = NoData("error", "connection refused")
QUIET = signals(16.0)


def restarted(pool: Replay) -> Replay:
    """By a new process that has nothing but the status."""
    status = json.loads(json.dumps(pool.state.to_status()))
    state = pool_state.from_status(status)
    assert state == pool.state
    fresh = Replay(replicas=pool.replicas, pool=pool.pool, now=pool.now)
    fresh.state = pool_state.resume(state, replicas=pool.replicas, now=pool.now)
    return fresh


def test_state_survives_a_status() -> None:
    pool = Replay(replicas=20)
    pool.looks(420, QUIET)
    pool.replicas = 9
    pool.look(ERROR)
    status = pool.state.to_status()
    assert pool_state.from_status(status) == pool.state
    assert len(str(status)) < 1500


@pytest.mark.parametrize(
    "status",
    [None, {}, {"window": 5}, {"window": [[1]]}, {"panic_until": "NaN"}, {"replicas": "many"}],
)
def test_a_status_that_cannot_be_read_is_none(status: Any) -> None:
    assert pool_state.from_status(status) is None


def test_quiet_pools_are_saved_every_half_minute_and_changes_at_once() -> None:
    state = State(replicas=3, wanted=3, good_at=5.0)
    later = replace(state, good_at=10.0, queued=4.0)
    assert not pool_state.worth_saving(state.to_status(), later, since=29.0)
    assert pool_state.worth_saving(state.to_status(), later, since=30.0)
    panic = replace(later, replicas=9)
    assert pool_state.worth_saving(state.to_status(), panic, since=0.0)


def test_a_restart_without_state_takes_what_runs_as_a_recommendation() -> None:
    pool = Replay(replicas=20)
    pool.looks(295, QUIET)
    assert pool.writes == []


@pytest.mark.parametrize("after", [5, 60, 295, 305, 310, 370, 430, 550, 800])
def test_a_restart_lowers_nothing_for_five_minutes(after: int) -> None:
    """Before the first lowering, at it, between two, and after the last."""
    pool = Replay(replicas=20)
    pool.looks(after, QUIET)
    again = restarted(pool)
    again.looks(DOWN_WINDOW, QUIET)
    assert again.writes == []
    again.looks(1200, QUIET)
    assert again.replicas == 3


@pytest.mark.parametrize("name", sorted(golden.STREAMS))
@pytest.mark.parametrize("offset", [0, 7, 31])
def test_a_restart_anywhere_in_a_recorded_stream_raises_as_it_would_have(
    name: str, offset: int
) -> None:
    """Every 16th look is a new process's; what it asks for is never less than without."""
    plain = [decided for _, _, decided in golden.replay(name)]
    broken = [decided for _, _, decided in golden.replay(name, restarts=range(offset, 999, 16))]
    for late, early in zip(broken, plain, strict=True):
        assert late["desired"] >= early["desired"]
        if "ScaledUp" in early["events"]:
            assert late == early


# What lasts goes on.


def panicking(pool: Replay) -> None:
    pool.look(signals(16.0, demand_fast=200.0))


def overridden(pool: Replay) -> None:
    pool.replicas = 30
    pool.look(QUIET)


def in_an_outage(pool: Replay) -> None:
    pool.looks(100, ERROR)


def after_an_outage(pool: Replay) -> None:
    in_an_outage(pool)
    pool.looks(30, QUIET)


def blocked(pool: Replay) -> None:
    pool.look(signals(200.0), pending_since=pool.now - 100)


@pytest.mark.parametrize("happens", [panicking, overridden, in_an_outage, after_an_outage, blocked])
def test_a_restart_goes_on_with_what_lasts(happens: Callable[[Replay], None]) -> None:
    """Decision by decision as without it, for the five minutes in which it may not lower."""
    plain, broken = Replay(replicas=20), Replay(replicas=20)
    for pool in (plain, broken):
        pool.looks(60, QUIET)
        happens(pool)
    broken = restarted(broken)
    for sample in [QUIET] * 20 + [ERROR] * 15 + [signals(120.0)] * 20:
        one, other = plain.look(sample), broken.look(sample)
        assert (one.write, one.hold, one.conditions) == (other.write, other.hold, other.conditions)
        assert [event.reason for event in one.events] == [event.reason for event in other.events]


def test_a_restart_in_an_outage_does_not_begin_to_count_anew() -> None:
    pool = Replay(replicas=10, pool=replace(DIRECT, fallback=15))
    pool.looks(100, ERROR)
    again = restarted(pool)
    told = [event.reason for _ in range(4) for event in again.look(ERROR).events]
    assert (again.writes, told) == ([], [])
    assert again.look(ERROR).write == 15


def test_a_restart_keeps_the_floor_of_who_raised_the_pool() -> None:
    pool = Replay(replicas=20)
    pool.looks(600, QUIET)
    pool.replicas = 30
    pool.look(QUIET)
    began, again = pool.now - LOOK, restarted(pool)
    while not again.writes:
        again.look(QUIET)
    assert again.now - LOOK - began >= 600


def test_a_restart_knows_how_long_an_execution_takes() -> None:
    pool = Replay(replicas=10)
    pool.look(signals(64.0))
    again = restarted(pool)
    again.looks(60, signals(64.0, service=None))
    assert again.writes == []
    again.looks(60, signals(64.0, service=50.0))
    assert again.state.service <= 0.5 * 2 ** (120 / 60)


def test_a_restart_remembers_a_jump_that_awaits_confirmation() -> None:
    pool = Replay(replicas=3)
    pool.look(QUIET)
    burst = signals(16.0, demand_fast=160.0)
    assert pool.look(burst).write == 12
    assert restarted(pool).look(burst, ready=3).write == 25


def test_a_restart_forgets_no_idleness() -> None:
    idle = signals(0.0, service=None)
    pool = Replay(replicas=2, pool=Pool(least=0, most=9, concurrency=4, mode="Direct"))
    pool.pool = replace(pool.pool, scale_to_zero=True)
    pool.looks(895, idle)
    again = restarted(pool)
    again.looks(310, idle)
    assert again.now - NOW < 1300
    assert again.replicas == 0
