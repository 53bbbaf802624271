"""Who may run now, who waits, and who is told to come back: places on one worker.

A worker has a number of slots, and each tool has a lane with a limit of its own. A call runs when
both have room; otherwise it waits in its lane. A slot that comes free goes to the waiting call of
the highest priority, the oldest of these, whose lane has room: a tool that is full never stands in
the way of another.

Nobody starves: while some call has waited for longer than `aging` seconds, one start in four is the
oldest call's, whatever its priority. So no call is ever passed by one that came later and has no
higher priority, and a flood of important calls leaves the others a quarter of the worker.

How long a call would wait is estimated before it waits: the work ahead of it, by the mean time of
each tool, over the places that do it (Little's law). A call that would wait longer than it may is
refused at once, with the time after which the queue will have emptied enough. If the estimate was
too good, the wait still ends at the limit.

Not for several threads: everything happens on one event loop.
"""

import asyncio
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

# Until a tool has run, this is what one execution is taken to cost.
_UNKNOWN_SECONDS = 0.5
# Weight of the newest execution in the mean.
_NEWEST = 0.1
_LEAST_RETRY_SECONDS = 0.1
# While a call is overdue, every so many-th start is the oldest call's.
_OLDEST_SHARE = 4


class Overloaded(Exception):
    """No place within the time; `retry_after` seconds from now there may be one."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"come back in {retry_after:.1f} s")
        self.retry_after = retry_after


class Lane:
    """The places of one tool."""

    __slots__ = ("concurrency", "in_flight", "mean_seconds", "waiting")

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.in_flight = 0
        self.mean_seconds = _UNKNOWN_SECONDS
        self.waiting: list[_Waiter] = []

    @property
    def queued(self) -> int:
        return len(self.waiting)

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.concurrency

    def took(self, seconds: float) -> None:
        """Learns from an execution that ended."""
        self.mean_seconds += _NEWEST * (seconds - self.mean_seconds)


@dataclass(frozen=True, slots=True, order=True)
class _Turn:
    negative_priority: int
    number: int


class _Waiter:
    __slots__ = ("admitted", "lane", "since", "turn")

    def __init__(
        self, lane: Lane, turn: _Turn, since: float, admitted: asyncio.Future[None]
    ) -> None:
        self.lane = lane
        self.turn = turn
        self.since = since
        self.admitted = admitted

    def __lt__(self, other: "_Waiter") -> bool:
        return self.turn < other.turn


class Admission:
    """The slots of one worker.

    Args:
      slots: executions at the same time.
      max_wait: seconds that a call waits for a slot at most.
      max_queue: calls that wait at the same time, over all lanes.
      aging: seconds after which a waiting call is overdue.
    """

    def __init__(
        self,
        *,
        slots: int,
        max_wait: float,
        max_queue: int,
        aging: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self.in_flight = 0
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._aging = aging
        self._clock = clock
        self._lanes: list[Lane] = []
        self._numbers = 0
        # All that wait, the oldest first.
        self._waiting: dict[int, _Waiter] = {}
        self._passed_over = 0

    def open_lane(self, concurrency: int) -> Lane:
        lane = Lane(concurrency)
        self._lanes.append(lane)
        return lane

    def close_lane(self, lane: Lane) -> None:
        """For a lane in which nobody waits or runs."""
        self._lanes.remove(lane)

    def resize(self, lane: Lane, concurrency: int) -> None:
        """What runs beyond a smaller limit goes on."""
        lane.concurrency = concurrency
        self._admit()

    @property
    def queued(self) -> int:
        return len(self._waiting)

    async def enter(self, lane: Lane, *, priority: int = 0, limit: float | None = None) -> None:
        """Takes a place in `lane` and a slot, waiting at most `limit` seconds.

        Give them back with `leave`, or with `free_slot` and later `free_place`.

        Raises:
          Overloaded: refused at once by the estimate, or the wait came to its limit.
        """
        if self.in_flight < self.slots and lane.has_room:
            self._take(lane)
            return
        limit = self._max_wait if limit is None else min(limit, self._max_wait)
        self._numbers += 1
        turn = _Turn(-priority, self._numbers)
        expected = self.expected_wait(lane, turn)
        if expected > limit or self.queued >= self._max_queue:
            raise Overloaded(max(expected - limit, lane.mean_seconds, _LEAST_RETRY_SECONDS))
        admitted = asyncio.get_running_loop().create_future()
        await self._wait(_Waiter(lane, turn, self._clock(), admitted), limit)

    def expected_wait(self, lane: Lane, turn: _Turn) -> float:
        """Seconds until a call that takes `turn` would get its place."""
        in_slots = 0.0
        if self.in_flight >= self.slots:
            running = sum(each.in_flight * each.mean_seconds for each in self._lanes)
            ahead = sum(
                each.mean_seconds
                for each in self._lanes
                for waiter in each.waiting
                if waiter.turn < turn
            )
            # The first of the running ones ends, on average, after one n-th of their mean time.
            in_slots = (running / self.in_flight + ahead) / self.slots
        in_lane = 0.0
        if not lane.has_room:
            before = sum(waiter.turn < turn for waiter in lane.waiting)
            in_lane = (before + 1) * lane.mean_seconds / lane.concurrency
        return max(in_slots, in_lane)

    def leave(self, lane: Lane) -> None:
        """Gives back slot and place."""
        self.in_flight -= 1
        lane.in_flight -= 1
        self._admit()

    def free_slot(self) -> None:
        """Gives back the slot only: what held it goes on in its lane, at no cost to others."""
        self.in_flight -= 1
        self._admit()

    def free_place(self, lane: Lane) -> None:
        lane.in_flight -= 1
        self._admit()

    def _take(self, lane: Lane) -> None:
        self.in_flight += 1
        lane.in_flight += 1

    async def _wait(self, waiter: _Waiter, limit: float) -> None:
        lane = waiter.lane
        heapq.heappush(lane.waiting, waiter)
        self._waiting[waiter.turn.number] = waiter
        try:
            async with asyncio.timeout(limit):
                await waiter.admitted
        except BaseException as error:
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                # Admitted and given up in the same moment.
                self.leave(lane)
            elif waiter in lane.waiting:
                self._remove(waiter)
            if isinstance(error, TimeoutError):
                raise Overloaded(max(lane.mean_seconds, _LEAST_RETRY_SECONDS)) from None
            raise

    def _remove(self, waiter: _Waiter) -> None:
        waiting = waiter.lane.waiting
        if waiting[0] is waiter:
            heapq.heappop(waiting)
        else:
            waiting.remove(waiter)
            heapq.heapify(waiting)
        del self._waiting[waiter.turn.number]

    def _admit(self) -> None:
        while self.in_flight < self.slots and self._waiting:
            ready = [lane for lane in self._lanes if lane.waiting and lane.has_room]
            if not ready:
                return
            waiter = self._next(ready)
            self._remove(waiter)
            # A call that is cancelled leaves the queue one turn of the loop after its future.
            if not waiter.admitted.cancelled():
                self._take(waiter.lane)
                waiter.admitted.set_result(None)

    def _next(self, ready: list[Lane]) -> _Waiter:
        first = min(lane.waiting[0] for lane in ready)
        oldest = next(each for each in self._waiting.values() if each.lane.has_room)
        if first is oldest or self._clock() - oldest.since < self._aging:
            self._passed_over = 0
            return first
        self._passed_over += 1
        if self._passed_over < _OLDEST_SHARE:
            return first
        self._passed_over = 0
        return oldest
