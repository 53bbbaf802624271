"""A circuit breaker in front of something that may be away, for callers that can do without it.

Closed, calls go through. When several in a row failed, it opens: from then on callers ask `open`
and go on without it, at no cost. Nobody's call is spent on finding out whether it is back: a task
of the breaker's own asks every half second and closes it on the first answer. That task lives only
while the breaker is open, and in a context of its own: the deadline of the call that opened it must
not be that of all probes.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter

log = structlog.get_logger(__name__)


class Breaker:
    """Made inside a running loop; `close` ends its task.

    Args:
      name: of what is behind, for logs.
      probe: asks what is behind, within a bound of its own; True when it answered.
      failures: failures in a row that open it.
      interval: seconds between two probes (± 20 %, so that replicas do not meet).
      on_change: told True when it opened and False when it closed.
      broken: counts probes that broke, which is not the same as not being answered.
    """

    def __init__(
        self,
        *,
        name: str,
        probe: Callable[[], Awaitable[bool]],
        failures: int = 3,
        interval: float = 0.5,
        on_change: Callable[[bool], object] | None = None,
        broken: Counter | None = None,
    ) -> None:
        self.open = False
        self._name = name
        self._probe = probe
        self._limit = failures
        self._interval = interval
        self._on_change = on_change
        self._broken = broken
        self._failures = 0
        self._healing: asyncio.Task[None] | None = None

    def succeeded(self) -> None:
        """A call was answered."""
        self._failures = 0

    def failed(self) -> None:
        """A call was not answered."""
        self._failures += 1
        if self.open or self._failures < self._limit:
            return
        self._turn(open_=True)
        self._healing = asyncio.create_task(
            self._heal(), name=f"{self._name}-breaker", context=contextvars.Context()
        )

    async def close(self) -> None:
        """Ends the task, if there is one. The breaker stays as it is."""
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.wait([self._healing])

    async def _heal(self) -> None:
        while not await self._answers():
            pass
        self._failures = 0
        self._turn(open_=False)

    async def _answers(self) -> bool:
        await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))
        try:
            return await self._probe()
        except Exception as error:
            # The top of a background task: a probe that breaks is one that was not answered.
            if self._broken is not None:
                self._broken.inc()
            log.error("probe_failed", peer=self._name, error=type(error).__name__, exc_info=error)
            return False

    def _turn(self, *, open_: bool) -> None:
        self.open = open_
        log.warning("breaker_opened" if open_ else "breaker_closed", peer=self._name)
        if self._on_change is not None:
            self._on_change(open_)
