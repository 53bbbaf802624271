"""One client connection: Hypercorn's HTTP/1.1 and HTTP/2, fitted to a simulator under load.

Hypercorn parses and frames; four things are changed here, each because it was seen to matter:

- *Scheduling*: its HTTP/2 priority tree costs time in proportion to the open streams for every
  frame. All streams are equal here, so whose turn it is comes from a queue of those with data, and
  what they have at one moment is one write.
- *Resets*: a stream that the client has reset is forgotten at once; otherwise it stays in the tree
  until the limit of 1,000 refuses new ones.
- *Idle timeout*: there is none, so that a warm connection stays warm, and no timer per request.
- *Cutting*: ASGI has no way to break off a response. The connection puts itself into the state of
  every scope, and `cut(scope)` resets the stream (HTTP/2) or closes the connection.

Two more keep the simulator's own work out of what it measures: it notes when bytes came, which is
half a millisecond before Hypercorn has made a request of them, and once it has written it lets
their reader have the processor before it tidies up.
"""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import h2.errors
import h2.events
import h2.exceptions
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr
from priority.priority import DeadlockError, MissingStreamError

Scope = dict[str, Any]
STATE_KEY: Final = "peregrine_connection"
DRAIN_SECONDS: Final = 1.0
LARGEST_WRITE: Final = 64 * 1024


class _RoundRobin:
    """Whose turn it is to send: every stream with data in turn. The interface of PriorityTree."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._ready: dict[int, None] = {}

    def insert_stream(self, stream_id: int, **_: object) -> None:
        self._known.add(stream_id)
        self._ready[stream_id] = None

    def reprioritize(self, stream_id: int, **_: object) -> None:
        if stream_id not in self._known:
            raise MissingStreamError(stream_id)

    def block(self, stream_id: int) -> None:
        self._ready.pop(stream_id, None)

    def unblock(self, stream_id: int) -> None:
        if stream_id not in self._known:
            raise MissingStreamError(stream_id)
        self._ready[stream_id] = None

    def remove_stream(self, stream_id: int) -> None:
        self._known.discard(stream_id)
        self._ready.pop(stream_id, None)

    def __next__(self) -> int:
        for stream_id in self._ready:
            del self._ready[stream_id]
            self._ready[stream_id] = None
            return stream_id
        raise DeadlockError


class _Http2(H2Protocol):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.priority = _RoundRobin()  # type: ignore[assignment]  # the part of it that is used

    async def reset(self, scope: Scope) -> None:
        """End the stream of `scope` with RST_STREAM, after what it has already been given."""
        found = [id for id, one in self.streams.items() if getattr(one, "scope", None) is scope]
        if not found:
            return
        stream_id = found[0]
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and buffer.buffer:
            await asyncio.wait_for(buffer.drain(), DRAIN_SECONDS)
        self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        await self._flush()
        await self._forget(stream_id)
        await self._close_stream(stream_id)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                # The rest of a body whose stream was cut here.
                continue
            await super()._handle_events([event])
            if isinstance(event, h2.events.StreamReset):
                await self._forget(event.stream_id)

    async def send_task(self) -> None:
        """Frames what every ready stream has, then writes it all at once."""
        framed = 0
        while not self.closed:
            try:
                framed += await self._frame(next(self.priority))
            except DeadlockError:
                await self._flush()
                framed = 0
                await self.has_data.wait()
                await self.has_data.clear()
            if framed >= LARGEST_WRITE:
                await self._flush()
                framed = 0

    async def _frame(self, stream_id: int) -> int:
        """One DATA frame of the stream, as far as its window goes; returns the bytes of data."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None:
            self.priority.remove_stream(stream_id)
            return 0
        try:
            window = self.connection.local_flow_control_window(stream_id)
            data = await buffer.pop(max(0, min(window, self.connection.max_outbound_frame_size)))
            over = buffer.complete
            if data or over:
                self.connection.send_data(stream_id, data, end_stream=over)
        except h2.exceptions.ProtocolError:
            await self._forget(stream_id)  # closed while it waited
            return 0
        if over:
            await self._forget(stream_id)
        elif not data or not buffer.buffer:
            self.priority.block(stream_id)
        return len(data)

    async def _forget(self, stream_id: int) -> None:
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()
        self.priority.remove_stream(stream_id)


class _Protocols(ProtocolWrapper):
    """Starts with what ALPN chose, or HTTP/1.1; switches when the client's preface is HTTP/2's."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        state: ConnectionState,
        tls: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
        alpn_protocol: str,
    ) -> None:
        super().__init__(
            app, config, context, task_group, state, tls, client, server, send, alpn_protocol
        )
        self._connection: Connection = state[STATE_KEY]
        self._parts = (app, config, context, task_group, state, tls, client, server, send)
        if alpn_protocol == "h2":
            self.protocol = _Http2(*self._parts)

    async def handle(self, event: Event) -> None:
        self._connection.note_bytes()
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as switch:
            self.protocol = _Http2(*self._parts)
            await self.protocol.initiate()
            await self.protocol.handle(RawData(data=switch.data))
        except H2CProtocolRequiredError as switch:
            self.protocol = _Http2(*self._parts)
            await self.protocol.initiate(switch.headers, switch.settings)
            if switch.data:
                await self.protocol.handle(RawData(data=switch.data))


class Connection(TCPServer):
    """A connection from accept to close; `run` returns when it is over."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        state: LifespanState = {STATE_KEY: self}
        # When the newest bytes came, by the loop's clock.
        self.heard = 0.0
        super().__init__(app, asyncio.get_running_loop(), config, context, state, reader, writer)

    async def run(self) -> None:
        try:
            raw = self.writer.get_extra_info("socket")
            tls: ssl.SSLObject | None = self.writer.get_extra_info("ssl_object")
            alpn = tls.selected_alpn_protocol() if tls else None
            async with TaskGroup(self.loop) as task_group:
                self.protocol = _Protocols(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    ConnectionState(self.state),
                    tls is not None,
                    parse_socket_addr(raw.family, raw.getpeername()),
                    parse_socket_addr(raw.family, raw.getsockname()),
                    self.protocol_send,
                    alpn or "http/1.1",
                )
                await self.protocol.initiate()
                await self._read_data()
        except OSError:
            pass  # the client went away, which is its right
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, Updated):  # which would start and stop the idle timeout
            await super().protocol_send(event)
            os.sched_yield()

    def note_bytes(self) -> None:
        self.heard = self.loop.time()

    async def cut(self, scope: Scope, what: Literal["stream", "connection"]) -> None:
        """Break off the response to `scope`; what was sent before still arrives."""
        protocol = self.protocol.protocol
        if what == "stream" and isinstance(protocol, _Http2):
            await protocol.reset(scope)
        else:
            self.writer.transport.abort()

    def abort(self) -> None:
        self.writer.transport.abort()


def of(scope: Scope) -> Connection:
    """The connection that `scope` came in on."""
    connection: Connection = scope["state"][STATE_KEY]
    return connection
