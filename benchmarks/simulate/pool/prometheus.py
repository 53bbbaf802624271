"""What Prometheus would show of the workers and callers, with its delays and its failures.

Every target is scraped every five seconds at a moment of its own. `increase` goes from the first to
the last sample in a window and extrapolates to its edges as `extrapolatedRate` in
`promql/functions.go` does; an instant query finds the newest sample within five minutes unless the
target's series were marked stale. A `Fault` is what is wrong for a while: with Prometheus, with
what it answers, or with some of its targets.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.simulate.pool.fleet import WAIT_EDGES, Fleet, Worker
from peregrine_operator.signals import Answer, Answers, Failure, Series

SCRAPE = 5.0
LOOKBACK = 300.0
ADMITTED = 16.0
"""Calls that wait at one worker at most: two seconds' worth, as the workers bound it."""
# From a scrape to its samples being there for queries.
_INGESTION = 0.1
_KEPT = 320.0

Kind = Literal["down", "empty", "nan", "stale", "flapping", "missing"]

_FLAP = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`missing`: `part` of the workers cannot be scraped. `flapping`: down every other 45 s."""

    kind: Kind
    start: float
    end: float
    part: float = 1.0

    @property
    def over(self) -> float:
        """From when on data is good."""
        if self.kind != "flapping":
            return self.end
        last = math.ceil((self.end - self.start) / _FLAP) - 1
        return self.end if last % 2 == 0 else self.start + last * _FLAP

    def on(self, now: float) -> bool:
        if not self.start <= now < self.end:
            return False
        return self.kind != "flapping" or int((now - self.start) // _FLAP) % 2 == 0


@dataclass(slots=True, eq=False)
class Target:
    """A worker or a caller, and what was scraped of it."""

    worker: Worker | None
    phase: float
    luck: float
    """A fault that takes a part of the targets takes those with the least of it."""
    times: list[float] = field(default_factory=list)
    rows: list[tuple[float, ...]] = field(default_factory=list)
    waits: list[tuple[int, ...]] = field(default_factory=list)
    """Of a worker: its histogram at each of those times; the same tuple where nothing waited."""
    stale: bool = False
    """The last scrape failed, or the target is gone."""


# Columns of a sample: of a caller the first two, of a worker the others.
_CALLS, _WAITING = range(2)
_REQUESTS, _STARTED, _BUSY, _DONE, _INFLIGHT, _QUEUED = range(6)


class Prometheus:
    def __init__(
        self, fleet: Fleet, chance: random.Random, *, faults: tuple[Fault, ...], callers: int = 3
    ) -> None:
        self._fleet = fleet
        self._chance = chance
        self._faults = faults
        self.callers = [self._target(None) for _ in range(callers)]
        self.workers: dict[int, Target] = {}

    def _target(self, worker: Worker | None) -> Target:
        return Target(worker, self._chance.uniform(0, SCRAPE), self._chance.random())

    def found(self, worker: Worker) -> Target:
        """Service discovery has a new worker."""
        target = self.workers[worker.number] = self._target(worker)
        return target

    def _fault(self, kind: Kind, now: float) -> Fault | None:
        if not self._faults:
            return None
        return next((one for one in self._faults if one.kind == kind and one.on(now)), None)

    # Scraping.

    def scrape(self, target: Target, now: float) -> None:
        if self._fault("stale", now):
            return
        worker = target.worker
        if worker is None:
            place, parts = self.callers.index(target), len(self.callers)
            calls = float((self._fleet.arrived(now) + place) // parts)
            self._keep(target, now, (calls, self._queues(now)[1] / parts))
            return
        missing = self._fault("missing", now)
        if now >= worker.gone_at or (missing and target.luck < missing.part):
            target.stale = True
            return
        if not self.callers:
            self._fleet.spread(now)
        queued, _ = self._queues(now)
        reading = self._fleet.read(worker, now)
        waits = tuple(worker.waits)
        if target.waits and target.waits[-1] == waits:
            waits = target.waits[-1]
        target.waits.append(waits)
        row = (
            float(reading.requests),
            reading.started,
            reading.busy,
            reading.done,
            float(reading.inflight),
            0.0 if worker.draining else queued,
        )
        self._keep(target, now, row)

    def _queues(self, now: float) -> tuple[float, float]:
        """How many wait at each worker, and how many with the callers, whom workers refuse when
        their queue is longer than `ADMITTED` per worker."""
        queued, ready = self._fleet.queued(now), self._fleet.takers
        if not self.callers:
            return queued / max(ready, 1), 0.0
        return min(queued / max(ready, 1), ADMITTED), max(queued - ADMITTED * ready, 0.0)

    def _keep(self, target: Target, now: float, row: tuple[float, ...]) -> None:
        target.stale = False
        target.times.append(now)
        target.rows.append(row)
        if target.times[0] < now - 2 * _KEPT:
            old = bisect_right(target.times, now - _KEPT)
            del target.times[:old], target.rows[:old], target.waits[:old]

    # Queries. None is an empty vector.

    def _targets(self, now: float) -> list[Target]:
        horizon = now - _KEPT
        return [
            target
            for target in self.workers.values()
            if target.times and target.times[-1] > horizon
        ]

    def instant(self, now: float) -> tuple[float, float] | None:
        """What runs at the workers, and what is queued there."""
        running = queued = 0.0
        found = False
        for target in self.workers.values():
            if not target.stale and (at := _newest(target, now)) is not None:
                row = target.rows[at]
                found = True
                running += row[_INFLIGHT]
                queued += row[_QUEUED]
        return (running, queued) if found else None

    def _waiting(self, now: float) -> float | None:
        values = [
            target.rows[at][_WAITING]
            for target in self.callers
            if (at := _newest(target, now)) is not None
        ]
        return sum(values) if values else None

    # What a HorizontalPodAutoscaler asks for; None is a query that fails or has no result.

    def busy_by_worker(self, now: float) -> dict[int, float]:
        if self._silent(now) or self._fault("nan", now):
            return {}
        return {
            number: target.rows[at][_INFLIGHT]
            for number, target in self.workers.items()
            if not target.stale and (at := _newest(target, now)) is not None
        }

    def load(self, now: float) -> float | None:
        found = self.instant(now)
        if self._silent(now) or found is None:
            return None
        running, queued = found
        queued += self._waiting(now) or 0.0
        return math.nan if self._fault("nan", now) else running + queued

    def call_rate(self, now: float) -> float | None:
        found = self.increase(self.callers, (_CALLS,), 60.0, now)
        if self._silent(now) or found is None:
            return None
        return math.nan if self._fault("nan", now) else found[0] / 60

    def _silent(self, now: float) -> bool:
        return any(self._fault(kind, now) for kind in ("down", "flapping", "empty"))

    def increase(
        self, targets: Iterable[Target], columns: tuple[int, ...], seconds: float, now: float
    ) -> list[float] | None:
        """The sum over targets of each column's increase."""
        total = [0.0] * len(columns)
        found = False
        for target in targets:
            window = _window(target, seconds, now)
            if window is not None:
                found = True
                older, newer = target.rows[window.first], target.rows[window.last]
                for place, column in enumerate(columns):
                    if newer[column] != older[column]:
                        total[place] += window.extrapolated(older[column], newer[column])
        return total if found else None

    def waited(self, targets: Iterable[Target], seconds: float, now: float) -> list[float]:
        """The same for the histogram of waits."""
        total = [0.0] * (len(WAIT_EDGES) + 1)
        for target in targets:
            window = _window(target, seconds, now)
            if window is None:
                continue
            older, newer = target.waits[window.first], target.waits[window.last]
            if older is not newer:
                for place, (before, after) in enumerate(zip(older, newer, strict=True)):
                    if before != after:
                        total[place] += window.extrapolated(float(before), float(after))
        return total

    def answers(self, now: float, fast: int) -> Answers:
        """To the queries of the operator, those for `fast` among them."""
        names = ("started_60s", "busy_5m", "executions_5m", "queued", "inflight", "workers", "age")
        if self._fault("down", now) or self._fault("flapping", now):
            return dict.fromkeys(names, Failure("connection refused"))
        answers: dict[str, Answer] = dict.fromkeys((*names, "waits_60s"), ())
        if self._fault("empty", now):
            return answers
        targets = self._targets(now)
        minute = self.increase(targets, (_STARTED, _REQUESTS), 60.0, now)
        five = self.increase(targets, (_BUSY, _DONE), 300.0, now)
        running, queued = self.instant(now) or (None, None)
        values: dict[str, float | None] = {
            "started_60s": minute[0] / 60 if minute else None,
            "shed_60s": 0.0 if minute else None,
            "busy_5m": five[0] if five else None,
            "executions_5m": five[1] if five else None,
            "queued": queued,
            "waiting": self._waiting(now),
            "inflight": running,
            **self._demand(now, fast, minute),
            **self._ages(targets, now),
        }
        if self._fault("nan", now):
            values = dict.fromkeys(values, math.nan)
        answers |= {
            name: [Series({"pool": "tools"}, value)]
            for name, value in values.items()
            if value is not None
        }
        if minute:
            answers["waits_60s"] = _buckets(minute[0], self.waited(targets, 60.0, now))
        return answers

    def _demand(self, now: float, fast: int, minute: list[float] | None) -> dict[str, float | None]:
        if self.callers:
            quick = self.increase(self.callers, (_CALLS,), float(fast), now)
            slow = self.increase(self.callers, (_CALLS,), 60.0, now)
            return {
                f"demand_{fast}s": quick[0] / fast if quick else None,
                "demand_60s": slow[0] / 60 if slow else None,
                # Nobody calls but who counts; the workers' own count is not worked out then.
                "arrived_60s": 0.0,
            }
        quick = self.increase(self._targets(now), (_REQUESTS,), float(fast), now)
        return {
            f"arrived_{fast}s": quick[0] / fast if quick else None,
            "arrived_60s": minute[1] / 60 if minute else None,
        }

    def _ages(self, targets: list[Target], now: float) -> dict[str, float | None]:
        newest = [
            target.times[at]
            for target in targets
            if not target.stale and (at := _newest(target, now)) is not None
        ]
        if not newest:
            return {"workers": None, "age": None}
        return {
            "workers": float(sum(now - time < 20.0 for time in newest)) or None,
            "age": now - min(newest),
        }


def _newest(target: Target, now: float) -> int | None:
    at = len(target.times) - 1
    if at >= 0 and target.times[at] > now - _INGESTION:
        at -= 1
    return at if at >= 0 and target.times[at] > now - LOOKBACK else None


@dataclass(slots=True)
class _Window:
    """The samples of a target in a window, and how far they reach to its edges."""

    first: int
    last: int
    sampled: float
    """Seconds between them."""
    before: float
    after: float

    def extrapolated(self, older: float, newer: float) -> float:
        increase, before = newer - older, self.before
        if increase > 0.0 and older >= 0.0:
            before = min(before, self.sampled * older / increase)
        return increase * (self.sampled + before + self.after) / self.sampled


def _window(target: Target, seconds: float, now: float) -> _Window | None:
    """None: fewer than two samples."""
    times = target.times
    last = len(times) - 1
    if last >= 0 and times[last] > now - _INGESTION:
        last -= 1
    start = now - seconds
    first = bisect_right(times, start)
    if last <= first:
        return None
    oldest, newest = times[first], times[last]
    sampled = newest - oldest
    gap = sampled / (last - first)
    before, after = oldest - start, now - newest
    if before >= gap * 1.1:
        before = gap / 2
    if after >= gap * 1.1:
        after = gap / 2
    return _Window(first, last, sampled, before, after)


def _buckets(started: float, waited: list[float]) -> list[Series]:
    """Cumulative rates; what did not wait is in the first bucket."""
    edges = [f"{edge:g}" for edge in WAIT_EDGES] + ["+Inf"]
    below = max(started - sum(waited), 0.0)
    found = []
    for edge, count in zip(edges, waited, strict=True):
        below += count
        found.append(Series({"pool": "tools", "le": edge}, below / 60))
    return found
