"""Workers in simulated time: slots that serve one queue, first come first served.

Between two events that change the set of workers (or look at it) the calls are worked off in one
loop: the next call goes to the slot that is free first. That costs one operation on a heap per call
instead of two events, so an hour at 160 calls a second takes a fifth of a second.

A worker that drains takes no further call and leaves when its last one ends. One that crashes
leaves at once, and its calls go back to the head of the queue.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.simulate.pool.workload import Workload

WAIT_EDGES = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
"""Of the histogram of waits, as the workers have them."""

# A slot is one list, which is its own place on the heap and is written in place, because the loop
# over calls is where the time goes. Of two that are free the one with the lower number is first.
Slot: TypeAlias = list[float]
_FREE, _NUMBER, _CALL, _STARTED, _BUSY, _LAST = range(6)
"""When its last call ends, its number, which call that was, how many it began, their seconds, and
the seconds of the last one."""


@dataclass(slots=True, eq=False)
class Worker:
    number: int
    created: float
    slots: list[Slot] = field(default_factory=list)
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
    started: float
    busy: float
    done: float
    inflight: int


class Fleet:
    """All workers and the queue in front of them."""

    def __init__(self, workload: Workload, *, concurrency: int) -> None:
        self._arrivals = workload.arrivals
        self._services = workload.services
        self._concurrency = concurrency
        self._next = 0
        self._arrived = 0
        self._again: deque[tuple[float, float, int]] = deque()
        self._free: list[Slot] = []
        # By the slots' numbers.
        self._owner: list[Worker] = []
        self._slowed = False
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
        free, replace = self._free, heapq.heapreplace
        if not free:
            return
        arrivals, services, waits = self._arrivals, self._services, self.waits
        slowed, begin = self._slowed, self._next
        end = bisect_left(arrivals, until, lo=begin)
        for call in range(begin, end):
            slot = free[0]
            arrival, start, service = arrivals[call], slot[0], services[call]
            if start <= arrival:
                start = arrival
                waits[call] = 0.0
            elif start < until:
                waits[call] = wait = start - arrival
                self._owner[int(slot[1])].waits[bisect_left(WAIT_EDGES, wait)] += 1
            else:
                end = call
                break
            if slowed:
                service *= self._owner[int(slot[1])].slowness
            slot[0] = start + service
            slot[2] = call
            slot[3] += 1.0
            slot[4] += service
            slot[5] = service
            replace(free, slot)
        self._next = end

    def _serve(self, arrival: float, service: float, call: int, until: float) -> bool:
        if not self._free:
            return False
        slot = self._free[0]
        start = max(slot[_FREE], arrival)
        if start >= until:
            return False
        service *= self._owner[int(slot[_NUMBER])].slowness
        slot[:] = (
            start + service,
            slot[_NUMBER],
            call,
            slot[_STARTED] + 1.0,
            slot[_BUSY] + service,
            service,
        )
        heapq.heapreplace(self._free, slot)
        self.waits[call] = start - arrival
        return True

    # What the workers and the callers would export.

    def arrived(self, now: float) -> int:
        """Calls so far."""
        self._arrived = bisect_right(self._arrivals, now, lo=self._arrived)
        return self._arrived

    def queued(self, now: float) -> int:
        return self.arrived(now) - self._next + len(self._again)

    def read(self, worker: Worker, now: float) -> Reading:
        inflight = 0
        started = busy = running = 0.0
        for end, _, _, began, seconds, last in worker.slots:
            started += began
            busy += seconds
            if end > now:
                inflight += 1
                running += last
        return Reading(worker.requests, started, busy - running, started - inflight, inflight)

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
        self._slowed = self._slowed or slowness != 1.0
        self.workers.append(worker)
        return worker

    def begin(self, worker: Worker, now: float) -> None:
        """It is ready, and its slots are free from now on."""
        worker.ready = True
        self.takers += 1
        for _ in range(self._concurrency):
            slot: Slot = [now, len(self._owner), -1, 0.0, 0.0, 0.0]
            self._owner.append(worker)
            worker.slots.append(slot)
            heapq.heappush(self._free, slot)

    def drain(self, worker: Worker, now: float) -> None:
        """It takes no further call; `gone_at` is when the last one ends."""
        self._close(worker)
        worker.gone_at = max([now, *(slot[_FREE] for slot in worker.slots)])

    def crash(self, worker: Worker, now: float) -> None:
        """It is gone, and what ran on it waits again, since when it first came."""
        self._close(worker)
        lost = []
        for slot in worker.slots:
            if slot[_FREE] > now:
                call = int(slot[_CALL])
                lost.append((self._arrivals[call], self._services[call], call))
                slot[_FREE] = now
        self._again.extendleft(sorted(lost, reverse=True))
        worker.gone_at = now

    def _close(self, worker: Worker) -> None:
        worker.draining = True
        self.takers -= worker.ready
        self._free = [slot for slot in self._free if self._owner[int(slot[_NUMBER])] is not worker]
        heapq.heapify(self._free)
