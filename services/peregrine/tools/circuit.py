"""A circuit breaker of one tool: what keeps failing is left alone for a while.

It opens when half of at least 20 executions of the last 10 s failed, or after five timeouts in a
row. While it is open, calls are refused at once, which costs nobody a slot. Every 5 s (± 20 %, so
that workers do not meet) one call is let through to see; if that one succeeds, the circuit closes.

A failure is what says that the tool does not work: a timeout, an unforeseen exception, a host that
is away. A tool that says no for a reason of its own works.
"""

import random
import time
from collections import deque
from collections.abc import Callable

_WINDOW_SECONDS = 10.0
_LEAST_EXECUTIONS = 20
_FAILED_SHARE = 0.5
_TIMEOUTS = 5
_PROBE_SECONDS = 5.0
_MOST_REMEMBERED = 1_000


class Circuit:
    """Of one tool on one worker. After `refused_for` said 0, say how it ended."""

    __slots__ = ("_clock", "_ended", "_failed", "_probe_time", "_probing", "_timeouts", "open")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.open = False
        self._clock = clock
        # (when, failed) of the executions in the window.
        self._ended: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._timeouts = 0
        self._probing = False
        self._probe_time = 0.0

    def refused_for(self) -> float:
        """Seconds until it is worth asking again; 0 when the call may go on."""
        if not self.open:
            return 0.0
        left = self._probe_time - self._clock()
        if self._probing or left > 0:
            return max(left, 1.0)
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        self._timeouts = 0
        if self.open:
            self.open = self._probing = False
            self._ended.clear()
            self._failed = 0
        self._note(failed=False)

    def failed(self, *, timeout: bool) -> None:
        self._timeouts = self._timeouts + 1 if timeout else 0
        self._note(failed=True)
        enough = len(self._ended) >= _LEAST_EXECUTIONS
        if (
            self.open
            or self._timeouts >= _TIMEOUTS
            or (enough and self._failed >= _FAILED_SHARE * len(self._ended))
        ):
            self.open, self._probing = True, False
            self._probe_time = self._clock() + _PROBE_SECONDS * random.uniform(0.8, 1.2)

    def dropped(self) -> None:
        """The call ended without telling anything about the tool."""
        self._probing = False

    def _note(self, *, failed: bool) -> None:
        now = self._clock()
        self._ended.append((now, failed))
        self._failed += failed
        while self._ended[0][0] < now - _WINDOW_SECONDS or len(self._ended) > _MOST_REMEMBERED:
            self._failed -= self._ended.popleft()[1]
