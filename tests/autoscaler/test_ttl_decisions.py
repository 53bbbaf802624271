"""The rule for times to live, case by case."""

from dataclasses import replace

import pytest

from peregrine_operator import ttl
from peregrine_operator.changes import BUCKETS, Ages
from peregrine_operator.evidence import Sample
from peregrine_operator.ttl import NoData, Reason, State
from tests.autoscaler.ttl_samples import NOW, Tuning, ages, policy, sample


def ttls(tuning: Tuning) -> list[float]:
    return [decision.ttl for decision in tuning.decisions]


def test_a_step_needs_two_minutes_that_agree_and_is_a_factor_of_two() -> None:
    tuning = Tuning(ttl_=20.0)
    reasons = [decision.reason for decision in tuning.ticks(5)]
    assert reasons[:3] == [Reason.AGREEING, Reason.LENGTHENED, Reason.LENGTHENED]
    assert ttls(tuning) == [20.0, 40.0, 80.0, 80.0, 80.0]
    assert reasons[3:] == [Reason.CHEAPEST, Reason.CHEAPEST]


def test_every_decision_says_why() -> None:
    decision = Tuning(ttl_=20.0).ticks(2)[-1]
    assert decision.message == (
        "20 s to 40 s: 0.4% of answers stale at 20 s (bound 5.0%), a change every 14.8 min; "
        "best is 80 s: 0.439 s a request against 0.721 s"
    )
    assert (decision.best, decision.apply, decision.reason) == (80.0, True, "Lengthened")
    assert decision.stale_share == pytest.approx(0.004, abs=0.001)
    assert decision.rate is not None
    assert 1.0 / decision.rate.likely == pytest.approx(900.0, rel=0.05)


def test_what_is_stale_beyond_twice_the_bound_is_shortened_at_once_and_far_enough() -> None:
    tuning = Tuning(ttl_=1280.0)
    decision = tuning.tick()
    assert (decision.reason, decision.ttl) == (Reason.EMERGENCY, 80.0)
    assert tuning.tick().stale_share == pytest.approx(0.033, abs=0.005)


def test_what_is_stale_a_little_beyond_the_bound_is_shortened_by_a_step() -> None:
    tuning = Tuning(ttl_=160.0)
    assert [decision.reason for decision in tuning.ticks(3)] == [
        Reason.AGREEING,
        Reason.SHORTENED,
        Reason.CHEAPEST,
    ]
    assert ttls(tuning) == [160.0, 80.0, 80.0]


def test_the_bound_comes_before_the_cost() -> None:
    cheap_to_be_stale = {"stale_cost": 0.0, "stale_share": 0.05}
    assert Tuning(ttl_=80.0, **cheap_to_be_stale).ticks(10)[-1].ttl == 80.0


@pytest.mark.parametrize(
    ("given", "world", "end"),
    [
        ({"stale_cost": 0.0, "stale_share": 1.0}, {}, 20480.0),  # staleness costs nothing
        ({}, {"change_every": 0.5, "compared_at": 5.0}, 5.0),  # always another value
        ({"lowest": 40.0}, {"change_every": 0.5, "compared_at": 5.0}, 40.0),
        ({"highest": 60.0}, {"change_every": 1e9}, 40.0),
        ({"stale_cost": 0.0, "stale_share": 1.0, "highest": 640.0}, {}, 640.0),
    ],
)
def test_at_the_ends_of_the_scales_it_goes_to_the_ends_of_the_grid(
    given: dict[str, float], world: dict[str, float], end: float
) -> None:
    assert Tuning(ttl_=40.0, **given).ticks(20, **world)[-1].ttl == end


@pytest.mark.parametrize("start", [5.0, 40.0, 640.0, 20480.0])
def test_when_staleness_costs_nothing_the_longest_is_reached_from_anywhere(start: float) -> None:
    tuning = Tuning(ttl_=start, stale_cost=0.0, stale_share=1.0)
    assert tuning.ticks(16)[-1].ttl == 20480.0


@pytest.mark.parametrize("start", [5.0, 40.0, 640.0, 20480.0])
def test_when_values_always_change_the_shortest_is_reached_from_anywhere(start: float) -> None:
    tuning = Tuning(ttl_=start)
    assert tuning.ticks(16, change_every=0.1, compared_at=5.0)[-1].ttl == 5.0


def test_values_that_never_change_live_longer_the_longer_that_is_seen() -> None:
    tuning = Tuning(ttl_=20.0)
    tuning.ticks(60, change_every=1e12)
    assert ttls(tuning) == sorted(ttls(tuning))
    assert tuning.ttl >= 2560.0


def test_without_five_changes_seen_nothing_is_shortened() -> None:
    tuning = Tuning(ttl_=5120.0)
    decisions = tuning.ticks(10, compared=6.0, change_every=50_000.0)
    assert {decision.ttl for decision in decisions} == {5120.0}
    assert Reason.THIN in {decision.reason for decision in decisions}


@pytest.mark.parametrize(
    "few", [{"keys": 4}, {"compared": 0.5}, {"compared": 0.0}], ids=["requests", "looks", "none"]
)
def test_too_few_observations_hold(few: dict[str, float]) -> None:
    decision = Tuning(ttl_=1280.0).tick(**few)
    assert (decision.reason, decision.ttl, decision.apply) == (Reason.THIN, 1280.0, False)


def spoilt(name: str, value: float) -> Sample:
    good = sample(now=NOW + 60.0)
    match name:
        case "a ghost":
            return replace(good, ghost_misses={**good.ghost_misses, 40.0: value})
        case "an age":
            row = [*good.ghost_hit_ages[40.0][:-1], value]
            return replace(good, ghost_hit_ages={**good.ghost_hit_ages, 40.0: row})
        case "a look":
            return replace(good, changed=Ages((value,) * BUCKETS, 1.0))
    return replace(good, **{name: value})


BAD = [
    ("down", NoData("down: connection refused")),
    ("empty", NoData("empty: no series")),
    ("all zero", replace(sample(keys=0, now=NOW + 60.0), requests=0.0)),
    ("stale", sample(now=NOW - 300.0)),
    ("of the future", sample(now=NOW + 3600.0)),
    ("no ghosts", replace(sample(now=NOW + 60.0), ghost_misses={}, ghost_hit_ages={})),
    ("no time", sample(now=NOW + 60.0, seconds=0.0)),
    *(
        (f"{what} is {value}", spoilt(what, value))
        for what in ("ghost_requests", "a ghost", "an age", "a look", "misses", "requests", "time")
        for value in (float("nan"), float("inf"), float("-inf"), -1.0)
        if (what, value) != ("time", -1.0)
    ),
    ("more ghosts than requests", spoilt("a ghost", 1e6)),
]


@pytest.mark.parametrize("bad", [case for _, case in BAD], ids=[name for name, _ in BAD])
def test_bad_data_changes_nothing_and_says_so(bad: Sample | NoData) -> None:
    # Far too long, and far too short: good data would change both at once or soon.
    for start in (1280.0, 20.0):
        tuning = Tuning(ttl_=start)
        known = tuning.state.evidence
        decision = tuning.tick(bad)
        assert (decision.ttl, decision.apply, decision.reason) == (start, False, Reason.NO_DATA)
        assert decision.state.evidence == known
        assert "nothing changes" in decision.message


def test_after_bad_data_five_good_minutes_pass_before_anything_moves() -> None:
    tuning = Tuning(ttl_=1280.0)
    tuning.tick(NoData("down"))
    reasons = [decision.reason for decision in tuning.ticks(5)]
    assert reasons == [Reason.SETTLING] * 4 + [Reason.EMERGENCY]


def test_data_that_comes_and_goes_moves_nothing() -> None:
    tuning = Tuning(ttl_=1280.0)
    for minute in range(60):
        tuning.tick(NoData("flapping")) if minute % 4 == 0 else tuning.tick()
    assert set(ttls(tuning)) == {1280.0}


def test_a_lengthening_that_made_answers_stale_is_taken_back_and_not_tried_again_soon() -> None:
    tuning = Tuning(ttl_=40.0)
    assert tuning.ticks(2)[-1].reason is Reason.LENGTHENED
    # What was not to be seen before: values change more often.
    decision = tuning.tick(change_every=450.0, compared=2000.0)
    assert (decision.reason, decision.ttl) == (Reason.ROLLED_BACK, 40.0)
    later = tuning.ticks(29, change_every=900.0)
    assert {decision.ttl for decision in later} == {40.0}
    assert Reason.WAITING in {decision.reason for decision in later}


def test_after_a_turn_it_lengthens_again_an_hour_later_at_the_earliest() -> None:
    tuning = Tuning(ttl_=160.0)
    tuning.state = replace(tuning.state, last_move=1)
    tuning.ticks(2)
    assert tuning.ttl == 80.0
    # A little slower: that is no other world, but twice as long would be better.
    waits = tuning.ticks(70, change_every=2400.0)
    first = next(place for place, decision in enumerate(waits) if decision.ttl > 80.0)
    assert 59 <= first <= 61
    assert waits[30].reason is Reason.WAITING


def test_when_values_change_much_more_often_what_was_learnt_before_is_dropped() -> None:
    tuning = Tuning(ttl_=80.0)
    tuning.ticks(60)
    decision = tuning.tick(change_every=112.5)
    assert decision.rate is not None
    assert 1.0 / decision.rate.likely == pytest.approx(112.5, rel=0.2)
    assert decision.reason is Reason.EMERGENCY


def test_the_same_scrape_again_is_no_data() -> None:
    tuning = Tuning(ttl_=20.0)
    first = sample(now=NOW + ttl.TICK)
    assert tuning.tick(first).reason is Reason.AGREEING
    again = tuning.tick(first)
    assert (again.reason, again.apply) == (Reason.NO_DATA, False)
    assert "stale: no scrape since" in again.message


def test_more_often_than_once_a_minute_changes_nothing() -> None:
    tuning = Tuning(ttl_=1280.0)
    tuning.tick()
    again = ttl.decide(
        tuning.policy, tuning.state, sample(now=tuning.now + 30), now=tuning.now + 30, in_force=80.0
    )
    assert (again.reason, again.state) == (Reason.TOO_EARLY, tuning.state)


def test_observe_says_what_it_would_do_and_does_nothing() -> None:
    tuning = Tuning(ttl_=1280.0, active=False)
    for decision in tuning.ticks(3):
        assert (decision.reason, decision.ttl, decision.apply) == (Reason.EMERGENCY, 1280.0, False)
        assert decision.proposed == 80.0
        assert decision.message.startswith("would go from 1280 s to 80 s: ")


def test_paused_freezes_and_goes_on_learning() -> None:
    tuning = Tuning(ttl_=1280.0, paused=True)
    for decision in tuning.ticks(3):
        assert (decision.reason, decision.ttl, decision.apply) == (Reason.PAUSED, 1280.0, False)
    assert tuning.state.evidence.requests > 300.0


@pytest.mark.parametrize(("start", "end"), [(5.0, 40.0), (20480.0, 320.0)])
def test_bounds_that_the_user_moved_hold_at_once_even_without_data(
    start: float, end: float
) -> None:
    tuning = Tuning(ttl_=start, lowest=40.0, highest=320.0)
    decision = tuning.tick(NoData("down"))
    assert (decision.reason, decision.ttl, decision.apply) == (Reason.OUT_OF_BOUNDS, end, True)


def test_a_time_to_live_between_two_of_the_grid_moves_onto_the_grid() -> None:
    tuning = Tuning(ttl_=30.0)
    tuning.ticks(2)
    assert tuning.ttl == 40.0
    tuning = Tuning(ttl_=100.0)
    assert {decision.ttl for decision in tuning.ticks(6)} <= {100.0, 80.0}


def test_what_somebody_else_set_is_where_it_goes_on_from() -> None:
    tuning = Tuning(ttl_=20.0)
    tuning.tick()
    tuning.ttl = 40.0
    decision = tuning.tick()
    # Two minutes agreed, but not about this time to live.
    assert (decision.reason, decision.ttl) == (Reason.AGREEING, 40.0)


def test_full_memory_makes_bytes_dear_until_it_is_roomy_again() -> None:
    world = {"change_every": 1e9, "entry_bytes": 100_000.0}
    tuning = Tuning(ttl_=1280.0)
    tuning.ticks(30, **world, memory_used=0.5)
    roomy = tuning.ttl
    tuning.ticks(25, **world, memory_used=0.95)
    assert tuning.ttl < roomy
    dear = tuning.state.dearness
    assert tuning.tick(**world, memory_used=0.8).state.dearness == dear
    assert tuning.tick(**world, memory_used=0.7).state.dearness == pytest.approx(0.9 * dear)
    assert tuning.tick(**world, evicted=0.02).state.dearness == pytest.approx(1.8 * dear)
    assert tuning.tick(**world).state.dearness == pytest.approx(1.8 * dear)


def test_a_dearer_miss_lengthens() -> None:
    bound = {"stale_share": 0.2, "stale_cost": 20.0}
    cheap = Tuning(ttl_=40.0, **bound).ticks(30, miss_cost=0.2)[-1].ttl
    dear = Tuning(ttl_=40.0, **bound).ticks(30, miss_cost=20.0)[-1].ttl
    assert cheap < dear


def test_stale_while_revalidate_only_as_far_as_the_bound_allows() -> None:
    assert Tuning(ttl_=20.0).tick().while_revalidate == 20.0
    assert Tuning(ttl_=40.0, stale_share=0.2).ticks(3)[-1].while_revalidate == 30.0
    assert Tuning(ttl_=80.0, stale_share=0.03, lowest=80.0).tick().while_revalidate == 0.0


def test_ghosts_that_were_all_fetched_of_late_count_as_grown_old() -> None:
    tuning = Tuning(ttl_=80.0)
    tuning.state = State(ttl=80.0)
    young = sample(change_every=14400.0, compared=1000.0, compared_at=80.0)
    # A minute after the start no hit is older than a minute, whatever the time to live.
    row = [count for count in young.ghost_hit_ages[80.0]]
    young = replace(
        young,
        ghost_hit_ages={
            one: row if one >= 80.0 else counts for one, counts in young.ghost_hit_ages.items()
        },
        ghost_misses={one: young.ghost_misses[min(one, 80.0)] for one in young.ghost_misses},
    )
    for _ in range(20):
        tuning.tick(replace(young, time=tuning.now + ttl.TICK))
    assert tuning.ttl <= 1280.0


def test_workers_with_a_shorter_grid_are_tuned_within_theirs() -> None:
    tuning = Tuning(ttl_=40.0, highest=86400.0, stale_cost=0.0, stale_share=1.0)
    tuning.ticks(20, highest=640.0)
    assert tuning.ttl == 640.0


def test_a_status_that_is_not_one_is_refused() -> None:
    good = Tuning(ttl_=40.0)
    good.tick()
    status = good.state.to_status()
    assert State.from_status(status) == good.state
    for spoil in ({"ttl": None}, {"evidence": {}}, {"settled": "x"}):
        with pytest.raises(ValueError, match="not a state of tuning"):
            State.from_status({**status, **spoil})
    with pytest.raises(ValueError, match="not a state of tuning"):
        State.from_status({})


def test_the_defaults_of_a_policy_are_cautious() -> None:
    assert ttl.Policy().active is False
    assert policy().grid[0] == 5.0
    assert ages({80.0: 2.0}).total == 160.0
