"""A turn that is being put into its conversation, once its answer is complete.

Memory is told while the end of the run is being written: the commit waits for its answer, so nobody
hears of the end before the turn is remembered, and it costs the longer of the two and not their
sum. A memory that is slow or away makes the run wait for it without holding on to the database, and
in the end goes without.
"""

import asyncio
import random
import time
from collections.abc import Awaitable

from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.kit import errors
from peregrine.kit.calls import Opened
from peregrine.orchestrator.upstream import Upstream

# How long a transaction is kept open for memory's answer.
_SOON_SECONDS = 0.05
# How long an answer that exists waits for a memory that is away, before the run ends without it.
_REMEMBER_SECONDS = 10.0


class NotRemembered(Exception):
    """Memory has not answered yet, or has failed; `finish` knows what to do."""


class Remembering:
    """The append of one turn, whose answer a take-over can no longer say otherwise.

    `begun` is the reading of the monotonic clock.
    """

    def __init__(
        self,
        request: memory.AppendMessagesRequest,
        upstream: Upstream,
        *,
        over: Opened | None = None,
    ) -> None:
        """The first attempt is made now, in the current context; `over` what was opened for it."""
        self._request = request
        self._upstream = upstream
        self.begun = time.monotonic()
        self._first = asyncio.create_task(upstream.append_messages(request, over=over))

    async def soon(self) -> None:
        """Returns when memory has it. Raises NotRemembered when that is not to be soon."""
        await asyncio.wait((self._first,), timeout=_SOON_SECONDS)
        if not self._first.done() or self._first.cancelled() or self._first.exception():
            raise NotRemembered

    async def finish(self) -> str:
        """Waits until memory has it, trying again; returns why it never will, or nothing.

        Raises:
          PeregrineError: what neither a repetition nor an answer without memory can mend.
        """
        until = self.begun + _REMEMBER_SECONDS
        attempt: Awaitable[None] = self._first
        try:
            while True:
                try:
                    await attempt
                    return ""
                except errors.Unavailable as error:
                    if time.monotonic() >= until:
                        return error.reason
                await asyncio.sleep(random.uniform(0.1, 0.5))
                attempt = self._upstream.append_messages(self._request)
        except (errors.NotFound, errors.AlreadyExists) as error:
            # Deleted while the run went on; or a former owner appended an answer of its own, of
            # which neither store has kept an event.
            return error.reason

    def close(self) -> None:
        """Ends the first attempt; nothing, when it has ended."""
        if not self._first.cancel() and not self._first.cancelled():
            self._first.exception()
