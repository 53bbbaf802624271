"""One seed of what `make simulate` runs with ten, and the simulator itself, checked by hand."""

import math
from dataclasses import replace

import pytest
from benchmarks.simulate.ttl import baselines, workloads
from benchmarks.simulate.ttl.baselines import Knows, Outcome, together
from benchmarks.simulate.ttl.cases import (
    Case,
    Result,
    best_alex,
    best_single,
    minutes_until_within,
    play,
    windows_within,
)
from benchmarks.simulate.ttl.outages import KINDS, Outages
from benchmarks.simulate.ttl.trace import HOUR, Namespace, Tempo, Trace, draw

HOUSE = Namespace(name="house", change_rate=1 / 100, miss_cost=1.0, stale_cost=2.0)


def traced(times: list[float], changes: list[float]) -> Trace:
    return Trace(HOUSE, 100.0, times, [0] * len(times), changes)


@pytest.fixture(scope="module")
def mixed() -> list[Result]:
    return [play(Case(namespace=one, seed=1, outages=True)) for one in workloads.mixed()]


def test_tuned_costs_less_than_any_fixed_time_to_live_and_alex(mixed: list[Result]) -> None:
    ours = together(result.run.outcome for result in mixed).cost
    assert ours <= 0.75 * best_single(mixed)[1].cost
    assert ours <= 0.90 * best_alex(mixed, Knows.TOLD)[1].cost
    assert ours <= 1.15 * together(result.bounded[1] for result in mixed).cost


def test_staleness_is_within_the_bound_nearly_always_and_again_soon(mixed: list[Result]) -> None:
    assert windows_within(mixed) >= 0.95
    assert minutes_until_within(mixed[1].run, workloads.STEP) <= 5.0


def test_comparing_costs_hardly_any_fetches(mixed: list[Result]) -> None:
    ours = together(result.run.outcome for result in mixed)
    assert sum(result.run.extra for result in mixed) <= 0.015 * ours.misses


def test_nobody_is_cheaper_than_who_knows_the_future(mixed: list[Result]) -> None:
    for result in mixed:
        least = result.others["clairvoyant"].cost
        assert all(one.cost >= least for one in result.fixed.values())
        assert all(one.cost >= least for one in result.others.values())
        assert result.run.outcome.cost >= least


def test_half_hours_of_every_kind_of_bad_data_change_nothing(mixed: list[Result]) -> None:
    for result in mixed[:2]:
        run = result.outages
        assert run is not None
        outages = Outages(turn=1)
        kinds = {outages.at(minute.time) for minute in run.minutes}
        assert kinds == {"", *KINDS}
        for kind in KINDS:
            during = [minute for minute in run.minutes if outages.at(minute.time) == kind]
            # One more: what was in force before the first bad answer.
            assert len({minute.ttl for minute in during}) == 1, kind
        assert len({minute.ttl for minute in run.minutes}) > 1


def test_the_same_seed_gives_the_same_run() -> None:
    case = Case(namespace=replace(workloads.DOCS, keys=50, rate=1.0), seed=3, outages=True)
    assert play(case) == play(case)


def test_a_trace_asks_and_changes_as_often_as_it_says() -> None:
    namespace = replace(HOUSE, spread=0.0, keys=20, zipf=0.0, rate=5.0)
    trace = draw(namespace, seconds=2 * HOUR, seed="t")
    assert len(trace.times) == pytest.approx(36_000, rel=0.03)
    seen = {
        (key, change) for key, change in zip(trace.keys, trace.changes, strict=True) if change > 0.0
    }
    # Nearly every change is seen: a key is asked for every 4 s and changes every 100.
    assert len(seen) == pytest.approx(20 * 72, rel=0.10)
    assert all(a <= b for a, b in zip(trace.times, trace.times[1:], strict=False))
    assert all(c <= t for c, t in zip(trace.changes, trace.times, strict=True))


def test_the_share_of_stale_answers_is_what_theory_says() -> None:
    namespace = replace(HOUSE, spread=0.0, keys=10, zipf=0.0, rate=10.0)
    trace = draw(namespace, seconds=6 * HOUR, seed="s")
    ttl, hot = 40.0, 1.0
    outcome = baselines.fixed(trace, trace.by_key(), ttl)
    rate = namespace.change_rate
    hits = hot * ttl
    stale = hot * (ttl - -math.expm1(-rate * ttl) / rate)
    assert outcome.misses / outcome.requests == pytest.approx(1.0 / (1.0 + hits), rel=0.05)
    assert outcome.stale_share == pytest.approx(stale / (1.0 + hits), rel=0.05)


def test_the_clock_of_changes_runs_as_told() -> None:
    tempo = Tempo(((0.0, 1.0), (100.0, 8.0), (200.0, 0.5)))
    assert [tempo.passed(time) for time in (-10.0, 50.0, 150.0, 300.0)] == [
        -10.0,
        50.0,
        500.0,
        950.0,
    ]
    for time in (-10.0, 0.0, 99.0, 100.0, 150.0, 200.0, 1e4):
        assert tempo.time(tempo.passed(time)) == pytest.approx(time)


# Requests at 0 to 50 s; the value changes at 12 and 31 s.
TIMES = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
CHANGES = [-200.0, -200.0, 12.0, 12.0, 31.0, 31.0]


@pytest.mark.parametrize(
    ("ttl", "misses", "stale"),
    # 5: always fetched. 15: fetched at 0, 20, 40. 25: at 0 and 30. 100: once.
    [(5.0, 6, 0), (15.0, 3, 0), (25.0, 2, 3), (100.0, 1, 4)],
)
def test_a_fixed_time_to_live_by_hand(ttl: float, misses: int, stale: int) -> None:
    trace = traced(TIMES, CHANGES)
    cost = misses * 1.0 + stale * 2.0
    assert baselines.fixed(trace, trace.by_key(), ttl) == Outcome(6, misses, stale, cost)


@pytest.mark.parametrize(
    ("knows", "misses", "stale"),
    [
        # For ever unchanged at 0, so kept for 20 s: stale at no time; then 8, 19, 9, 19 s ago.
        (Knows.EVER, 5, 0),
        # At most as old as the trace: 5 s at first.
        (Knows.TOLD, 6, 0),
        (Knows.SEEN, 6, 0),
    ],
)
def test_alex_by_hand(knows: Knows, misses: int, stale: int) -> None:
    trace = traced(TIMES, CHANGES)
    outcome = baselines.alex(
        trace, trace.by_key(), share=0.1, lowest=5.0, highest=100.0, knows=knows
    )
    assert (outcome.misses, outcome.stale) == (misses, stale)


def test_the_clairvoyant_pays_the_lesser_for_every_version() -> None:
    trace = traced(TIMES, CHANGES)
    # The first fetch; then two versions with two requests each: a miss of 1 beats 2 · 2.
    assert baselines.clairvoyant(trace, trace.by_key()) == Outcome(6, 3, 0, 3.0)
    patient = replace(HOUSE, stale_cost=0.25)
    cheap = Trace(patient, 100.0, TIMES, [0] * 6, CHANGES)
    assert baselines.clairvoyant(cheap, cheap.by_key()) == Outcome(6, 1, 4, 2.0)
