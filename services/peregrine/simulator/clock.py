"""An event loop whose timers keep to a tenth of a millisecond.

epoll counts in whole milliseconds, which Python rounds up: each token came half a millisecond late
on average, on the account of whoever is measured against the simulator.
"""

import asyncio
import select
import selectors
import sys
from typing import Any

if sys.platform == "linux":

    class _FineSelector(selectors.EpollSelector):
        """Waits for its own epoll, which is a file like any other, by `select`: in microseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
            if timeout is None or timeout > 0:
                select.select((self.fileno(),), (), (), timeout)
            return super().select(0)

    def event_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(_FineSelector())

else:

    def event_loop() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()
