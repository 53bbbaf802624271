"""A cache whose time to live the operator tunes, run over a trace.

Once a minute the counters of the ghosts and comparisons (the very module that workers use) go
through a `Scrape`, which may lose or spoil them, to the very function that the operator runs. Time
to live is applied when a value is read, times a factor of 0.9 to 1.1 that each fetch draws. One hit
in a hundred is compared with the origin, as long as those stay below one in a hundred fetches.

Decisions are made from a state that went through JSON: what a restart would read is all there is.
"""

import json
import math
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from benchmarks.simulate.ttl.baselines import Outcome, Price
from benchmarks.simulate.ttl.trace import Namespace, Trace
from peregrine.client import _ghosts as ghosts
from peregrine_operator import changes, ttl
from peregrine_operator.changes import Ages
from peregrine_operator.evidence import NoData, Sample
from peregrine_operator.ttl import Policy, State

# Share of hits that are compared, and of fetches that this may add.
_COMPARED, _EXTRA = 0.01, 0.01
# What a Unix time is for the operator; any will do.
EPOCH = 1.8e9

Scrape = Callable[[Sample], Sample | NoData]


def honest(sample: Sample) -> Sample:
    return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What happened in one minute, and what was decided at its end."""

    time: float
    requests: int
    misses: int
    stale: int
    ttl: float
    """In force in that minute."""
    estimate: float | None
    """Of the share of stale answers, at the end of it."""
    reason: str
    kept: int
    """Entries at the end of it, where memory is bounded."""


@dataclass(frozen=True, slots=True)
class Run:
    outcome: Outcome
    extra: int
    """Fetches only to compare."""
    minutes: list[Minute] = field(default_factory=list)

    @property
    def moves(self) -> list[tuple[float, float]]:
        """(when, to which time to live)."""
        return [
            (after.time, after.ttl)
            for before, after in pairwise(self.minutes)
            if after.ttl != before.ttl
        ]

    def reversals(self) -> list[float]:
        """When it moved in the other direction than the move before."""
        moves = [
            (after.time, after.ttl > before.ttl)
            for before, after in pairwise(self.minutes)
            if after.ttl != before.ttl
        ]
        return [after[0] for before, after in pairwise(moves) if before[1] != after[1]]

    def turns_in_an_hour(self) -> int:
        """The most reversals in any hour."""
        found = self.reversals()
        return max(
            (sum(first <= one < first + 3600.0 for one in found) for first in found), default=0
        )

    def windows(self, minutes: int = 10) -> list[float]:
        """The share of stale answers in each window."""
        shares = []
        for first in range(0, len(self.minutes), minutes):
            part = self.minutes[first : first + minutes]
            requests = sum(minute.requests for minute in part)
            shares.append(sum(minute.stale for minute in part) / max(requests, 1))
        return shares


class _Counters:
    """What the workers count between two scrapes."""

    def __init__(self, ttls: tuple[float, ...]) -> None:
        self.ghosts = ghosts.GhostNamespace(ttls, max_keys=1 << 20)
        self.requests = self.misses = 0
        self.miss_seconds = 0.0
        # By whether the value had changed.
        self.compared = ([0.0] * changes.BUCKETS, [0.0] * changes.BUCKETS)
        self.ages = [0.0, 0.0]

    def compare(self, age: float, changed: bool) -> None:
        self.compared[changed][changes.bucket(age)] += 1.0
        self.ages[changed] += age

    def take(self, time: float, seconds: float, entry_bytes: float) -> Sample:
        """Increases since the last time; begins anew."""
        seen = self.ghosts
        sample = Sample(
            time=time,
            seconds=seconds,
            ghost_requests=float(seen.requests),
            ghost_misses=dict(zip(seen.ttls, map(float, seen.misses), strict=True)),
            ghost_hit_ages={
                one: [float(count) for count in row]
                for one, row in zip(seen.ttls, seen.hit_ages, strict=True)
            },
            changed=Ages(tuple(self.compared[1]), self.ages[1]),
            unchanged=Ages(tuple(self.compared[0]), self.ages[0]),
            requests=float(self.requests),
            misses=float(self.misses),
            miss_seconds=self.miss_seconds,
            entry_bytes=entry_bytes,
        )
        seen.requests = 0
        seen.misses = [0] * len(seen.ttls)
        seen.hit_ages = [[0] * len(row) for row in seen.hit_ages]
        self.requests = self.misses = 0
        self.miss_seconds = 0.0
        self.compared = ([0.0] * changes.BUCKETS, [0.0] * changes.BUCKETS)
        self.ages = [0.0, 0.0]
        return sample


def run(trace: Trace, policy: Policy, *, start: float, seed: str, scrape: Scrape = honest) -> Run:
    """From an empty cache and a time to live of `start`."""
    random_ = random.Random(seed).random
    times, keys, changed_at = trace.times, trace.keys, trace.changes
    price = Price(trace.namespace)
    count = max(keys) + 1
    never = -math.inf
    fetched, factor = array("d", [never]) * count, array("d", [1.0]) * count
    has_ghosts = bytearray(ghosts.sampled(f"{seed}:{key}".encode()) for key in range(count))
    counters = _Counters(policy.grid)
    requested, compare = counters.ghosts.requested, counters.compare
    state, in_force = State(ttl=start), start
    minutes: list[Minute] = []
    stale_all = misses_all = extra = 0
    cost = tokens = 0.0
    place, end = 0, len(times)
    tick = ttl.TICK
    while tick <= trace.seconds:
        first, misses, stale = place, 0, 0
        while place < end and times[place] < tick:
            time, key = times[place], keys[place]
            at = fetched[key]
            age = time - at
            if age >= in_force * factor[key]:
                misses += 1
                paid = price.first if price.constant else price.at(time)
                counters.miss_seconds += paid
                cost += paid
                tokens = min(tokens + _EXTRA, 5.0)
                if at != never:
                    compare(age, changed_at[place] > at)
                fetched[key] = time
                factor[key] = 0.9 + 0.2 * random_()
            else:
                differs = changed_at[place] > at
                stale += differs
                if tokens >= 1.0 and random_() < _COMPARED:
                    tokens -= 1.0
                    extra += 1
                    cost += price.at(time)
                    compare(age, differs)
                    fetched[key] = time
            if has_ghosts[key]:
                requested(key, time)
            place += 1
        counters.requests, counters.misses = place - first, misses
        sample = counters.take(EPOCH + tick, ttl.TICK, trace.namespace.entry_bytes)
        kept, room, evicted = _fit(fetched, factor, in_force, tick, trace.namespace)
        sample = replace(sample, memory_used=kept / room if room else None, evicted=evicted)
        decision = ttl.decide(policy, state, scrape(sample), now=EPOCH + tick, in_force=in_force)
        minutes.append(
            Minute(
                time=tick,
                requests=place - first,
                misses=misses,
                stale=stale,
                ttl=in_force,
                estimate=decision.stale_share,
                reason=decision.reason,
                kept=kept,
            )
        )
        state = State.from_status(json.loads(json.dumps(decision.state.to_status())))
        if decision.apply:
            in_force = decision.ttl
        misses_all += misses
        stale_all += stale
        tick += ttl.TICK
    cost += stale_all * trace.namespace.stale_cost
    return Run(Outcome(place, misses_all + extra, stale_all, cost), extra, minutes)


def _fit(
    fetched: "array[float]", factor: "array[float]", ttl_: float, now: float, namespace: Namespace
) -> tuple[int, int, float]:
    """(entries, room for so many, share of them just evicted): the oldest have to go. Noughts, when
    there is room enough."""
    if not namespace.memory:
        return 0, 0, 0.0
    kept = [(at, key) for key, at in enumerate(fetched) if now - at < ttl_ * factor[key]]
    memory = [size for begin, size in namespace.memory if begin < now]
    room = int(memory[-1] / namespace.entry_bytes)
    if len(kept) <= room:
        return len(kept), room, 0.0
    gone = len(kept) - room
    for _, key in sorted(kept)[:gone]:
        fetched[key] = -math.inf
    return room, room, gone / len(kept)
