"""The tables: what each contestant costs and how stale its answers are."""

from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from benchmarks.simulate.experiment import mean
from benchmarks.simulate.ttl import baselines
from benchmarks.simulate.ttl.baselines import Knows, Outcome, together
from benchmarks.simulate.ttl.cases import (
    BySeed,
    Result,
    best_alex,
    best_single,
    windows_within,
)

_SHOWN = (80.0, 320.0, 1280.0)
Pick = Callable[[Sequence[Result]], list[Outcome]]


def contestants(mixed: BySeed) -> Table:
    """All policies over the four namespaces together; a line each."""
    shown = Table(
        "policy",
        "cost per 1000",
        "fetches",
        "stale, worst namespace",
        title="Mixed (W1): four namespaces, four hours; means over seeds",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for name, pick in _contestants(mixed).items():
        picked = [pick(results) for results in mixed.values()]
        totals = [together(outcomes) for outcomes in picked]
        shown.add_row(
            name,
            f"{mean(total.cost_per_1000 for total in totals):.0f}",
            f"{mean(total.misses / total.requests for total in totals):.1%}",
            f"{mean(max(one.stale_share for one in outcomes) for outcomes in picked):.1%}",
            style="bold" if name == "tuned" else None,
        )
    return shown


def _contestants(mixed: BySeed) -> dict[str, Pick]:
    """How to read each policy's outcomes off the results of a seed."""

    def fixed(ttl: float) -> Pick:
        return lambda results: [result.fixed[ttl] for result in results]

    def single(results: Sequence[Result]) -> list[Outcome]:
        ttl, _ = best_single(results)
        return [result.fixed[ttl] for result in results]

    def alex(knows: Knows) -> Pick:
        def pick(results: Sequence[Result]) -> list[Outcome]:
            share, _ = best_alex(results, knows)
            return [result.others[f"{knows} {share}"] for result in results]

        return pick

    def unbounded(results: Sequence[Result]) -> list[Outcome]:
        return [baselines.best_static(result.fixed)[1] for result in results]

    return {
        **{f"fixed {ttl:g} s": fixed(ttl) for ttl in _SHOWN},
        "best single fixed, hindsight": single,
        "Alex, best share, told the last change": alex(Knows.TOLD),
        "Alex, best share, by what a cache sees": alex(Knows.SEEN),
        "tuned": lambda results: [result.run.outcome for result in results],
        "best static per namespace, hindsight, bounded": lambda results: [
            result.bounded[1] for result in results
        ],
        "best static per namespace, hindsight": unbounded,
        "Alex, best share, told days of history": alex(Knows.EVER),
        "clairvoyant": lambda results: [result.others["clairvoyant"] for result in results],
    }


def namespaces(mixed: BySeed) -> Table:
    """Tuned and best static, namespace by namespace."""
    shown = Table(
        "namespace",
        "cost per 1000",
        "best static, bounded",
        "at",
        "stale",
        "moves in 4 h",
        title="Mixed (W1), tuned, by namespace; means over seeds",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for place in range(len(next(iter(mixed.values())))):
        found = [results[place] for results in mixed.values()]
        ttls = sorted({result.bounded[0] for result in found})
        shown.add_row(
            found[0].name,
            f"{mean(result.run.outcome.cost_per_1000 for result in found):.0f}",
            f"{mean(result.bounded[1].cost_per_1000 for result in found):.0f}",
            " ".join(f"{ttl:g}" for ttl in ttls) + " s",
            f"{mean(result.run.outcome.stale_share for result in found):.1%}",
            f"{mean(len(result.run.moves) for result in found):.1f}",
        )
    return shown


def others(workloads: Mapping[str, BySeed]) -> Table:
    """Other beginnings and other worlds, without bounds."""
    shown = Table(
        "workload",
        "tuned / best static, bounded",
        "worst seed",
        "windows within the bound",
        "worst seed",
        "Alex / best static",
        title="Other workloads; means over a few seeds",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for name, by_seed in workloads.items():
        ratios, windows, alex = [], [], []
        for results in by_seed.values():
            bounded = together(result.bounded[1] for result in results).cost
            ratios.append(together(result.run.outcome for result in results).cost / bounded)
            alex.append(best_alex(results, Knows.TOLD)[1].cost / bounded)
            windows.append(windows_within(results))
        shown.add_row(
            name,
            f"{mean(ratios):.2f}",
            f"{max(ratios):.2f}",
            f"{mean(windows):.1%}",
            f"{min(windows):.1%}",
            f"{mean(alex):.2f}",
        )
    return shown
