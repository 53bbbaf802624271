"""The simulator can be believed, and the short slice of what `make simulate` shows in full."""

import heapq
import math
import random

import pytest
from benchmarks.rows import Bound
from benchmarks.simulate.experiment import Experiment, worst
from benchmarks.simulate.pool import cases, claims, figures, workload, world
from benchmarks.simulate.pool.contestants import Oracle, Peregrine
from benchmarks.simulate.pool.figures import flaps
from benchmarks.simulate.pool.fleet import Fleet
from benchmarks.simulate.pool.prometheus import Fault, Prometheus, Target
from benchmarks.simulate.pool.workload import Trace, Workload
from benchmarks.simulate.pool.world import Scenario

from peregrine_operator.signals import Failure

BRIEF = Trace(name="brief", seconds=240, rate=lambda now: 30.0 if now < 120 else 60.0)


class Fixed:
    """Sizes nothing."""

    name = "fixed"
    period = 5.0
    offset = 0.0

    def look(self, *_: object) -> None:
        return None

    def victims(self, *_: object) -> list[world.Worker]:
        return []


def test_calls_wait_as_long_as_in_a_queue_worked_out_call_by_call() -> None:
    calls = workload.draw(BRIEF, seed=1)
    record = world.run(Scenario(name="brief", trace=BRIEF, start=5), Fixed(), 1, calls)
    free = [0.0] * 20
    for number, (arrival, service) in enumerate(zip(calls.arrivals, calls.services, strict=True)):
        start = max(heapq.heappop(free), arrival)
        heapq.heappush(free, start + service)
        if start < BRIEF.seconds:
            assert record.waits[number] == pytest.approx(start - arrival)
        else:
            assert math.isnan(record.waits[number])


def test_waits_are_those_of_the_theory() -> None:
    """M/M/1 would wait rho/(1-rho) executions; Pollaczek and Khinchine say half of 1 + CV² of
    that. One slot at 60 % for three hours, within a fifth."""
    trace = Trace(name="theory", seconds=10_800, rate=lambda _: 1.2)
    calls = workload.draw(trace, seed=3)
    fleet = Fleet(calls, concurrency=1)
    fleet.begin(fleet.add(0.0, ready_at=0.0), 0.0)
    fleet.advance(trace.seconds)
    waits = [wait for wait in fleet.waits if not math.isnan(wait)]
    load = 0.6
    expected = load / (1 - load) * 0.5 * (1 + 0.82) / 2
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.2)


def test_what_ran_on_a_crashed_worker_is_run_again_before_what_waits() -> None:
    fleet = Fleet(Workload([0.0, 1.0, 1.5], [10.0, 1.0, 1.0]), concurrency=1)
    first = fleet.add(0.0, ready_at=0.0)
    fleet.begin(first, 0.0)
    fleet.advance(2.0)
    fleet.crash(first, 2.0)
    assert fleet.queued(2.0) == 3
    fleet.begin(fleet.add(2.0, ready_at=3.0), 3.0)
    fleet.advance(100.0)
    assert fleet.waits == pytest.approx([3.0, 12.0, 12.5])


def test_a_draining_worker_ends_its_calls_and_takes_no_other() -> None:
    fleet = Fleet(Workload([0.0, 1.0], [5.0, 1.0]), concurrency=1)
    only = fleet.add(0.0, ready_at=0.0)
    fleet.begin(only, 0.0)
    fleet.advance(0.5)
    fleet.drain(only, 0.5)
    fleet.advance(50.0)
    assert only.gone_at == 5.0
    assert math.isnan(fleet.waits[1])


def increase(samples: list[tuple[float, float]], seconds: float, now: float) -> float | None:
    target = Target(None, 0.0, 0.0, [t for t, _ in samples], [(v,) for _, v in samples])
    fleet = Fleet(Workload([], []), concurrency=1)
    found = Prometheus(fleet, random.Random(1), faults=()).increase([target], (0,), seconds, now)
    return found[0] if found else None


def test_increase_extrapolates_as_prometheus_does() -> None:
    steady = [(float(t), 10.0 * t) for t in range(5, 65, 5)]
    assert increase(steady, 60.0, 60.5) == pytest.approx(600.0, rel=0.02)
    # Far from the edges of the window only half a gap is added on either side …
    assert increase([(30.0, 100.0), (35.0, 150.0)], 60.0, 60.0) == pytest.approx(100.0)
    # … and never below where the counter began.
    assert increase([(30.0, 0.0), (35.0, 50.0)], 60.0, 60.0) == pytest.approx(75.0)
    assert increase([(30.0, 5.0), (35.0, 5.0)], 60.0, 60.0) == 0.0
    assert increase([(30.0, 5.0)], 60.0, 60.0) is None


def test_faults_are_seen_as_prometheus_shows_them() -> None:
    fleet = Fleet(Workload([], []), concurrency=4)
    faults = (
        Fault(kind="down", start=100, end=200),
        Fault(kind="stale", start=300, end=900),
        Fault(kind="missing", start=1000, end=1100),
    )
    prometheus = Prometheus(fleet, random.Random(1), faults=faults)
    worker = fleet.add(0.0, ready_at=0.0)
    fleet.begin(worker, 0.0)
    target = prometheus.found(worker)
    for moment in range(0, 1100, 5):
        prometheus.scrape(target, float(moment))
        at = moment + 1.0
        found = prometheus.answers(at, 15)["workers"]
        if 100 <= at < 200:
            assert isinstance(found, Failure)
        elif at < 300 or 905 < at < 1000:
            assert not isinstance(found, Failure)
            assert found[0].value == 1.0
        elif 600 < at < 900 or at > 1001:
            assert found == ()


def test_slow_buckets_are_those_whose_p95_is_above_the_objective() -> None:
    calls = workload.draw(BRIEF, seed=1)
    record = world.run(Scenario(name="brief", trace=BRIEF, start=5), Fixed(), 1, calls)
    found = figures.figures(record, window=(120, 240), step=(120.0, 240.0, 5))
    slow = [time for time, wait in figures.p95(record, 120, 240) if wait > figures.OBJECTIVE]
    assert found.recovered == slow[-1] + 5 - 120


def test_flaps_are_changes_of_direction_within_ten_minutes() -> None:
    assert flaps([(0, 5, 6), (100, 6, 7), (200, 7, 6), (900, 6, 7), (1000, 7, 6)]) == 2


def test_the_same_seed_gives_the_same_world() -> None:
    calls = workload.draw(BRIEF, seed=2)
    scenario = Scenario(name="brief", trace=BRIEF, start=3)
    one, two = (world.run(scenario, Peregrine(), 2, calls) for _ in range(2))
    assert one.writes == two.writes
    assert repr(one.waits) == repr(two.waits)


def test_the_oracle_has_pods_when_they_are_needed() -> None:
    calls = workload.draw(BRIEF, seed=4)
    scenario = Scenario(name="brief", trace=BRIEF, start=cases.need(30))
    record = world.run(scenario, Oracle(BRIEF), 4, calls)
    assert figures.late(record, 0, 240) == 0.0


def test_the_worst_seed_is_the_one_nearest_to_breaking_the_bound() -> None:
    assert worst("a", {1: 3.0, 2: 5.0}, Bound(at_most=4)).verdict == "short"
    assert worst("a", {1: 3.0, 2: 5.0}, Bound(at_least=3)).value == 3.0


# The slice.


def test_a_step_is_met_in_time() -> None:
    trace = Trace(name="step", seconds=1100, rate=workload.STEP.rate)
    calls = workload.draw(trace, seed=1)
    scenario = Scenario(name="step", trace=trace, start=3)
    record = world.run(scenario, Peregrine("balanced"), 1, calls)
    found = figures.figures(record, window=(900, 1100), step=(900, 1100, cases.need(160)))
    assert found.first_write <= 10
    assert found.asked <= 20
    assert found.recovered <= 80
    assert found.peak <= 40


@pytest.mark.parametrize("name", sorted(cases.BAD_DATA))
def test_bad_data_lowers_nothing_and_delays_nothing(name: str) -> None:
    kind, part, _ = cases.BAD_DATA[name]
    trace = Trace(name="busy", seconds=700, rate=lambda _: 80.0)
    fault = Fault(kind=kind, start=100, end=600, part=part)
    scenario = Scenario(name="busy", trace=trace, start=cases.need(80) + 3, faults=(fault,))
    record = world.run(scenario, Peregrine(), 1, workload.draw(trace, seed=1))
    found = figures.figures(record, window=(100, fault.over + 60))
    assert found.lowered == 0
    assert found.late == 0


def test_an_operator_that_restarts_forgets_nothing() -> None:
    trace = Trace(name="level", seconds=900, rate=lambda _: 40.0)
    calls = workload.draw(trace, seed=1)
    scenario = Scenario(name="level", trace=trace, start=12)
    moments = [float(moment) for moment in range(50, 900, 70)]
    without = world.run(scenario, Peregrine(), 1, calls)
    with_restarts = world.run(scenario, Peregrine(restarts=moments), 1, calls)
    assert any(after < before for _, before, after in without.writes)
    assert not any(after < before for _, before, after in with_restarts.writes)


def test_every_claim_is_a_row() -> None:
    """From figures made up: only that each scenario and bound is there."""
    fine = figures.Figures(
        late=0.0, pod_hours=10.0, flaps=0, lowered=0, least=5, first_write=5.0, asked=10.0,
        recovered=60.0, peak=30,
    )  # fmt: skip
    slow = figures.Figures(late=0.1, pod_hours=20.0, flaps=2, lowered=3, least=2)
    names = (cases.BALANCED, cases.LATENCY)
    others = (cases.LOAD_70, cases.TUNED)
    played = {**{key: [fine] for key in names}, **{key: [slow] for key in others}}
    everything = {key: {1: played, 2: played} for key in cases.SCENARIOS}
    found = [
        *claims.step(everything["step"]),
        *claims.level(everything),
        *claims.bad_data(everything),
    ]
    assert len([row for row in found if row.bound is not None]) == 10 + 6 + 14
    assert {row.verdict for row in found} == {"holds", ""}


def test_cases_run_in_processes_or_without() -> None:
    with Experiment.begin(seeds=2, images=None, processes=1) as experiment:
        assert experiment.map(abs, [-1, 2]) == [1, 2]
