"""What the two shared tiers have in common: they hold frames by address, and may be away.

A tier that is away raises `Away`, within its own time limit; the first callers pay that limit, then
its breaker opens and nobody asks it until it answered a probe.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from peregrine.kit import context
from peregrine.kit.breaker import Breaker

T = TypeVar("T")

_TELLING_SHARE = 0.5

log = structlog.get_logger(__name__)


class Away(Exception):
    """The tier cannot be asked now. `reason` is UPPER_SNAKE."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(Exception):
    """The tier answered, but does not take the entry (it is full, say)."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """What is said of a tier that was not asked, or did not answer in time."""

    away: str
    slow: str


class Guard:
    """Runs the calls of one tier: within `limit` seconds, and only while the breaker is closed.

    Args:
      observe: told each operation and its seconds.
      refused: told each operation that the tier did not take; a full store refuses thousands, so
        only the first of them is logged, and the next one that it takes.
    """

    def __init__(
        self,
        *,
        name: str,
        reasons: Reasons,
        limit: float,
        breaker: Breaker,
        observe: Callable[[str, float], object],
        refused: Callable[[str], object],
    ) -> None:
        self._name = name
        self._reasons = reasons
        self.limit = limit
        self._breaker = breaker
        self._observe = observe
        self._refused = refused
        self._refusing: set[str] = set()

    def check(self) -> None:
        """For what takes longer than `limit` and says nothing about the tier. Raises `Away`."""
        if self._breaker.open:
            raise Away(self._reasons.away)

    async def run(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Raises `Away`, and what `call` raises besides."""
        self.check()
        left = context.deadline_remaining()
        limit = self.limit if left is None else min(self.limit, left)
        started = time.perf_counter()
        try:
            result = await within(limit, call)
        except TimeoutError:
            # A caller in a hurry says nothing about the tier.
            if limit >= self.limit * _TELLING_SHARE:
                self._breaker.failed()
            raise Away(self._reasons.slow) from None
        except Away:
            self._breaker.failed()
            raise
        except Refused as problem:
            self._refused(operation)
            if operation not in self._refusing:
                self._refusing.add(operation)
                log.warning(
                    "tier_refuses", tier=self._name, operation=operation, error=str(problem)
                )
            raise
        finally:
            self._observe(operation, time.perf_counter() - started)
        self._breaker.succeeded()
        if operation in self._refusing:
            self._refusing.discard(operation)
            log.info("tier_takes_again", tier=self._name, operation=operation)
        return result


async def within(limit: float, call: Callable[[], Awaitable[T]]) -> T:
    """Awaits `call()` for at most `limit` seconds; a cancellation that the library below swallowed
    is raised after all.

    Raises:
      TimeoutError
    """
    task = asyncio.current_task()
    cancelled = task.cancelling() if task is not None else 0
    async with asyncio.timeout(limit):
        result = await call()
    if task is not None and task.cancelling() > cancelled:
        raise asyncio.CancelledError
    return result
