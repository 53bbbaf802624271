"""One namespace and one seed: its trace, every baseline over it, and the cache that is tuned.

What all contestants are charged is the same; what is read off a run stands here as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.simulate.ttl import baselines, tuned
from benchmarks.simulate.ttl.baselines import Knows, Outcome, together
from benchmarks.simulate.ttl.outages import Outages
from benchmarks.simulate.ttl.trace import Namespace, draw
from benchmarks.simulate.ttl.tuned import Run, Scrape
from benchmarks.simulate.ttl.workloads import HIGHEST, LOWEST, SECONDS, STALE_SHARE, START
from peregrine_operator import evidence
from peregrine_operator.ttl import Policy

ALEX = (0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    namespace: Namespace
    seed: int
    starts: tuple[float, ...] = ()
    """Other times to live to begin with, besides `START`."""
    outages: bool = False
    """Once more, with Prometheus on bad days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    name: str
    seed: int
    run: Run
    fixed: dict[float, Outcome]
    others: dict[str, Outcome]
    started: dict[float, Run] = field(default_factory=dict)
    """By what it began with."""
    outages: Run | None = None

    @property
    def bounded(self) -> tuple[float, Outcome]:
        return baselines.best_static(self.fixed, stale_share=STALE_SHARE)

    @property
    def ratio(self) -> float:
        return self.run.outcome.cost / self.bounded[1].cost


def play(case: Case) -> Result:
    """One case; all that is done in it is done on the same requests."""
    namespace, seed = case.namespace, f"{case.seed}:{case.namespace.name}"
    trace = draw(namespace, seconds=SECONDS, seed=seed)
    policy = Policy(
        lowest=LOWEST,
        highest=HIGHEST,
        stale_share=STALE_SHARE,
        stale_cost=namespace.stale_cost,
        active=True,
    )

    def run(start: float, scrape: Scrape = tuned.honest) -> Run:
        return tuned.run(trace, policy, start=start, seed=f"{seed}:cache", scrape=scrape)

    keys = trace.by_key()
    fixed = {ttl: baselines.fixed(trace, keys, ttl) for ttl in evidence.grid(HIGHEST)}
    others = {"clairvoyant": baselines.clairvoyant(trace, keys)}
    for share in ALEX:
        for knows in Knows:
            others[f"{knows} {share}"] = baselines.alex(
                trace, keys, share=share, lowest=LOWEST, highest=HIGHEST, knows=knows
            )
    return Result(
        name=namespace.name,
        seed=case.seed,
        run=run(START),
        fixed=fixed,
        others=others,
        started={start: run(start) for start in case.starts},
        outages=run(START, Outages(turn=case.seed)) if case.outages else None,
    )


BySeed = Mapping[int, Sequence[Result]]
"""The namespaces of a workload, by seed."""


def best_single(results: Sequence[Result]) -> tuple[float, Outcome]:
    """One time to live for all namespaces, in hindsight."""
    by_ttl = {ttl: together(result.fixed[ttl] for result in results) for ttl in results[0].fixed}
    return baselines.best_static(by_ttl)


def best_alex(results: Sequence[Result], knows: Knows) -> tuple[float, Outcome]:
    """With the best of the shares, in hindsight."""
    by_share = {
        share: together(result.others[f"{knows} {share}"] for result in results) for share in ALEX
    }
    return baselines.best_static(by_share)


def windows_within(results: Sequence[Result]) -> float:
    """The share of ten-minute windows in which no more answers were stale than may be."""
    windows = [share for result in results for share in result.run.windows()]
    return sum(share <= STALE_SHARE for share in windows) / len(windows)


def minutes_until_within(run: Run, since: float) -> float:
    """Until ten minutes begin in which no more answers are stale than may be."""
    after = [minute for minute in run.minutes if minute.time > since]
    for place in range(len(after)):
        part = after[place : place + 10]
        requests = sum(minute.requests for minute in part)
        if sum(minute.stale for minute in part) <= STALE_SHARE * requests:
            return float(place)
    return float(len(after))
