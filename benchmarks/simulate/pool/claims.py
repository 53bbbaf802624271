"""What is claimed of the autoscaler, each with its bound, in the worst of the seeds.

A ratio to a baseline is made seed by seed, on the same calls, from means over the moments at which
either looks first; everything else is the worst over these moments, too.
"""

from collections.abc import Callable, Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table

from benchmarks.rows import Bound, Row
from benchmarks.simulate.experiment import Experiment, mean, worst
from benchmarks.simulate.pool import drawing
from benchmarks.simulate.pool.cases import (
    BAD_DATA,
    BALANCED,
    KEDA,
    LATENCY,
    LOAD_70,
    ODD,
    ORACLE,
    SCENARIOS,
    TUNED,
    Case,
    Played,
    need,
    play,
)
from benchmarks.simulate.pool.figures import Figures
from benchmarks.simulate.pool.workload import SINE, SQUARE
from benchmarks.simulate.pool.world import POD_START

# Seeds with which those are played who are only shown.
_SHOWN = 2
# Of what nothing is claimed; not more than these seeds.
_ODD_SEEDS = 1

BySeed = Mapping[int, Played]


def rows(experiment: Experiment) -> Iterator[Row | RenderableType]:
    cases = [
        Case(
            scenario=scenario,
            seed=seed,
            full=place < _SHOWN,
            plot=place == 0 and experiment.images is not None,
        )
        for scenario in SCENARIOS
        for place, seed in enumerate(experiment.seeds)
        if scenario not in ODD or place < _ODD_SEEDS
    ]
    played: dict[str, dict[int, Played]] = {}
    for case, found in zip(cases, experiment.map(play, cases), strict=True):
        played.setdefault(case.scenario, {})[case.seed] = found
    yield from _tables(played)
    yield from step(played["step"])
    yield from level(played)
    yield from bad_data(played)
    if experiment.images is not None:
        drawing.draw(played, experiment.images, seed=experiment.seeds[0])


def step(by_seed: BySeed) -> Iterator[Row]:
    def most(name: str, read: Callable[[Figures], float]) -> dict[int, float]:
        return {seed: max(map(read, played[name])) for seed, played in by_seed.items()}

    for name in (BALANCED, LATENCY):
        what = f"step 16 → 160 calls/s, {name.split()[1]}: "
        yield worst(
            what + "first write",
            most(name, lambda found: found.first_write),
            Bound(at_most=10),
            unit="s",
        )
        yield worst(
            what + "9/10 of the need asked for",
            most(name, lambda found: found.asked),
            Bound(at_most=20),
            unit="s",
        )
        yield worst(
            what + "p95 wait ≤ 250 ms again",
            most(name, lambda found: found.recovered),
            Bound(at_most=POD_START + 60),
            unit="s",
        )
    yield worst(
        "step, balanced: replicas over the need",
        most(BALANCED, lambda found: 100 * (found.peak - need(160)) / need(160)),
        Bound(at_most=60),
        unit="%",
    )
    yield worst(
        "step, balanced: late calls / HPA on in-flight + queue, default behaviour",
        {
            seed: _late(played[BALANCED]) / _late(played[LOAD_70])
            for seed, played in by_seed.items()
        },
        Bound(at_most=0.8),
    )
    yield worst(
        "step, latency: late calls / HPA, hand-tuned",
        {seed: _late(played[LATENCY]) / _late(played[TUNED]) for seed, played in by_seed.items()},
        Bound(at_most=1.0),
    )
    yield worst(
        "step, latency: pod-hours / HPA, hand-tuned",
        {seed: _cost(played[LATENCY]) / _cost(played[TUNED]) for seed, played in by_seed.items()},
        Bound(at_most=1.0),
    )
    yield from _single(by_seed)


def _single(by_seed: BySeed) -> Iterator[Row]:
    """The same without means: the worst pair of moments to look at. Informs only."""
    for mine, theirs, what in (
        (BALANCED, LOAD_70, "balanced: late calls / HPA, default"),
        (LATENCY, TUNED, "latency: late calls / HPA, hand-tuned"),
    ):
        pairs = {
            seed: max(
                one.late / other.late
                for one, other in zip(played[mine], played[theirs], strict=True)
            )
            for seed, played in by_seed.items()
        }
        yield Row(
            name=f"step, {what}, worst pair of moments",
            value=max(pairs.values()),
            detail={"by_seed": pairs},
        )


def level(played: Mapping[str, BySeed]) -> Iterator[Row]:
    """Flaps an hour, and pod-hours against the oracle's."""
    constant = played["constant"]
    for name in (BALANCED, LATENCY):
        yield worst(
            f"constant 100 calls/s, {name.split()[1]}: flaps",
            {seed: found[name][0].flaps for seed, found in constant.items()},
            Bound(at_most=0),
        )
    hours = (SINE.seconds - 600) / 3600
    for name in (BALANCED, LATENCY):
        yield worst(
            f"constant, {name.split()[1]}: pod-hours / oracle",
            {
                seed: found[name][0].pod_hours / (need(100) * hours)
                for seed, found in constant.items()
            },
            Bound(at_most=1.15),
        )
    for trace, bound in ((SQUARE, 2), (SINE, 1)):
        yield worst(
            f"{trace.name}, balanced: flaps an hour",
            {seed: found[BALANCED][0].flaps / hours for seed, found in played[trace.name].items()},
            Bound(at_most=bound),
        )


def bad_data(played: Mapping[str, BySeed]) -> Iterator[Row]:
    """Half an hour of each kind, and a minute more: until then nothing may be lowered."""
    for name in BAD_DATA:
        yield worst(
            f"{name}, 30 min at 160 calls/s: downward writes",
            {seed: found[BALANCED][0].lowered for seed, found in played[name].items()},
            Bound(at_most=0),
        )
        yield worst(
            f"{name}, 30 min: late calls",
            {seed: 100 * found[BALANCED][0].late for seed, found in played[name].items()},
            Bound(at_most=0),
            unit="%",
        )


def _late(found: list[Figures]) -> float:
    return mean(one.late for one in found)


def _cost(found: list[Figures]) -> float:
    return mean(one.pod_hours for one in found)


# Tables of all contestants, means over seeds.


def _tables(played: Mapping[str, BySeed]) -> Iterator[Table]:
    shown = _table("Step 16 → 160 calls/s", "first write", "asked", "recovered", "peak")
    for name, found in _by_contestant(played["step"]).items():
        _add(
            shown,
            name,
            found,
            *(
                f"{mean(values):.0f} s"
                if all(value < float("inf") for value in values) and name != ORACLE
                else "-"
                for values in (
                    [one.first_write for one in found],
                    [one.asked for one in found],
                    [one.recovered for one in found],
                )
            ),
            f"{max(one.peak for one in found)}" if name != ORACLE else f"{need(160)}",
        )
    yield shown
    for scenario in ("constant", "square", "sine"):
        shown = _table(scenario.capitalize(), "flaps/h")
        hours = (SINE.seconds - 600) / 3600
        for name, found in _by_contestant(played[scenario]).items():
            _add(shown, name, found, f"{mean(one.flaps for one in found) / hours:.2f}")
        yield shown
    for title, names in (("Bad data", BAD_DATA), ("Beyond what is promised", ODD)):
        shown = _table(title, "downward writes", "replicas at least")
        for scenario in names:
            for name, found in _by_contestant(played[scenario]).items():
                _add(
                    shown,
                    f"{scenario}: {name}",
                    found,
                    f"{max(one.lowered for one in found)}",
                    f"{min(one.least for one in found)}",
                )
        yield shown


def _by_contestant(by_seed: BySeed) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {}
    for played in by_seed.values():
        for name, figures in played.items():
            found.setdefault(name, []).extend(figures)
    return found


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("")
    for column in ("late (> 1 s)", "pod-hours", *columns):
        table.add_column(column, justify="right")
    return table


def _add(table: Table, name: str, found: list[Figures], *cells: str) -> None:
    cost = "" if name.endswith(KEDA) else f"{_cost(found):.1f}"
    table.add_row(name, f"{100 * _late(found):.2f} %", cost, *cells)
