"""Tuned times to live against their baselines: a row for each claim, and the tables.

The worst of the seeds counts for a row; tables show means, and the worst where it says so.
"""

from collections.abc import Iterator, Sequence
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
from benchmarks.simulate.ttl.trace import Namespace
from benchmarks.simulate.ttl.workloads import START

# Seeds for what is shown without a bound.
_FEW = 4


def rows(experiment: Experiment) -> Iterator[Row | RenderableType]:
    mixed = _by_seed(experiment, workloads.mixed(), experiment.seeds)
    yield from _mixed_rows(mixed)
    stationary = _by_seed(experiment, workloads.stationary(), experiment.seeds)
    yield from _stationary_rows(stationary)
    outages = _by_seed(experiment, workloads.mixed(), experiment.seeds, outages=True)
    yield from _outage_rows(outages)
    few = experiment.seeds[:_FEW]
    starts = {
        start: _by_seed(experiment, workloads.mixed(), few, start=start) for start in (5.0, 320.0)
    }
    strained = {
        name: _by_seed(experiment, [namespace], few)
        for name, namespace in workloads.strained().items()
    }
    yield tables.contestants(mixed)
    yield tables.namespaces(mixed)
    yield tables.others(
        {
            "as above": {seed: mixed[seed] for seed in few},
            **{f"beginning at {start:g} s": found for start, found in starts.items()},
            "stationary (W2)": {seed: stationary[seed] for seed in few},
            **strained,
        }
    )
    if experiment.images is not None:
        drawings.draw(experiment.images, mixed, outages)


def _by_seed(
    experiment: Experiment,
    namespaces: Sequence[Namespace],
    seeds: Sequence[int],
    *,
    start: float = START,
    outages: bool = False,
) -> BySeed:
    cases = [
        Case(namespace=namespace, seed=seed, start=start, outages=outages)
        for seed in seeds
        for namespace in namespaces
    ]
    found = iter(experiment.map(play, cases))
    return {seed: [next(found) for _ in namespaces] for seed in seeds}


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


def _outage_rows(outages: BySeed) -> Iterator[Row]:
    for kind in KINDS:
        changes = {
            seed: float(
                sum(
                    after.ttl != before.ttl
                    for result in results
                    for before, after in pairwise(result.run.minutes)
                    if Outages(turn=seed).at(before.time) == kind
                )
            )
            for seed, results in outages.items()
        }
        name = f"ttl: changes in 30 min of Prometheus {kind}"
        yield worst(name, changes, Bound(at_most=0.0))
