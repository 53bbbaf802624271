"""What the autoscaler decides: up at once, down slowly, never on what it does not know."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from peregrine_operator.scaling import Pause, Pool
from peregrine_operator.signals import NoData
from tests.autoscaler.pool_samples import DIRECT, LOOK, NOW, Replay, signals

ERROR = NoData("error", "connection refused")


def test_a_steady_pool_of_the_right_size_is_left_alone() -> None:
    pool = Replay(replicas=10)
    pool.looks(1200, signals(64.0))
    assert pool.writes == []
    assert pool.last.reason == "Steady"


@pytest.mark.parametrize(
    ("demand", "workers"),
    [(0.0, 2), (1.0, 2), (16.0, 3), (64.0, 10), (100.0, 16), (160.0, 25), (10_000.0, 60)],
)
def test_what_it_asks_for_follows_the_offered_load(demand: float, workers: int) -> None:
    pool = Replay(replicas=2)
    pool.looks(60, signals(demand))
    assert pool.replicas == workers


def test_small_pools_have_room_for_the_spread_of_their_load() -> None:
    """4 busy slots on average take 6, and not 5: the root of the load on top."""
    pool = Replay(replicas=2, pool=replace(DIRECT, concurrency=1))
    pool.looks(30, signals(8.0))
    assert pool.replicas == 6


# Up.


def test_a_step_is_followed_within_two_looks_and_not_by_more_than_four_times_at_first() -> None:
    pool = Replay(replicas=3)
    pool.look(signals(16.0))
    burst = signals(16.0, demand_fast=160.0)
    assert pool.look(burst).write == 12
    assert pool.last.reason == "Confirming"
    assert pool.look(burst, ready=3).write == 25
    assert pool.last.reason == "Panic"


def test_one_wild_sample_does_not_size_the_fleet() -> None:
    pool = Replay(replicas=3)
    pool.look(signals(16.0, demand_fast=5000.0))
    assert pool.replicas == 12
    pool.looks(120, signals(16.0), ready=3)
    assert pool.replicas == 12


def test_noise_in_the_fast_window_is_not_followed() -> None:
    pool = Replay(replicas=10)
    pool.look(signals(64.0, demand_fast=70.0))
    assert pool.writes == []
    pool.look(signals(64.0, demand_fast=80.0))
    assert pool.replicas == 13


def test_panic_lasts_a_minute_after_its_last_cause_and_nothing_is_lowered_in_it() -> None:
    pool = Replay(replicas=20)
    pool.looks(400, signals(64.0), draining=1)
    pool.look(signals(64.0, demand_fast=300.0), ready=3)
    assert pool.last.figures["panic"] == 1
    assert pool.last.state.panic_until == pytest.approx(pool.now - LOOK + 60)


def test_a_queue_adds_what_empties_it_up_to_the_profiles_cap() -> None:
    for profile, workers in (("balanced", 14), ("latency", 21)):
        pool = Replay(replicas=10, pool=replace(DIRECT, profile=profile))  # type: ignore[arg-type]
        pool.state = replace(pool.state, queued=1000.0)
        pool.look(signals(64.0, queued=1000.0))
        assert pool.replicas == workers, profile


def test_a_usual_queue_adds_nothing() -> None:
    pool = Replay(replicas=10)
    pool.looks(30, signals(64.0, queued=10.0))
    assert pool.writes == []


def test_a_queue_that_stays_slow_adds_one_worker_after_three_looks() -> None:
    pool = Replay(replicas=10)
    slow = signals(64.0, queued=9.0, wait_p95=0.6)
    pool.looks(3 * LOOK, slow)
    assert pool.writes == [(2 * LOOK, 11)]
    assert pool.last.reason == "SlowQueue"


def test_a_slow_minute_behind_a_queue_that_has_gone_adds_nothing() -> None:
    pool = Replay(replicas=10)
    pool.looks(60, signals(64.0, queued=0.0, wait_p95=0.6))
    assert pool.writes == []


def test_long_executions_count_by_what_is_in_flight() -> None:
    pool = Replay(replicas=10, pool=replace(DIRECT, expected_service=90.0))
    pool.state = replace(pool.state, service=90.0, service_at=NOW)
    pool.looks(10, signals(0.1, inflight=64.0, service=90.0))
    assert pool.replicas == 20


def test_the_time_of_an_execution_may_only_double_in_a_minute() -> None:
    pool = Replay(replicas=10)
    pool.look(signals(64.0))
    pool.looks(60, signals(64.0, service=50.0))
    assert pool.state.service == pytest.approx(1.0)


def test_without_enough_executions_the_last_known_time_counts() -> None:
    pool = Replay(replicas=10)
    pool.look(signals(64.0))
    pool.looks(60, signals(64.0, service=None))
    assert pool.writes == []
    fresh = Replay(replicas=2)
    fresh.looks(20, signals(64.0, service=None))
    assert fresh.replicas == 10


# Down.


def quiet(seconds: float, start: int = 20, **cluster: Any) -> Replay:
    """A pool of 20 that needs 3, after so many seconds."""
    pool = Replay(replicas=start)
    pool.looks(seconds, signals(16.0), **cluster)
    return pool


def test_down_takes_five_minutes_and_then_a_fifth_a_minute() -> None:
    pool = quiet(300)
    assert pool.writes == []
    pool.looks(300, signals(16.0))
    assert [replicas for _, replicas in pool.writes] == [16, 12, 9, 7, 5]
    times = [time for time, _ in pool.writes]
    assert all(b - a >= 60 for a, b in itertools.pairwise(times))


def test_it_goes_to_the_highest_of_what_was_recommended_in_five_minutes() -> None:
    pool = Replay(replicas=20)
    pool.looks(250, signals(16.0))
    pool.look(signals(100.0))
    pool.looks(300, signals(16.0))
    assert pool.replicas == 16


@pytest.mark.parametrize(("replicas", "after"), [(11, 11), (12, 10), (3, 3)])
def test_a_tenth_of_the_pool_is_not_worth_a_change(replicas: int, after: int) -> None:
    pool = Replay(replicas=replicas)
    pool.looks(900, signals(64.0 if replicas > 9 else 16.0))
    assert pool.replicas == after


def test_it_does_not_stop_where_the_rest_would_not_be_worth_a_change() -> None:
    """From 33 a fifth leads to 26, from where 25 would never be reached."""
    pool = Replay(replicas=33)
    pool.looks(1500, signals(160.0))
    assert [replicas for _, replicas in pool.writes] == [28, 25]


@pytest.mark.parametrize(
    "hinders",
    [{"draining": 1}, {"pause": Pause(scale_in=True)}, {"conflict": "HorizontalPodAutoscaler x"}],
)
def test_nothing_is_lowered_while(hinders: dict[str, Any]) -> None:
    assert quiet(1200, **hinders).writes == []


def test_partial_coverage_raises_and_does_not_lower() -> None:
    pool = Replay(replicas=20)
    pool.looks(1200, signals(16.0, coverage=0.9))
    assert pool.writes == []
    pool.look(signals(200.0, coverage=0.9))
    assert pool.replicas == 32


def test_what_was_executed_is_a_second_opinion_before_lowering() -> None:
    """Callers that are not scraped any more do not shrink a busy pool."""
    pool = Replay(replicas=20)
    pool.looks(1200, signals(16.0, started_stable=128.0))
    assert pool.writes == []


def test_zero_takes_leave_and_a_quarter_of_an_hour_without_a_call() -> None:
    idle = signals(0.0, service=None)
    kept = Replay(replicas=2)
    kept.looks(3600, idle)
    assert kept.replicas == 2
    pool = Replay(replicas=2, pool=replace(DIRECT, least=0, scale_to_zero=True))
    pool.looks(895, idle)
    assert pool.replicas == 1
    pool.looks(600, idle)
    assert pool.replicas == 0
    pool.looks(600, idle)
    assert pool.replicas == 0
    pool.look(signals(4.0, service=None))
    assert pool.replicas >= 1


# Others who write.


def test_who_changes_the_replicas_is_obeyed_for_five_minutes() -> None:
    pool = Replay(replicas=10)
    pool.look(signals(64.0))
    pool.replicas = 4
    assert [event.reason for event in pool.look(signals(64.0)).events] == ["ExternalOverride"]
    pool.looks(290, signals(64.0))
    assert pool.replicas == 4
    assert pool.last.conditions["ExternalOverride"].status
    pool.looks(15, signals(64.0))
    assert pool.replicas == 10
    assert not pool.last.conditions["ExternalOverride"].status


def test_who_raises_them_is_not_undercut_for_ten() -> None:
    pool = quiet(600)
    pool.replicas = 30
    pool.looks(595, signals(16.0))
    assert pool.replicas == 30
    pool.looks(700, signals(16.0))
    assert pool.replicas < 30


def test_another_autoscaler_on_the_target_stops_the_writes_not_the_thinking() -> None:
    pool = Replay(replicas=3)
    found = pool.looks(30, signals(160.0), conflict="ScaledObject tools")
    assert pool.writes == []
    assert found.desired == 25
    assert found.conditions["Conflicted"].status


def test_observing_follows_what_it_would_have_done() -> None:
    pool = Replay(replicas=20, pool=replace(DIRECT, mode="Observe"))
    pool.looks(1800, signals(16.0))
    assert pool.writes == []
    assert pool.last.desired == 3


def test_a_change_while_only_observing_is_no_override() -> None:
    pool = Replay(replicas=20, pool=replace(DIRECT, mode="Observe"))
    pool.look(signals(64.0))
    pool.replicas = 7
    assert pool.look(signals(64.0)).events == ()


# Pause.


@pytest.mark.parametrize(
    ("annotations", "pause"),
    [
        ({}, Pause()),
        ({"peregrine.dev/paused": "true"}, Pause(everything=True)),
        ({"peregrine.dev/paused": "yes"}, Pause(everything=True)),
        ({"peregrine.dev/paused": "false"}, Pause()),
        ({"peregrine.dev/paused-replicas": "7"}, Pause(replicas=7)),
        ({"peregrine.dev/paused-scale-in": "true"}, Pause(scale_in=True)),
        ({"peregrine.dev/paused-scale-out": ""}, Pause(scale_out=True)),
    ],
)
def test_pause_annotations(annotations: dict[str, str], pause: Pause) -> None:
    assert Pause.of(annotations) == pause


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "", "99999999"])
def test_a_number_of_replicas_that_is_none_pauses_everything(text: str) -> None:
    found = Pause.of({"peregrine.dev/paused-replicas": text})
    assert found.everything and found.problem and found.replicas is None


def test_paused_nothing_is_written_and_afterwards_all_is_as_before() -> None:
    pool = Replay(replicas=3)
    pool.looks(60, signals(160.0), pause=Pause(everything=True))
    assert pool.writes == []
    assert pool.last.conditions["Paused"].status
    pool.looks(10, signals(160.0))
    assert pool.replicas == 25


def test_paused_at_a_number_it_is_written_once_and_kept() -> None:
    pool = Replay(replicas=10)
    pool.looks(60, signals(160.0), pause=Pause(replicas=5))
    assert [replicas for _, replicas in pool.writes] == [5]
    assert pool.looks(30, signals(160.0), pause=Pause(replicas=1000)).write is None
    assert pool.replicas == 60


def test_scale_out_can_be_paused_alone() -> None:
    pool = Replay(replicas=10)
    pool.looks(60, signals(160.0), pause=Pause(scale_out=True))
    assert pool.writes == []
    assert pool.last.reason == "Paused"


@pytest.mark.parametrize("changes", [{"least": 5, "most": 4}, {"most": 0}, {"concurrency": 0}])
def test_a_pool_that_cannot_be_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        Pool(**{"least": 0, "most": 10, "concurrency": 4, **changes})  # type: ignore[arg-type]
