"""Answers that are believed for a while and asked for once, however many want them.

A fresh answer is a dictionary lookup. When it is no longer fresh, one of those who want it asks,
and the others wait for the same answer. When nobody can be asked (`Unavailable`,
`DeadlineExceeded`), the last answer serves on, for a longer but bounded while, and nobody waits any
more: it is asked for behind the answers. Any other error is the answer, and what was believed
before is forgotten.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from peregrine.kit import context
from peregrine.kit.errors import DeadlineExceeded, PeregrineError, Unavailable

T = TypeVar("T")
_ASK_AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class _Answer(Generic[T]):
    value: T
    fresh_until: float
    usable_until: float
    # When it was last asked for in vain; 0 when it never was.
    away_at: float = 0.0


class Believed(Generic[T]):
    """Answers by key, at most `size` of them.

    Args:
      seconds: how long an answer is fresh.
      outage_seconds: how long, from when it was asked for, it serves while nobody can be asked.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        seconds: float,
        outage_seconds: float,
        size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._seconds = seconds
        self._outage = outage_seconds
        self._size = size
        self._clock = clock
        self._known: dict[Hashable, _Answer[T]] = {}
        self._asking: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        """The answer. `ask` gives it with the time at which it ends, however fresh it is.

        `ask` runs in a task of its own, without the deadline of whoever came first: it bounds
        itself.
        """
        now = self._clock()
        known = self._known.get(key)
        if known is not None:
            if now < known.fresh_until:
                return known.value
            if known.away_at and now < known.usable_until:
                if now - known.away_at >= _ASK_AGAIN_SECONDS:
                    self._begin(key, ask)
                return known.value
        try:
            return await asyncio.shield(self._begin(key, ask))
        except (Unavailable, DeadlineExceeded):
            known = self._known.get(key)
            if known is None or self._clock() >= known.usable_until:
                raise
            return known.value

    async def renew(self, key: Hashable, ask: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        """The answer as it is now; the last one only while nobody can be asked."""
        known = self._known.get(key)
        if known is not None:
            known.fresh_until = 0.0
        return await self.get(key, ask)

    async def close(self) -> None:
        """Asks nobody any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(
        self, key: Hashable, ask: Callable[[], Awaitable[tuple[T, float]]]
    ) -> "asyncio.Task[T]":
        task = self._asking.get(key)
        if task is None:
            with context.bind(detach=True):
                task = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return task

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[tuple[T, float]]]) -> T:
        try:
            value, ends = await ask()
        except (Unavailable, DeadlineExceeded):
            known = self._known.get(key)
            if known is not None:
                known.away_at = self._clock()
            raise
        except PeregrineError:
            self._known.pop(key, None)
            raise
        now = self._clock()
        self._known.pop(key, None)
        if len(self._known) >= self._size:
            del self._known[next(iter(self._known))]
        self._known[key] = _Answer(
            value, min(now + self._seconds, ends), min(now + self._outage, ends)
        )
        return value

    def _answered(self, key: Hashable, task: "asyncio.Task[T]") -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # Whoever waits has it; nobody may be waiting any more.
