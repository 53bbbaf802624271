"""A pool from its first to its last second: calls, workers, scrapes, and who sizes it.

Everything happens at events on one heap; between two of them the fleet works calls off. The same
seed gives the same calls, the same delays of pods and the same moments of scraping, whoever sizes
the pool.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.simulate.pool.fleet import Fleet, Worker
from benchmarks.simulate.pool.prometheus import SCRAPE, Fault, Prometheus
from benchmarks.simulate.pool.workload import Trace, Workload, draw

POD_START = 20.0
CONCURRENCY = 4
LEAST, MOST = 2, 60
# A pod that is told to go is given no call for the time that its preStop hook sleeps.
_PRESTOP = 5.0
MEASURED_AFTER = 15.0
"""Seconds after which a ready pod must have been scraped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A world but for who sizes the pool."""

    name: str
    trace: Trace
    faults: tuple[Fault, ...] = ()
    start: int = 4
    """Workers that are ready at the beginning."""
    callers: int = 3
    crashes: tuple[tuple[float, float], ...] = ()
    """Times, and the part of the workers that crash then."""
    slow: float = 0.0
    """The part of the workers that take five times as long."""
    slots: int = CONCURRENCY
    """What a worker really runs at the same time; it is declared as `CONCURRENCY`."""
    capacity: int = 1000
    """Pods for which the cluster has nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the API server says of the pool."""

    replicas: int
    ready: int
    measured: int
    """Ready for long enough to have been scraped."""
    draining: int
    pending_since: float | None
    pods: tuple[Worker, ...]
    """All that are not terminating."""


class Contestant(Protocol):
    """Who sizes the pool."""

    name: str
    period: float
    offset: float
    """Seconds by which it looks later than the seed says."""

    def look(self, seen: Seen, prometheus: Prometheus, now: float) -> int | None:
        """Called every `period` seconds. Returns what to write, None for nothing."""

    def victims(self, seen: Seen, count: int, inflight: Callable[[Worker], int]) -> list[Worker]:
        """Which workers go."""


@dataclass(slots=True, kw_only=True)
class Record:
    """What happened."""

    scenario: Scenario
    workload: Workload
    waits: list[float]
    writes: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, replicas before, replicas after."""
    ready: list[tuple[float, int]] = field(default_factory=list)
    """Ready workers, whenever they change."""
    pod_seconds: float = 0.0
    workers: list[Worker] = field(default_factory=list)


class World:
    def __init__(
        self, scenario: Scenario, contestant: Contestant, seed: int, workload: Workload
    ) -> None:
        self.scenario = scenario
        self.contestant = contestant
        self.end = scenario.trace.seconds
        # One stream for what is the same for all contestants, one for what they cause.
        self._phases = random.Random(f"phases/{scenario.name}/{seed}")
        self._chance = random.Random(f"pods/{scenario.name}/{seed}")
        self.fleet = Fleet(workload, concurrency=scenario.slots)
        self.prometheus = Prometheus(
            self.fleet,
            random.Random(f"scrapes/{scenario.name}/{seed}"),
            faults=scenario.faults,
            callers=scenario.callers,
        )
        self.replicas = scenario.start
        self.record = Record(scenario=scenario, workload=workload, waits=self.fleet.waits)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = 0
        self._live: list[Worker] = []
        self._leaving: list[Worker] = []
        self._waiting: list[Worker] = []

    def run(self) -> Record:
        for target in self.prometheus.callers:
            self._at(target.phase, self._scraping(target))
        for _ in range(self.scenario.start):
            self._start(0.0, delay=0.0)
        for moment, part in self.scenario.crashes:
            self._at(moment, lambda now, part=part: self._crash(now, part))  # type: ignore[misc]
        period = self.contestant.period
        first = self._phases.uniform(0, period) + self.contestant.offset
        self._at(first % period, self._look)
        events, fleet, end = self._events, self.fleet, self.end
        while events and events[0][0] < end:
            now, _, happen = heapq.heappop(events)
            fleet.advance(now)
            happen(now)
        fleet.advance(end)
        self.record.pod_seconds = sum(
            min(worker.gone_at, end) - worker.created for worker in fleet.workers
        )
        self.record.workers = fleet.workers
        return self.record

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, happen))

    def _scraping(self, target: object) -> Callable[[float], None]:
        def scrape(now: float) -> None:
            self.prometheus.scrape(target, now)  # type: ignore[arg-type]
            worker = target.worker  # type: ignore[attr-defined]
            if worker is None or now < worker.gone_at:
                self._at(now + SCRAPE, scrape)

        return scrape

    # Pods.

    def _start(self, now: float, delay: float | None = None) -> None:
        slow = self._chance.random() < self.scenario.slow
        wait = POD_START * self._chance.uniform(0.9, 1.1) if delay is None else delay
        worker = self.fleet.add(now, ready_at=now + wait, slowness=5.0 if slow else 1.0)
        self._live.append(worker)
        if len(self._live) + len(self._leaving) > self.scenario.capacity:
            self._waiting.append(worker)
        else:
            self._at(worker.ready_at, lambda now: self._ready(worker, now))

    def _ready(self, worker: Worker, now: float) -> None:
        if worker.draining:
            return
        self.fleet.begin(worker, now)
        target = self.prometheus.found(worker)
        self._at(now + target.phase, self._scraping(target))
        self._note_ready(now)

    def _note_ready(self, now: float) -> None:
        self.record.ready.append((now, sum(worker.ready for worker in self._live)))

    def _drain(self, worker: Worker, now: float) -> None:
        self._live.remove(worker)
        if worker in self._waiting:
            self._waiting.remove(worker)
        self.fleet.drain(worker, now)
        worker.gone_at = max(worker.gone_at, now + (_PRESTOP if worker.ready else 0.0))
        self._leaving.append(worker)
        self._at(worker.gone_at, lambda now: self._gone(worker, now))

    def _gone(self, worker: Worker, now: float) -> None:
        if worker in self._leaving:
            self._leaving.remove(worker)
        if self._waiting:
            waited = self._waiting.pop(0)
            self._at(now + POD_START, lambda now: self._ready(waited, now))

    def _crash(self, now: float, part: float) -> None:
        """The Deployment replaces them at once."""
        lost = self._live[: round(part * len(self._live))]
        for worker in lost:
            self._live.remove(worker)
            self.fleet.crash(worker, now)
        self._note_ready(now)
        for _ in lost:
            self._start(now)

    # Who sizes.

    def seen(self, now: float) -> Seen:
        live = self._live
        return Seen(
            replicas=self.replicas,
            ready=sum(worker.ready for worker in live),
            measured=sum(
                worker.ready and now - worker.ready_at >= MEASURED_AFTER for worker in live
            ),
            draining=len(self._leaving),
            pending_since=min((worker.created for worker in self._waiting), default=None),
            pods=tuple(live),
        )

    def _look(self, now: float) -> None:
        self._at(now + self.contestant.period, self._look)
        seen = self.seen(now)
        wanted = self.contestant.look(seen, self.prometheus, now)
        if wanted is None or wanted == self.replicas:
            return
        self.record.writes.append((now, self.replicas, wanted))
        if wanted > self.replicas:
            for _ in range(wanted - self.replicas):
                self._start(now)
        else:
            inflight = self._inflight(now)
            for worker in self.contestant.victims(seen, self.replicas - wanted, inflight):
                self._drain(worker, now)
            self._note_ready(now)
        self.replicas = wanted

    def _inflight(self, now: float) -> Callable[[Worker], int]:
        return lambda worker: self.fleet.read(worker, now).inflight if worker.ready else 0


def run(scenario: Scenario, contestant: Contestant, seed: int, workload: Workload) -> Record:
    return World(scenario, contestant, seed, workload).run()


__all__ = ["Contestant", "Record", "Scenario", "Seen", "World", "draw", "run"]
