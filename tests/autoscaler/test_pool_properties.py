"""What holds for the autoscaler whatever happens: random loads, faults, clusters and restarts."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from peregrine_operator import pool_state, signals
from peregrine_operator.autoscale import decide
from peregrine_operator.pool_state import State
from peregrine_operator.scaling import Cluster, Decision, Pause, Pool
from peregrine_operator.signals import NoData, Series, Signals
from tests.autoscaler.pool_samples import LOOK, NOW, answers

# Seconds of examples for the whole module: a few.
FEW = settings(max_examples=25, deadline=None)

REASONS = ("error", "empty", "nonfinite", "shape", "stale", "coverage")
amounts = st.floats(0, 2000, allow_nan=False)
good = st.builds(
    Signals,
    demand_fast=amounts,
    demand_stable=amounts,
    started_stable=amounts,
    service=st.none() | st.floats(0.001, 120),
    queued=st.floats(0, 1e5),
    inflight=st.floats(0, 500),
    wait_p95=st.none() | st.floats(0, 5),
    coverage=st.sampled_from([1.0, 1.0, 1.0, 0.75, 0.5]),
    by_callers=st.booleans(),
)
bad = st.builds(NoData, st.sampled_from(REASONS), st.just("…"))
pools = st.builds(
    lambda least, more, concurrency, profile, zero, fallback: Pool(
        least=least,
        most=max(least + more, 1),
        concurrency=concurrency,
        profile=profile,
        mode="Direct",
        scale_to_zero=zero,
        fallback=fallback,
    ),
    st.integers(0, 10),
    st.integers(0, 100),
    st.integers(1, 16),
    st.sampled_from(["balanced", "latency"]),
    st.booleans(),
    st.integers(0, 50),
)
# How many looks a stretch of the same data lasts, so that windows fill and empty.
stretches = st.lists(st.tuples(good | bad, st.integers(1, 30)), min_size=1, max_size=8)


class Run:
    """A pool whose cluster does at once what is written."""

    def __init__(self, pool: Pool, replicas: int) -> None:
        self.pool = pool
        self.now = NOW
        self.replicas = min(max(replicas, max(pool.least, 1)), pool.most)
        self.state = pool_state.resume(None, replicas=self.replicas, now=NOW)

    def look(self, sample: Signals | NoData, **facts: Any) -> Decision:
        known: Mapping[str, Any] = {"replicas": self.replicas, "ready": self.replicas, **facts}
        decision = decide(self.pool, self.state, Cluster(**known), sample, now=self.now)
        self.state = decision.state
        self.now += LOOK
        if decision.write is not None:
            self.replicas = decision.write
        return decision

    def restart(self, *, keeps: bool) -> None:
        status = json.loads(json.dumps(self.state.to_status()))
        state = pool_state.from_status(status) if keeps else None
        self.state = pool_state.resume(state, replicas=self.replicas, now=self.now)


@FEW
@given(pools, st.integers(0, 100), stretches, st.integers(0, 3), st.booleans())
def test_what_is_written_is_within_bounds(
    pool: Pool, start: int, data: list[tuple[Any, int]], missing: int, pending: bool
) -> None:
    run = Run(pool, start)
    for sample, looks in data:
        for _ in range(looks):
            decision = run.look(
                sample,
                ready=max(run.replicas - missing, 0),
                draining=missing,
                pending_since=run.now - 100 if pending else None,
            )
            least = 0 if pool.scale_to_zero else max(pool.least, 1)
            assert decision.write is None or least <= decision.write <= pool.most
            assert least <= decision.desired <= pool.most


@FEW
@given(pools, st.integers(0, 100), stretches, bad, st.integers(1, 100))
def test_bad_data_never_lowers(
    pool: Pool, start: int, before: list[tuple[Any, int]], data: NoData, looks: int
) -> None:
    run = Run(pool, start)
    for sample, count in before:
        for _ in range(count):
            run.look(sample)
    for _ in range(looks):
        had = run.replicas
        decision = run.look(data)
        assert run.replicas >= had
        assert decision.desired >= had


@FEW
@given(pools, st.integers(0, 100), stretches)
def test_partial_data_never_lowers(pool: Pool, start: int, data: list[tuple[Any, int]]) -> None:
    run = Run(pool, start)
    for sample, looks in data:
        for _ in range(looks):
            had = run.replicas
            if isinstance(sample, Signals):
                sample = replace(sample, coverage=min(sample.coverage, 0.9))
            run.look(sample)
            assert run.replicas >= had


@FEW
@given(pools, st.integers(0, 100), stretches, stretches, st.booleans())
def test_a_restart_at_any_look_never_lowers_within_five_minutes(
    pool: Pool,
    start: int,
    before: list[tuple[Any, int]],
    after: list[tuple[Any, int]],
    keeps: bool,
) -> None:
    """Whether the status could be read or not."""
    run = Run(pool, start)
    for sample, looks in before:
        for _ in range(looks):
            run.look(sample)
    run.restart(keeps=keeps)
    had, began = run.replicas, run.now
    for sample, looks in after:
        for _ in range(looks):
            if run.now - began >= 300:
                return
            run.look(sample)
            assert run.replicas >= had


@FEW
@given(pools, st.integers(0, 100), stretches)
def test_every_look_can_be_made_from_the_status_of_the_one_before(
    pool: Pool, start: int, data: list[tuple[Any, int]]
) -> None:
    """Nothing is remembered but what the status holds."""
    run = Run(pool, start)
    for sample, looks in data:
        for _ in range(looks):
            run.look(sample)
            kept = pool_state.from_status(json.loads(json.dumps(run.state.to_status())))
            assert (kept or State()) == run.state


@FEW
@given(pools, st.integers(0, 100), stretches)
def test_lowering_is_slow_and_never_within_a_tenth(
    pool: Pool, start: int, data: list[tuple[Any, int]]
) -> None:
    run = Run(pool, start)
    lowered = -math.inf
    for sample, looks in data:
        for _ in range(looks):
            had, now = run.replicas, run.now
            run.look(sample)
            if run.replicas < had:
                # The last step may be smaller than the way was.
                assert had - run.replicas <= max(1, math.ceil(0.2 * had))
                assert now - lowered >= 60
                lowered = now


@FEW
@given(pools, st.integers(0, 100), good, st.floats(1, 5))
def test_more_demand_never_asks_for_less(
    pool: Pool, start: int, sample: Signals, factor: float
) -> None:
    more = replace(
        sample,
        demand_fast=sample.demand_fast * factor,
        demand_stable=sample.demand_stable * factor,
    )
    less_run, more_run = Run(pool, start), Run(pool, start)
    for _ in range(30):
        less_run.look(sample)
        more_run.look(more)
        assert more_run.replicas >= less_run.replicas


@FEW
@given(pools, st.integers(0, 100), stretches, st.lists(st.floats(0.1, 7), min_size=1, max_size=9))
def test_at_most_one_write_in_five_seconds(
    pool: Pool, start: int, data: list[tuple[Any, int]], gaps: list[float]
) -> None:
    """However often somebody looks; a quarter of a second is forgiven to the loop."""
    run = Run(pool, start)
    written = -math.inf
    for sample, looks in data:
        for number in range(looks):
            now = run.now
            decision = run.look(sample)
            run.now = now + gaps[number % len(gaps)]
            if decision.write is not None:
                assert now - written >= LOOK - 0.25
                written = now


@FEW
@given(
    pools,
    st.integers(0, 100),
    stretches,
    st.sampled_from([{"pause": Pause(everything=True)}, {"conflict": "ScaledObject x"}]),
)
def test_paused_or_in_conflict_nothing_is_written(
    pool: Pool, start: int, data: list[tuple[Any, int]], facts: dict[str, Any]
) -> None:
    run = Run(pool, start)
    for sample, looks in data:
        for _ in range(looks):
            assert run.look(sample, **facts).write is None


vectors = st.lists(
    st.builds(
        Series,
        st.dictionaries(st.sampled_from(["pool", "le", "job", "instance"]), st.text(max_size=4)),
        st.floats(),
    ),
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(signals.QUERIES)), vectors, max_size=4),
    st.integers(0, 20),
    st.randoms(use_true_random=False),
)
def test_whatever_prometheus_answers_is_read_or_held_the_same_in_any_order(
    strange: dict[str, list[Series]], workers: int, chance: Any
) -> None:
    given_answers = answers(**strange)
    found = signals.read(given_answers, fast=15, workers=workers)
    if isinstance(found, Signals):
        numbers = (found.demand_fast, found.demand_stable, found.queued, found.inflight)
        assert all(math.isfinite(number) and number >= 0 for number in numbers)
        assert 0.5 <= found.coverage <= 1
    mixed = {
        name: chance.sample(list(answer), len(answer))  # type: ignore[arg-type]
        for name, answer in chance.sample(list(given_answers.items()), len(given_answers))
    }
    assert signals.read(mixed, fast=15, workers=workers) == found
