"""One HTTP connection, and what happens when its other end stops reading.

uvicorn makes a handler wait while more than 64 KiB are on their way to a reader. That keeps memory
bounded, but a reader that never comes back would hold the connection for as long as TCP does. Here
the wait is measured where it begins and ends, in the transport's own signals, and after
`seconds` of it the connection is aborted: not closed, which would wait for the same reader. What
the reader has seen by then it knows; it resumes with the last id.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def cutting(seconds: float, on_cut: Callable[[], None]) -> type[H11Protocol]:
    """A protocol for uvicorn that cuts a connection whose writing is blocked for `seconds`."""

    class Connection(H11Protocol):
        _blocked: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._blocked is None:
                self._blocked = self.loop.call_later(seconds, self._cut)

        def resume_writing(self) -> None:
            self._unblock()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unblock()
            super().connection_lost(exc)

        def _unblock(self) -> None:
            if self._blocked is not None:
                self._blocked.cancel()
                self._blocked = None

        def _cut(self) -> None:
            self._blocked = None
            on_cut()
            transport: Any = self.transport
            # With a linger of 0 s the kernel forgets at once what it still holds for the reader.
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            transport.abort()

    return Connection
