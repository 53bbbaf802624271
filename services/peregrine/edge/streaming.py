"""A run's log as server-sent events: one event of the run is one event of the stream.

    id: 17
    event: text_delta
    data: {"sequence":17,"create_time":"…","epoch":1,"text_delta":{"step":1,"text":"Hel"}}

The id is the event's position in the log, so `Last-Event-ID` is all that another edge needs to go
on, and what it sends is, byte for byte, what this one would have sent. Nothing else carries an id,
and nothing is sent before the first event: a heartbeat is a comment, after 15 s of silence.

A stream is two tasks. One reads from the orchestrator and writes; while the connection takes no
more it does not read either, so a slow reader has a position in the log and no queue here, and
the run never waits for it. The other one waits for the reader to leave, and beats.

The status is not decided before something is known: an error before the first event is a problem
with its own status, a run that has nothing more to say is 204 (which tells an EventSource to stop
asking). A reader of a run that says nothing for half a second sees the stream begin all the same;
one that starts a run sees it begin when the run was accepted.

sse-starlette is not used here: it costs four tasks for each stream, patches uvicorn when it is
imported, and cannot do the above.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import jsonl
from peregrine.edge import problems
from peregrine.edge.metrics import EdgeMetrics
from peregrine.kit.errors import PeregrineError, ResourceExhausted

HEARTBEAT_SECONDS = 15.0
BEGIN_SECONDS = 0.5
# Milliseconds after which a reader that is sent elsewhere should be there.
RETRY_MS = 250
# Where uvicorn makes a writer wait for its reader, too.
_PIECE_BYTES = 64 * 1024

MEDIA_TYPE = "text/event-stream"

_HEARTBEAT = b": heartbeat\n\n"
_FAREWELL = f": this edge is going away, read on elsewhere\nretry: {RETRY_MS}\n\n".encode()
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def frames(events: Iterable[pb.RunEvent]) -> bytes:
    """The events as they stand on the wire."""
    return "".join(
        f"id: {event.sequence}\nevent: {event.WhichOneof('payload') or 'unknown'}\n"
        f"data: {jsonl.line(event)}\n\n"
        for event in events
    ).encode()


def pieces(events: Iterable[pb.RunEvent], size: int = _PIECE_BYTES) -> Iterator[tuple[int, bytes]]:
    """The events on the wire in pieces of about `size` bytes, with how many each holds.

    A replay may come in one message of megabytes; written at once, it would all wait in memory for
    a reader that does not read.
    """
    count, waiting, length = 0, [], 0
    for event in events:
        frame = frames((event,))
        count, length = count + 1, length + len(frame)
        waiting.append(frame)
        if length >= size:
            yield count, b"".join(waiting)
            count, waiting, length = 0, [], 0
    if waiting:
        yield count, b"".join(waiting)


class Streams:
    """The streams of this process, at most `limit`."""

    def __init__(self, *, limit: int, metrics: EdgeMetrics) -> None:
        self.metrics = metrics
        self._limit = limit
        self._open: set[EventStream] = set()

    def stream(
        self,
        batches: AsyncGenerator[list[pb.RunEvent], None],
        *,
        starts_run: bool = False,
        holds_run: bool = False,
    ) -> "EventStream":
        """The answer that sends `batches`.

        Args:
          starts_run: nothing is said before the run was accepted, or refused.
          holds_run: the run ends with this stream, so it is not sent elsewhere at a drain.

        Raises:
          ResourceExhausted: OVERLOADED, when there are too many streams.
        """
        if len(self._open) >= self._limit:
            raise ResourceExhausted(
                f"this edge has {self._limit} readers, as many as it may have",
                reason="OVERLOADED",
                retry_after=1.0,
            )
        return EventStream(
            batches,
            streams=self,
            begin_after=HEARTBEAT_SECONDS if starts_run else BEGIN_SECONDS,
            holds_run=holds_run,
        )

    def enter(self, stream: "EventStream") -> None:
        self._open.add(stream)
        self.metrics.streams.set(len(self._open))

    def leave(self, stream: "EventStream") -> None:
        self._open.discard(stream)
        self.metrics.streams.set(len(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def send_elsewhere(self) -> None:
        """Ends every stream with the hint to read on at another edge."""
        for stream in list(self._open):
            if not stream.holds_run:
                stream.send_elsewhere()


class EventStream(Response):
    """The answer to one reader."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        batches: AsyncGenerator[list[pb.RunEvent], None],
        *,
        streams: Streams,
        begin_after: float,
        holds_run: bool,
    ) -> None:
        self._begin_after = begin_after
        self.holds_run = holds_run
        self.background = None
        self.status_code = 200
        self._batches = batches
        self._streams = streams
        self._writing = asyncio.Lock()
        self._begun = False
        self._last_write = 0.0
        self._leaving = False
        self._pumping: asyncio.Task[PeregrineError | None] | None = None

    def send_elsewhere(self) -> None:
        self._leaving = True
        if self._pumping is not None:
            self._pumping.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams.enter(self)
        pumping = self._pumping = asyncio.create_task(self._pump(send), name="events")
        attending = asyncio.create_task(self._attend(receive, send), name="reader")
        try:
            await asyncio.wait({pumping, attending}, return_when=asyncio.FIRST_COMPLETED)
            if not pumping.done():
                return  # the reader has left
            attending.cancel()
            await asyncio.wait({attending})
            failure = None if pumping.cancelled() else pumping.result()
            await self._end(failure, scope, receive, send)
        finally:
            pumping.cancel()
            attending.cancel()
            await asyncio.wait({pumping, attending})
            self._streams.leave(self)

    async def _pump(self, send: Send) -> PeregrineError | None:
        """Sends the events as they come; returns what ended them early."""
        events = self._streams.metrics.events
        try:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    for count, piece in pieces(batch):
                        await self._write(send, piece)
                        events.inc(count)
        except PeregrineError as error:
            return error
        return None

    async def _attend(self, receive: Receive, send: Send) -> None:
        """Until the reader leaves; beats when nothing was written for a while."""
        began = time.monotonic()
        while True:
            wait = (
                self._last_write + HEARTBEAT_SECONDS if self._begun else began + self._begin_after
            ) - time.monotonic()
            try:
                async with asyncio.timeout(max(wait, 0.0)):
                    message = await receive()
            except TimeoutError:
                if not self._begun:
                    await self._write(send, b"")
                elif time.monotonic() - self._last_write >= HEARTBEAT_SECONDS:
                    await self._write(send, _HEARTBEAT)
                continue
            if message["type"] == "http.disconnect":
                return

    async def _write(self, send: Send, data: bytes) -> None:
        async with self._writing:
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            self._last_write = time.monotonic()

    async def _end(
        self, failure: PeregrineError | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._leaving:
            await self._write(send, _FAREWELL)
        elif failure is not None and not self._begun:
            await problems.response(failure)(scope, receive, send)
            return
        elif failure is not None:
            problem = orjson.dumps(problems.document(failure))
            await self._write(send, b"event: problem\ndata: " + problem + b"\n\n")
        elif not self._begun:
            await Response(status_code=204, headers={"Cache-Control": "no-store"})(
                scope, receive, send
            )
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
