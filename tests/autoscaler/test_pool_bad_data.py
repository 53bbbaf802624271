"""What an answer that is missing, wrong or partial does to a pool, kind by kind.

Each test plays what Prometheus or the cluster says to a pool of 20 that needs 10 and may shrink at
the next look: whoever took unknown for zero, or half of the workers for all of them, would.
"""

import math
from typing import Any

import pytest

from peregrine_operator import autoscale, signals
from peregrine_operator.pool_state import DOWN_WINDOW
from peregrine_operator.scaling import Decision, Pool
from peregrine_operator.signals import QUERIES, Answer, Failure, NoData
from tests.autoscaler.pool_samples import DIRECT, LOOK, Replay, answers, vector
from tests.autoscaler.pool_samples import signals as good

ERROR = NoData("error", "connection refused")
EVERYTHING: dict[str, Answer] = dict.fromkeys(QUERIES, ())


def ask(pool: Replay, **changes: Answer) -> Decision:
    """A look at answers of 20 workers with these changes."""
    given = answers(**{"workers": vector(20.0), **changes})
    return pool.look(signals.read(given, fast=pool.pool.tuning.fast, workers=pool.replicas))


def tempted(pool: Pool = DIRECT) -> Replay:
    """It has needed 10 of its 20 for five minutes."""
    found = Replay(replicas=20, pool=pool)
    for _ in range(62):
        ask(found)
    assert found.writes == []
    return found


def seen(workers: int) -> dict[str, Answer]:
    """All that the other workers of the 20 count is missing."""
    part = workers / 20
    counted = {"started_60s": 64.0, "busy_5m": 9600.0, "executions_5m": 19200.0, "inflight": 32.0}
    counted |= {f"arrived_{window}": 70.0 for window in ("10s", "15s", "60s")}
    found: dict[str, Answer] = {name: vector(part * value) for name, value in counted.items()}
    return {**found, "workers": vector(float(workers))}


def held(pool: Replay, reason: str, seconds: float = 1800.0, **changes: Answer) -> None:
    """Half an hour of it changes nothing, and the pool says why."""
    for _ in range(int(seconds / LOOK)):
        found = ask(pool, **changes)
        assert (found.write, found.hold) == (None, reason)
    assert (pool.replicas, found.desired) == (20, 20)
    assert not found.conditions["MetricsAvailable"].status
    assert found.conditions["Degraded"].status


def test_with_good_data_it_would_shrink_at_the_next_look() -> None:
    pool = tempted()
    assert ask(pool).write == 16


@pytest.mark.parametrize(
    "failing",
    [
        {"queued": Failure("connection refused")},
        {"demand_60s": Failure("timeout after 2 s")},
        {"inflight": Failure("503 Service Unavailable")},
        dict.fromkeys(QUERIES, Failure("connection refused")),
    ],
    ids=["refused", "timeout", "5xx", "all"],
)
def test_a_query_that_fails_holds_the_pool(failing: dict[str, Answer]) -> None:
    held(tempted(), "error", **failing)


def test_a_query_that_fails_three_times_degrades_the_pool_and_an_event_says_so_once() -> None:
    pool = tempted()
    told = [event.reason for _ in range(20) for event in pool.look(ERROR).events]
    assert told == ["Degraded"]
    pool = tempted()
    degraded = [pool.look(ERROR).conditions["Degraded"].status for _ in range(4)]
    assert degraded == [False, False, True, True]
    assert not ask(pool).conditions["Degraded"].status


@pytest.mark.parametrize(("fallback", "after"), [(15, 20), (20, 20), (25, 25), (100, 60)])
def test_queries_that_fail_for_two_minutes_bring_the_fallback_if_it_is_more(
    fallback: int, after: int
) -> None:
    pool = tempted(Pool(least=2, most=60, concurrency=4, mode="Direct", fallback=fallback))
    pool.looks(120, ERROR)
    assert pool.writes == []
    pool.looks(1800, ERROR)
    assert pool.replicas == after


@pytest.mark.parametrize(
    "missing",
    [EVERYTHING, {"inflight": ()}, {"demand_15s": ()}, {"busy_5m": ()}, {"workers": ()}],
    ids=["all", "gauge", "rate", "executions", "workers"],
)
def test_an_empty_answer_holds_the_pool_and_is_no_zero(missing: dict[str, Answer]) -> None:
    held(tempted(), "empty", **missing)


def test_a_zero_that_is_there_is_a_zero() -> None:
    pool = tempted()
    idle = {name: vector(0.0) for name in QUERIES if name not in ("workers", "waits_60s", "age")}
    assert ask(pool, **idle, waits_60s=vector(0.0, le="+Inf")).write == 16
    assert pool.last.conditions["MetricsAvailable"].status


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1.1e9])
@pytest.mark.parametrize("name", ["queued", "inflight", "started_60s", "busy_5m"])
def test_a_value_that_is_no_number_of_anything_holds_the_pool(name: str, value: float) -> None:
    held(tempted(), "nonfinite", seconds=300, **{name: vector(value)})


def test_more_series_than_one_hold_the_pool_as_an_invalid_query() -> None:
    pool = tempted()
    held(pool, "shape", queued=[*vector(1.0), *vector(2.0, job="other")])
    assert pool.last.conditions["MetricsAvailable"].reason == "InvalidQuery"


@pytest.mark.parametrize("age", [20.1, 60.0, 299.0])
def test_samples_older_than_twenty_seconds_hold_the_pool(age: float) -> None:
    held(tempted(), "stale", age=vector(age))


@pytest.mark.parametrize("workers", [0, 1, 9])
def test_less_than_half_of_the_workers_hold_the_pool(workers: int) -> None:
    held(tempted(), "coverage", **seen(workers))


@pytest.mark.parametrize("workers", [10, 19])
def test_half_of_the_workers_or_more_let_it_grow_and_never_shrink(workers: int) -> None:
    pool = tempted()
    for _ in range(360):
        assert ask(pool, **seen(workers)).write is None
    assert pool.last.hold == "partial"
    burst = {name: vector(200.0) for name in QUERIES if name.startswith("demand")}
    assert ask(pool, **{**seen(workers), **burst}).write == 32


def test_what_half_of_the_workers_count_is_doubled_and_what_callers_count_is_not() -> None:
    given = answers(**{**seen(10), "queued": vector(4.0), "waiting": vector(3.0)})
    found = signals.read(given, fast=15, workers=20)
    assert isinstance(found, signals.Signals)
    assert (found.queued, found.inflight, found.started_stable) == (4.0 * 2 + 3, 32.0, 64.0)
    assert (found.demand_fast, found.coverage) == (64.0, 0.5)


def test_the_fast_window_of_workers_counts_is_not_believed_while_their_number_settles() -> None:
    """Where callers count it is: their counters do not come and go with the workers."""
    for by_callers, after in ((False, 20), (True, 32)):
        pool = Replay(replicas=20)
        ask(pool)
        burst = good(64.0, demand_fast=200.0, by_callers=by_callers)
        pool.look(burst, ready=13)
        assert pool.replicas == after
        if not by_callers:
            pool.look(burst, ready=13)
            assert pool.replicas == 20
            pool.look(burst, ready=13)
            assert pool.replicas == 32


def test_without_a_ready_pod_the_replicas_stay_and_it_is_told_once() -> None:
    pool = tempted()
    told = [event.reason for _ in range(40) for event in pool.look(good(64.0), ready=0).events]
    assert (pool.writes, told) == ([], ["NoReadyPods"])
    assert pool.last.conditions["NoReadyPods"].status


def test_without_a_ready_pod_two_minutes_pass_before_it_is_told() -> None:
    pool = tempted()
    began = pool.now
    while not pool.look(good(64.0), ready=0).events:
        assert pool.now - began <= autoscale.UNREADY_TOO_LONG
    assert pool.now - LOOK - began == autoscale.UNREADY_TOO_LONG


def test_pods_without_a_node_for_a_minute_stop_it_from_asking_for_more() -> None:
    pool = tempted()
    for _ in range(20):
        pool.look(good(640.0), pending_since=pool.now - 61)
    assert pool.writes == []
    assert pool.last.conditions["CapacityBlocked"].status
    pool.look(good(640.0))
    assert pool.replicas == 60


def test_pods_without_a_node_for_less_than_a_minute_do_not() -> None:
    pool = tempted()
    pool.look(good(160.0), pending_since=pool.now - 59)
    assert pool.replicas == 25


def test_a_write_that_met_another_is_decided_again_from_what_is_found() -> None:
    """409: the former state and what the cluster says now; theirs stays."""
    pool = tempted()
    before, now = pool.state, pool.now
    assert ask(pool).write == 16
    again = Replay(replicas=13, now=now)
    again.state = before
    decision = again.look(good(64.0))
    assert decision.write is None
    assert [event.reason for event in decision.events] == ["ExternalOverride"]


def test_replicas_that_somebody_lowered_are_held_for_five_minutes() -> None:
    pool = tempted()
    pool.replicas = 5
    told = [event.reason for event in pool.look(good(64.0)).events]
    assert told == ["ExternalOverride"]
    pool.looks(295, good(64.0))
    assert pool.writes == []
    assert pool.last.conditions["ExternalOverride"].status
    pool.look(good(64.0))
    assert pool.replicas == 10


def test_replicas_that_somebody_raised_are_a_floor_for_ten() -> None:
    pool = tempted()
    pool.replicas = 30
    pool.looks(600, good(64.0))
    assert pool.writes == []
    pool.looks(600, good(64.0))
    assert pool.replicas < 30


def test_at_the_maximum_it_says_so_and_stays_there() -> None:
    pool = tempted()
    pool.looks(60, good(1000.0))
    assert pool.replicas == 60
    assert pool.last.conditions["ScalingLimited"].status
    assert not pool.look(good(64.0)).conditions["ScalingLimited"].status


@pytest.mark.parametrize(("away", "back"), [(1, 11), (2, 3), (3, 24), (9, 9), (12, 48)])
def test_data_that_comes_and_goes_for_half_an_hour_lowers_nothing(away: int, back: int) -> None:
    """Looks without data and with it in turn: what is back for a minute or more is trusted after
    five, unless a look or two were all that was missing."""
    pool = tempted()
    for look in range(360):
        if look % (away + back) < away:
            pool.look(ERROR)
        else:
            ask(pool)
    assert pool.writes == []
    assert pool.last.hold in ("error", "recovering", "window")


def test_a_minute_of_good_data_comes_before_lowering() -> None:
    pool = tempted()
    pool.look(ERROR)
    back = pool.now
    while not pool.writes:
        ask(pool)
    assert pool.now - LOOK - back == autoscale.STABLE


@pytest.mark.parametrize("seconds", [15, 30, 90, 1800])
def test_an_outage_of_three_looks_takes_the_whole_window_again(seconds: int) -> None:
    pool = tempted()
    pool.looks(seconds, ERROR)
    back = pool.now
    while not pool.writes:
        ask(pool)
    assert pool.now - LOOK - back == DOWN_WINDOW


def test_data_of_some_workers_only_earns_no_trust() -> None:
    pool = tempted()
    for _ in range(120):
        ask(pool, **seen(18))
    back = pool.now
    while not pool.writes:
        ask(pool)
    assert pool.now - LOOK - back == autoscale.STABLE


def test_data_that_comes_back_may_raise_at_once() -> None:
    pool = tempted()
    pool.looks(600, ERROR)
    pool.look(good(160.0))
    assert pool.replicas == 25


@pytest.mark.parametrize("reason", ["error", "empty", "nonfinite", "shape", "stale", "coverage"])
def test_every_reason_has_its_word_in_the_condition(reason: Any) -> None:
    found = tempted().look(NoData(reason, "what was wrong"))
    condition = found.conditions["MetricsAvailable"]
    assert (condition.status, condition.message) == (False, "what was wrong")
    assert condition.reason[0].isupper() and condition.reason.isalpha()
