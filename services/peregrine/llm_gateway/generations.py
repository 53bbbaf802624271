"""The logs of model calls, in the memory of the process that makes them.

A generation is an append-only list of events, positions 1, 2, 3 …, exactly one terminal event. One
task writes it; every reader is a cursor. Events that were appended together leave together, and a
reader that fell behind gets all it missed in one go, so nothing waits for a timer. Events are kept
encoded: a text delta takes 0.9 KB as a message object and 0.08 KB as bytes.

The task belongs to the readers: when the last one leaves before the end, the generation is ended,
and with it the request to the provider. Finished logs are kept a short while for late readers,
bounded in number and bytes; the oldest go first.
"""

import asyncio
import bisect
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TypeAlias, TypeVar

import structlog
from google.protobuf import timestamp_pb2
from prometheus_client import Counter

from peregrine.api.common.v1 import common_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit.context import Identity
from peregrine.kit.errors import (
    Aborted,
    Internal,
    NotFound,
    OutOfRange,
    PeregrineError,
    ResourceExhausted,
)

log = structlog.get_logger(__name__)

# How long `cancel` waits for the task to end; it only has to send one frame or close a socket.
CANCEL_SECONDS = 1.0
# What a replay puts into one message, so that it stays well below the message limit.
READ_BYTES = 1024 * 1024
# What a chunk takes beside its bytes.
_CHUNK_OVERHEAD = 128

Response = TypeVar("Response", pb.GenerateResponse, pb.WatchGenerationResponse)


class Generation:
    """One log. Written by its task through `append` and `fail`, read by `follow`."""

    def __init__(self, *, id: str, identity: Identity, max_bytes: int) -> None:
        self.id = id
        self.identity = identity
        # Why it failed; set with the terminal event.
        self.failure: PeregrineError | None = None
        # What the provider has counted so far.
        self.usage = common_pb2.Usage()
        # Whether it was said that the provider has accepted the call.
        self.started = False
        self.ended = False
        self.bytes = 0
        self.readers = 0
        self._max_bytes = max_bytes
        # What was appended together, encoded as the events of a response, and the last position
        # of each such chunk.
        self._chunks: list[bytes] = []
        self._ends: list[int] = []
        self._length = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    def append(self, events: Sequence[pb.GenerationEvent]) -> None:
        """Adds events, giving them positions and the time, and wakes the readers.

        `finished` ends the log; it comes with the last events, so that they travel together.

        Raises:
          ResourceExhausted: ANSWER_TOO_LARGE, when the log has reached its bound.
        """
        self._add(events)
        if self.bytes > self._max_bytes and not self.ended:
            raise ResourceExhausted(
                f"the answer is larger than {self._max_bytes} bytes", reason="ANSWER_TOO_LARGE"
            )

    def fail(self, error: PeregrineError) -> None:
        """Ends the log with an error."""
        self.failure = error
        failed = pb.GenerationFailed(error=to_error(error), usage=self.usage)
        self._add((pb.GenerationEvent(failed=failed),))

    def _add(self, events: Sequence[pb.GenerationEvent]) -> None:
        now = time.time_ns()
        created = timestamp_pb2.Timestamp(seconds=now // 10**9, nanos=now % 10**9)
        for event in events:
            self._length += 1
            event.sequence = self._length
            event.create_time.CopyFrom(created)
            if event.HasField("finished") or event.HasField("failed"):
                self.ended = True
        chunk = pb.GenerateResponse(events=events).SerializeToString()
        self._chunks.append(chunk)
        self._ends.append(self._length)
        self.bytes += len(chunk) + _CHUNK_OVERHEAD
        waiting, self._waiting = self._waiting, []
        for reader in waiting:
            if not reader.done():
                reader.set_result(None)

    async def follow(self, after: int, response: type[Response]) -> AsyncIterator[Response]:
        """The events after position `after`, in responses, as they come, to the end of the log.

        Raises:
          OutOfRange: EVENTS_COMPACTED, when the position is beyond the log's end.
        """
        if after > self._length:
            raise OutOfRange(
                f"generation {self.id} has no position {after}", reason="EVENTS_COMPACTED"
            )
        while True:
            while after < self._length:
                made, after = self._read(after, response)
                yield made
            if self.ended:
                return
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken

    def _read(self, after: int, response: type[Response]) -> tuple[Response, int]:
        """A response of what follows `after`, and the position up to which it goes."""
        first = at = bisect.bisect_right(self._ends, after)
        size = 0
        while at < len(self._chunks) and size < READ_BYTES:
            size += len(self._chunks[at])
            at += 1
        # Both kinds of response are the same bytes: their events are field 1.
        made = response.FromString(b"".join(self._chunks[first:at]))
        if skipped := after - (self._ends[first - 1] if first else 0):
            del made.events[:skipped]
        return made, self._ends[at - 1]

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._task = asyncio.create_task(work, name=f"generation {self.id}")
        return self._task

    async def cancel(self) -> bool:
        """Ends the work; False when it had ended before."""
        if self.ended or self._task is None:
            return False
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=CANCEL_SECONDS)
        return True


Work: TypeAlias = Callable[[Generation], Coroutine[None, None, None]]


class Generations:
    """All logs of this process.

    Args:
      owner: names this process in the ids of its generations.
      max_live: generations at work at a time; more are refused.
      max_kept, max_kept_bytes, keep_seconds: bounds of finished logs.
    """

    def __init__(
        self,
        *,
        owner: str,
        max_live: int,
        max_kept: int,
        max_kept_bytes: int,
        max_bytes: int,
        keep_seconds: float,
        failures: Counter,
    ) -> None:
        self._owner = owner
        self._max_live = max_live
        self._max_kept = max_kept
        self._max_kept_bytes = max_kept_bytes
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._failures = failures
        self._live: dict[str, Generation] = {}
        self._kept: dict[str, Generation] = {}
        self._order: deque[tuple[float, Generation]] = deque()
        self._kept_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def live(self) -> int:
        return len(self._live)

    def start(self, identity: Identity, work: Work) -> Generation:
        """Starts a generation whose log `work` writes. It begins with one reader: the caller.

        Raises:
          ResourceExhausted: GATEWAY_OVERLOADED, when as many as allowed are at work.
        """
        if len(self._live) >= self._max_live:
            raise ResourceExhausted(
                f"{self._max_live} generations are at work already",
                reason="GATEWAY_OVERLOADED",
                retry_after=1.0,
            )
        generation = Generation(
            id=f"{self._owner}.{secrets.token_hex(12)}",
            identity=identity,
            max_bytes=self._max_bytes,
        )
        generation.readers = 1
        self._live[generation.id] = generation
        self._idle.clear()
        task = generation.start(self._run(generation, work))
        # A callback, because a task that is cancelled before its first step runs none of its code.
        task.add_done_callback(lambda task: self._ended(generation))
        return generation

    def find(self, generation_id: str, identity: Identity) -> Generation:
        """The log of that id.

        Raises:
          NotFound: GENERATION_NOT_FOUND, when there is none, or it is somebody else's.
        """
        self._expire()
        generation = self._live.get(generation_id) or self._kept.get(generation_id)
        if generation is None or generation.identity != identity:
            raise NotFound(
                "no such generation is kept here",
                reason="GENERATION_NOT_FOUND",
                metadata={"generation_id": generation_id[:80]},
            )
        return generation

    async def leave(self, generation: Generation) -> None:
        """A reader goes. The last one takes the work with it."""
        generation.readers -= 1
        if generation.readers <= 0 and not generation.ended:
            await generation.cancel()

    async def drain(self) -> None:
        """Returns when no generation is at work."""
        await self._idle.wait()

    async def close(self) -> None:
        """Ends all work."""
        live = list(self._live.values())
        await asyncio.gather(*(generation.cancel() for generation in live))

    async def _run(self, generation: Generation, work: Work) -> None:
        try:
            await work(generation)
        except Exception as error:
            # The top of a background task: its readers must not wait for ever.
            self._failures.inc()
            error_id = secrets.token_hex(8)
            log.error("generation_broke", error_id=error_id, exc_info=error)
            if not generation.ended:
                internal = Internal(
                    f"internal error {error_id}",
                    reason="INTERNAL_ERROR",
                    metadata={"error_id": error_id},
                )
                generation.fail(internal)

    def _ended(self, generation: Generation) -> None:
        if not generation.ended:
            cancelled = Aborted("the generation was cancelled", reason="GENERATION_CANCELLED")
            generation.fail(cancelled)
        del self._live[generation.id]
        if not self._live:
            self._idle.set()
        self._kept[generation.id] = generation
        self._kept_bytes += generation.bytes
        self._order.append((time.monotonic(), generation))
        self._expire()

    def _expire(self) -> None:
        oldest = time.monotonic() - self._keep_seconds
        while self._order and (
            self._order[0][0] < oldest
            or len(self._order) > self._max_kept
            or self._kept_bytes > self._max_kept_bytes
        ):
            _, generation = self._order.popleft()
            self._kept_bytes -= generation.bytes
            del self._kept[generation.id]


def to_error(error: PeregrineError) -> common_pb2.Error:
    """An error as an event carries it."""
    made = common_pb2.Error(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
    )
    if error.retry_after is not None:
        made.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
    return made
