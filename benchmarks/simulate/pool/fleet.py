"""Workers in simulated time: slots that serve one queue, first come first served.

Between two events that change the set of workers (or look at it) the calls are worked off in one
loop: the next call goes to the slot that is free first. That costs one operation on a heap per call
instead of two events, so an hour at 160 calls a second takes a third of a second.

A worker that drains takes no further call and leaves when its last one ends. One that crashes
leaves at once, and its calls go back to the head of the queue.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field

from benchmarks.simulate.pool.workload import Workload

WAIT_EDGES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
"""Of the histogram of waits, as the workers have them."""


@dataclass(slots=True, eq=False)
class Worker:
    number: int
    created: float
    slots: list[int] = field(default_factory=list)
    ready_at: float = math.inf
    ready: bool = False
    draining: bool = False
    gone_at: float = math.inf
    slowness: float = 1.0
    requests: int = 0
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_EDGES) + 1))
    """By bucket; what did not wait at all is not counted here."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A worker's counters and gauges at one moment, as it would export them."""

    requests: int
    started: int
    busy: float
    done: int
    inflight: int
    waits: tuple[int, ...]


class Fleet:
    """All workers and the queue in front of them."""

    def __init__(self, workload: Workload, *, concurrency: int) -> None:
        self._arrivals = workload.arrivals
        self._services = workload.services
        self._concurrency = concurrency
        self._next = 0
        self._arrived = 0
        self._again: deque[tuple[float, float, int]] = deque()
        # By slot: started executions, their seconds, end and length of the last, which call it was.
        self._started: list[int] = []
        self._busy: list[float] = []
        self._end: list[float] = []
        self._last: list[float] = []
        self._call: list[int] = []
        self._open: list[bool] = []
        self._factor: list[float] = []
        self._owner: list[Worker] = []
        self._free: list[tuple[float, int]] = []
        self._round = 0
        self.takers = 0
        """Workers that are ready and do not drain."""
        self.workers: list[Worker] = []
        self.waits: list[float] = [math.nan] * len(self._arrivals)
        """Of every call, by its number; NaN: it was never started."""

    def advance(self, until: float) -> None:
        """Everything that happens before `until`."""
        while self._again:
            arrival, service, call = self._again[0]
            if not self._serve(arrival, service, call, until):
                return
            self._again.popleft()
        arrivals, services, waits = self._arrivals, self._services, self.waits
        started, busy, finish = self._started, self._busy, self._end
        last, calls, factor = self._last, self._call, self._factor
        free, is_open = self._free, self._open
        call, count = self._next, len(arrivals)
        while call < count:
            arrival = arrivals[call]
            if arrival >= until:
                break
            while free and not is_open[free[0][1]]:
                heapq.heappop(free)
            if not free:
                break
            start, slot = free[0]
            if start < arrival:
                start = arrival
            if start >= until:
                break
            service = services[call] * factor[slot]
            end = start + service
            heapq.heapreplace(free, (end, slot))
            started[slot] += 1
            busy[slot] += service
            finish[slot] = end
            last[slot] = service
            calls[slot] = call
            wait = start - arrival
            waits[call] = wait
            if wait > 0.0:
                self._owner[slot].waits[bisect_left(WAIT_EDGES, wait)] += 1
            call += 1
        self._next = call

    def _serve(self, arrival: float, service: float, call: int, until: float) -> bool:
        free = self._free
        while free and not self._open[free[0][1]]:
            heapq.heappop(free)
        if not free:
            return False
        start, slot = free[0]
        start = max(start, arrival)
        if start >= until:
            return False
        service *= self._factor[slot]
        heapq.heapreplace(free, (start + service, slot))
        self._started[slot] += 1
        self._busy[slot] += service
        self._end[slot] = start + service
        self._last[slot] = service
        self._call[slot] = call
        self.waits[call] = start - arrival
        return True

    # What the workers and the callers would export.

    def arrived(self, now: float) -> int:
        """Calls so far."""
        self._arrived = bisect_right(self._arrivals, now, lo=self._arrived)
        return self._arrived

    def queued(self, now: float) -> int:
        return self.arrived(now) - self._next + len(self._again)

    def inflight(self, now: float) -> int:
        return sum(end > now for end in self._end)

    def read(self, worker: Worker, now: float) -> Reading:
        slots = worker.slots
        running = [slot for slot in slots if self._end[slot] > now]
        started = sum(self._started[slot] for slot in slots)
        return Reading(
            requests=worker.requests,
            started=started,
            busy=sum(self._busy[slot] for slot in slots) - sum(self._last[s] for s in running),
            done=started - len(running),
            inflight=len(running),
            waits=tuple(worker.waits),
        )

    def spread(self, now: float) -> None:
        """Counts the calls that have arrived at the workers in turn, as a balancer would."""
        new = self.arrived(now) - self._round
        takers = [worker for worker in self.workers if worker.ready and not worker.draining]
        if new <= 0 or not takers:
            return
        share, rest = divmod(new, len(takers))
        for place, worker in enumerate(takers):
            worker.requests += share + ((place + self._round) % len(takers) < rest)
        self._round += new

    # What changes the workers.

    def add(self, now: float, *, ready_at: float, slowness: float = 1.0) -> Worker:
        worker = Worker(number=len(self.workers), created=now, ready_at=ready_at, slowness=slowness)
        self.workers.append(worker)
        return worker

    def begin(self, worker: Worker, now: float) -> None:
        """It is ready, and its slots are free from now on."""
        worker.ready = True
        self.takers += 1
        for _ in range(self._concurrency):
            slot = len(self._started)
            self._started.append(0)
            self._busy.append(0.0)
            self._end.append(0.0)
            self._last.append(0.0)
            self._call.append(-1)
            self._open.append(True)
            self._factor.append(worker.slowness)
            self._owner.append(worker)
            worker.slots.append(slot)
            heapq.heappush(self._free, (now, slot))

    def drain(self, worker: Worker, now: float) -> None:
        """It takes no further call; `gone_at` is when the last one ends."""
        worker.draining = True
        self.takers -= worker.ready
        for slot in worker.slots:
            self._open[slot] = False
        worker.gone_at = max([now, *(self._end[slot] for slot in worker.slots)])

    def crash(self, worker: Worker, now: float) -> None:
        """It is gone, and what ran on it waits again, since when it first came."""
        lost = []
        self.takers -= worker.ready
        for slot in worker.slots:
            self._open[slot] = False
            if self._end[slot] > now:
                call = self._call[slot]
                lost.append((self._arrivals[call], self._services[call], call))
                self._end[slot] = now
        self._again.extendleft(sorted(lost, reverse=True))
        worker.draining, worker.gone_at = True, now
