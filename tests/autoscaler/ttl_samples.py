"""Samples as Prometheus would give them, made from a namespace that is written down in a line."""

import math

from peregrine_operator import changes, evidence, ttl
from peregrine_operator.changes import BUCKETS, Ages
from peregrine_operator.evidence import Sample
from peregrine_operator.ttl import Decision, Policy, State

NOW = 1_800_000_000.0
GRID = evidence.grid(20480.0)


def ages(found: dict[float, float]) -> Ages:
    """From ages and how many of each."""
    counts = [0.0] * BUCKETS
    for age, count in found.items():
        counts[changes.bucket(age)] += count
    return Ages(tuple(counts), math.fsum(age * count for age, count in found.items()))


def sample(
    *,
    now: float = NOW,
    change_every: float = 900.0,
    keys: int = 100,
    key_rate: float = 0.02,
    compared_at: float = 80.0,
    compared: float = 200.0,
    miss_cost: float = 1.0,
    seconds: float = 60.0,
    highest: float = 20480.0,
    memory_used: float | None = None,
    evicted: float | None = None,
    entry_bytes: float = 0.0,
) -> Sample:
    """A minute of `keys` sampled keys that are asked for at `key_rate` each, for as long as one
    likes, and whose values change every `change_every` seconds in the mean."""
    requests = keys * key_rate * seconds
    misses, hits = {}, {}
    for one in evidence.grid(highest):
        misses[one] = requests / (1.0 + key_rate * one)
        spread = []
        lower = 0.0
        for edge in changes.EDGES[: changes.bucket(one) + 1]:
            upper = min(edge, one)
            spread.append((requests - misses[one]) * (upper - lower) / one)
            lower = upper
        hits[one] = spread
    changed = compared * -math.expm1(-compared_at / change_every)
    return Sample(
        time=now,
        seconds=seconds,
        ghost_requests=requests,
        ghost_misses=misses,
        ghost_hit_ages=hits,
        changed=ages({compared_at: changed}),
        unchanged=ages({compared_at: compared - changed}),
        misses=100.0,
        miss_seconds=100.0 * miss_cost,
        requests=16.0 * requests,
        memory_used=memory_used,
        evicted=evicted,
        entry_bytes=entry_bytes,
    )


def policy(**given: float | bool) -> Policy:
    chosen: dict[str, float | bool] = {
        "highest": 20480.0,
        "stale_cost": 2.0,
        "active": True,
        **given,
    }
    return Policy(**chosen)  # type: ignore[arg-type] # floats and booleans by name


class Tuning:
    """Tick after tick, with what a restart would read as all that is remembered."""

    def __init__(self, *, ttl_: float, **given: float | bool) -> None:
        self.policy = policy(**given)
        self.ttl = ttl_
        self.state = State(ttl=ttl_)
        self.now = NOW
        self.decisions: list[Decision] = []

    def tick(self, found: "Sample | ttl.NoData | None" = None, **given: float) -> Decision:
        """A minute later."""
        self.now += ttl.TICK
        if found is None:
            found = sample(now=self.now, **given)  # type: ignore[arg-type] # all are numbers
        decision = ttl.decide(self.policy, self.state, found, now=self.now, in_force=self.ttl)
        self.state = State.from_status(decision.state.to_status())
        if decision.apply:
            self.ttl = decision.ttl
        self.decisions.append(decision)
        return decision

    def ticks(self, count: int, **given: float) -> list[Decision]:
        return [self.tick(**given) for _ in range(count)]
