"""Reading a run's log to its end over connections that may not last that long.

gRPC never retries a stream that has begun, and need not: every event has a position. `read` keeps a
cursor (the position and epoch of the last event passed on), and when a connection is lost it opens
the next stream there. The reader sees each event once and in order, whatever happened in between.

Only UNAVAILABLE is worth another attempt. Attempts are counted from the last event that arrived, so
a long run may lose any number of connections, while a service that is gone is given up soon.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc.aio

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import context
from peregrine.kit.errors import Internal, PeregrineError, Unavailable, from_rpc_error


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a lost connection is mourned: attempts without progress, delays in seconds.

    `attempts_to_begin` bounds the attempts before the first event: nothing is lost by failing
    early there. The delays double from `first_delay` to `max_delay`, with jitter in the upper half.
    """

    attempts: int = 12
    attempts_to_begin: int = 3
    first_delay: float = 0.1
    max_delay: float = 2.0

    def delay(self, failures: int, asked: float | None) -> float:
        """Seconds before the next attempt; at least what the server asked for, within 10 s."""
        ceiling = min(self.first_delay * 2 ** (failures - 1), self.max_delay)
        jittered = random.uniform(ceiling / 2, ceiling)
        return max(jittered, min(asked or 0.0, 10.0))


class Cursor:
    """The last event that was passed on."""

    def __init__(self, sequence: int = 0, epoch: int | None = None) -> None:
        self.sequence = sequence
        self.epoch = epoch
        self.begun = False

    def advance(self, event: pb.RunEvent) -> bool:
        """Moves to `event`; False when it was passed on before.

        An event of a later epoch may stand at a position that was read already: the log was
        truncated there and goes on differently.

        Raises:
          Internal: EVENTS_MISSING, when it is not the next one.
        """
        same_log = self.epoch is None or event.epoch <= self.epoch
        if event.sequence <= self.sequence and same_log:
            return False
        if event.sequence > self.sequence + 1:
            raise Internal(
                f"the log goes on at {event.sequence} after {self.sequence}",
                reason="EVENTS_MISSING",
            )
        self.sequence, self.epoch, self.begun = event.sequence, event.epoch, True
        return True


async def read(
    open_stream: Callable[[Cursor], Any],
    *,
    cursor: Cursor,
    patience: Patience,
    on_lost: Callable[[PeregrineError], None] | None = None,
) -> AsyncGenerator[list[pb.RunEvent], None]:
    """Events after the cursor, as they arrive together, to the terminal one; none when that is not
    after the cursor.

    Args:
      open_stream: starts the call that reads on after the cursor.
      on_lost: told why, each time before another attempt is made.

    Raises:
      PeregrineError: what the service said; Unavailable when it stayed away.
    """
    failures = 0
    while True:
        failure: PeregrineError
        begun_at = (cursor.sequence, cursor.epoch)
        call = None
        try:
            if cursor.begun:
                # What proved who reads may have ended since the stream began.
                await context.renew_proof()
            call = open_stream(cursor)
            async for response in call:
                batch, gap = _fresh(cursor, response.events)
                if batch:
                    failures = 0
                    yield batch
                    if batch[-1].HasField("run_finished"):
                        return
                if gap is not None:
                    raise gap
            if (cursor.sequence, cursor.epoch) == begun_at:
                return  # the run ended at or before the position that was asked for
            failure = Unavailable("the stream ended before the run did", reason="STREAM_ENDED")
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
        except (Internal, Unavailable) as error:
            failure = error
        finally:
            if call is not None:
                call.cancel()
        failures += 1
        allowed = patience.attempts if cursor.begun else patience.attempts_to_begin
        again = isinstance(failure, Unavailable) or failure.reason == "EVENTS_MISSING"
        delay = patience.delay(failures, failure.retry_after)
        left = context.deadline_remaining()
        if not again or failures >= allowed or (left is not None and left <= delay):
            raise failure
        if on_lost is not None:
            on_lost(failure)
        await asyncio.sleep(delay)


def _fresh(
    cursor: Cursor, events: Iterable[pb.RunEvent]
) -> tuple[list[pb.RunEvent], Internal | None]:
    """The events not passed on before, up to a gap."""
    batch = []
    try:
        for event in events:
            if cursor.advance(event):
                batch.append(event)  # noqa: PERF401  # what comes before a gap is kept
    except Internal as gap:
        return batch, gap
    return batch, None
