"""Tuned times to live against their baselines: a row for each claim, and the tables.

The worst of the seeds counts for a row; tables show means, and the worst where it says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from rich.console import RenderableType

from benchmarks.rows import Bound, Row
from benchmarks.simulate.experiment import Experiment, worst
from benchmarks.simulate.ttl import drawings, tables, workloads
from benchmarks.simulate.ttl.baselines import Knows, together
from benchmarks.simulate.ttl.cases import (
    BySeed,
    Case,
    best_alex,
    best_single,
    minutes_until_within,
    play,
    windows_within,
)
from benchmarks.simulate.ttl.outages import KINDS, Outages

# Seeds for what is shown without a bound.
_FEW = 4
OTHER_STARTS = (5.0, 320.0)


def rows(experiment: Experiment) -> Iterator[Row | RenderableType]:
    few = experiment.seeds[:_FEW]
    strained = workloads.strained()
    cases = [
        *(
            Case(
                namespace=namespace,
                seed=seed,
                outages=True,
                starts=OTHER_STARTS if seed in few else (),
            )
            for seed in experiment.seeds
            for namespace in workloads.mixed()
        ),
        *(
            Case(namespace=namespace, seed=seed)
            for seed in experiment.seeds
            for namespace in workloads.stationary()
        ),
        *(Case(namespace=namespace, seed=seed) for namespace in strained.values() for seed in few),
    ]
    played = iter(experiment.map(play, cases))
    mixed = {seed: [next(played) for _ in workloads.mixed()] for seed in experiment.seeds}
    stationary = {seed: [next(played) for _ in workloads.stationary()] for seed in experiment.seeds}
    alone = {name: {seed: [next(played)] for seed in few} for name in strained}
    yield from _mixed_rows(mixed)
    yield from _stationary_rows(stationary)
    yield from _outage_rows(mixed)
    yield tables.contestants(mixed)
    yield tables.namespaces(mixed)
    yield tables.others(
        {
            "as above": {seed: mixed[seed] for seed in few},
            **{f"beginning at {start:g} s": _begun(mixed, few, start) for start in OTHER_STARTS},
            "stationary (W2)": {seed: stationary[seed] for seed in few},
            **alone,
        }
    )
    if experiment.images is not None:
        drawings.draw(experiment.images, mixed)


def _begun(mixed: BySeed, seeds: Sequence[int], start: float) -> BySeed:
    """The same, of the caches that began with another time to live."""
    return {
        seed: [replace(result, run=result.started[start]) for result in mixed[seed]]
        for seed in seeds
    }


def _mixed_rows(mixed: BySeed) -> Iterator[Row]:
    below_fixed, below_alex, ratio, within, extra, faster, slower, until = ({} for _ in range(8))
    for seed, results in mixed.items():
        ours = together(result.run.outcome for result in results)
        below_fixed[seed] = 1.0 - ours.cost / best_single(results)[1].cost
        below_alex[seed] = 1.0 - ours.cost / best_alex(results, Knows.TOLD)[1].cost
        ratio[seed] = ours.cost / together(result.bounded[1] for result in results).cost
        within[seed] = windows_within(results)
        extra[seed] = sum(result.run.extra for result in results) / ours.misses
        price, weather = results[0], results[1]
        faster[seed], slower[seed] = weather.ratio, price.ratio
        until[seed] = minutes_until_within(weather.run, workloads.STEP)
    yield worst("ttl: cost below the best single fixed TTL", below_fixed, Bound(at_least=0.25))
    yield worst("ttl: cost below Alex", below_alex, Bound(at_least=0.10))
    yield worst("ttl: cost / best static per namespace, bounded", ratio, Bound(at_most=1.15))
    yield worst("ttl: windows of 10 min within the bound", within, Bound(at_least=0.95))
    yield worst(
        "ttl: until within the bound, 8 times faster", until, Bound(at_most=5.0), unit="min"
    )
    yield worst("ttl: cost / best static, 8 times faster", faster, Bound(at_most=1.15))
    yield worst("ttl: cost / best static, 10 times slower", slower, Bound(at_most=1.15))
    yield worst("ttl: fetches only to compare, of all", extra, Bound(at_most=0.015))


def _stationary_rows(stationary: BySeed) -> Iterator[Row]:
    ratio, turns, within = ({} for _ in range(3))
    for seed, results in stationary.items():
        ours = together(result.run.outcome for result in results)
        ratio[seed] = ours.cost / together(result.bounded[1] for result in results).cost
        turns[seed] = float(max(result.run.turns_in_an_hour() for result in results))
        within[seed] = windows_within(results)
    yield worst("ttl: reversals in an hour, stationary", turns, Bound(at_most=2.0))
    yield worst("ttl: cost / best static, stationary", ratio, Bound(at_most=1.10))
    yield worst("ttl: windows within the bound, stationary", within, Bound(at_least=0.95))


def _outage_rows(mixed: BySeed) -> Iterator[Row]:
    for kind in KINDS:
        changes = {
            seed: float(
                sum(
                    after.ttl != before.ttl
                    for result in results
                    if result.outages is not None
                    for before, after in pairwise(result.outages.minutes)
                    if Outages(turn=seed).at(before.time) == kind
                )
            )
            for seed, results in mixed.items()
        }
        name = f"ttl: changes in 30 min of Prometheus {kind}"
        yield worst(name, changes, Bound(at_most=0.0))
