"""The pen of one run: builds its events, in order, and hands them to the log.

Positions are given at once; `durable` waits for PostgreSQL where the next step must not begin
before.
"""

import time
from collections.abc import Callable
from typing import Any

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.eventlog import Also, Ready, Writer


class Journal:
    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        # What the run holds in memory, and who wants to know when it grows.
        self.bytes = 0
        self.on_growth: Callable[[float], None] | None = None

    def emit(self, **payload: Any) -> int:
        """Appends one event, such as `emit(text_delta=pb.TextDelta(...))`; returns its position.

        Raises:
          Fenced: another process owns the run now.
        """
        return self.writer.append(self._serialized(**payload))

    async def finish(
        self, outcome: pb.RunFinished, *, also: Also | None, ready: Ready | None = None
    ) -> int:
        """Appends the terminal event; it and everything before it are durable on return.

        Args:
          also: what is to be written in the same transaction.
          ready: what is awaited before it is committed.
        """
        event = self._serialized(run_finished=outcome)
        return await self.writer.finish(event, also=also, ready=ready)

    async def durable(self) -> None:
        """Waits until everything so far is in PostgreSQL."""
        await self.writer.durable(self.writer.next_sequence - 1)

    async def sent(self) -> None:
        """Waits until the loss of this process alone takes nothing back of what was said so far."""
        await self.writer.sent(self.writer.next_sequence - 1)

    async def room(self) -> None:
        await self.writer.room()

    def _serialized(self, **payload: Any) -> bytes:
        writer = self.writer
        event = pb.RunEvent(sequence=writer.next_sequence, epoch=writer.epoch, **payload)
        event.create_time.FromNanoseconds(time.time_ns())
        data = event.SerializeToString()
        self.hold(len(data))
        return data

    def hold(self, size: int) -> None:
        """Counts what the run keeps in memory until it ends."""
        self.bytes += size
        if self.on_growth is not None:
            self.on_growth(size)
