"""One HTTP/2 connection to the provider: `h2` for the protocol, an asyncio.Protocol for the bytes.

The client that comes with `httpx2` (httpcore2 2.16) speaks HTTP/2 well enough for short requests,
and not for this job. Closing a response sends no RST_STREAM: tried against the simulator, the
provider went on to the end of its answer, and the bytes that nobody reads use up the connection's
window. A read timeout of one request fails all others of its connection. A task that is cancelled
while it writes can lose a frame that other streams depend on. (It also costs a quarter more CPU:
137 µs against 110 µs per event, SDK and decoding included, for ten streams of 200 tokens at 100 a
second.) Here:

- Frames are handed to the socket in the call that makes them; nothing a task does or fails to do
  can lose one. Reading is the event loop's: no task holds a lock over others.
- `Stream.close` before the end sends RST_STREAM with CANCEL, at once, for that stream alone.
- What came in one read of the socket is read in one piece.
- The window is given back as data is consumed, so a reader that stops is what stops the sender;
  what a closed stream left unread is given back too.
- PING notices a peer that is gone without a word.

Nothing here waits without the caller's own deadline.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

# What the peer may send ahead of the reader, per stream and in all; RFC 9113, section 6.9.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24
# Before the peer has said otherwise; RFC 9113 recommends to allow no fewer than 100.
_STREAMS = 100
_SETTINGS = b"\x04"
_HOP_BY_HOP = frozenset(
    {b"host", b"connection", b"transfer-encoding", b"keep-alive", b"upgrade", b"proxy-connection"}
)


class Broken(Exception):
    """The connection or the stream ended before the answer did."""


class Unprocessed(Broken):
    """As `Broken`, and the server has said that it never looked at the request."""


class NotHttp2(Exception):
    """The peer answered, in HTTP/1."""


class _Lasting(h2.connection.H2ConnectionStateMachine):
    """`h2` takes GOAWAY for the end. It is the end of new streams; RFC 9113, section 6.8."""

    def process_input(self, input_: h2.connection.ConnectionInputs) -> list[h2.events.Event]:
        if input_ is h2.connection.ConnectionInputs.RECV_GOAWAY:
            return []
        return super().process_input(input_)


class Connection(asyncio.Protocol):
    """Made by `loop.create_connection`; usable once `ready` has returned.

    Args:
      on_free: called when a stream ended, and when the connection takes no more.
    """

    def __init__(self, *, on_free: Callable[[], None]) -> None:
        self._on_free = on_free
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.state_machine = _Lasting()
        self._streams: dict[int, Stream] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._pong: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._capacity = _STREAMS
        # Why no new stream may be opened: lost, or told to go away.
        self._closing: Broken | None = None
        # When the peer last sent something, on the event loop's clock; 0 before.
        self.last_heard = 0.0

    # What the pool asks.

    @property
    def usable(self) -> bool:
        return self._closing is None

    @property
    def load(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def free(self) -> int:
        """Streams that may still be opened."""
        return 0 if self._closing else self._capacity - len(self._streams)

    async def ready(self) -> None:
        """Returns when the peer has shown that it speaks HTTP/2.

        Raises:
          NotHttp2, Broken.
        """
        await asyncio.shield(self._ready)

    async def ping(self, timeout: float) -> None:
        """Loses the connection if the peer does not answer within `timeout` seconds."""
        if self._pong is None:
            self._pong = self._loop.create_future()
            self._h2.ping(b"peregrin")
            self._flush()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._pong)
        except TimeoutError:
            self._lose(Broken("the peer does not answer pings"))

    async def open(self, headers: Headers, body: bytes) -> "Stream":
        """Sends a request. If the caller is cancelled on the way, the stream is reset.

        Raises:
          Unprocessed: the connection takes no more requests.
        """
        if self._closing is not None:
            raise Unprocessed(str(self._closing))
        stream = Stream(self, self._h2.get_next_available_stream_id())
        self._h2.send_headers(stream.id, headers, end_stream=not body)
        self._streams[stream.id] = stream
        try:
            await self._send(stream, memoryview(body))
        except BaseException:
            stream.close()
            raise
        return stream

    async def _send(self, stream: "Stream", left: memoryview) -> None:
        while left and not stream.over:
            window = self._h2.local_flow_control_window(stream.id)
            size = min(window, self._h2.max_outbound_frame_size, len(left))
            if size > 0:
                self._h2.send_data(stream.id, left[:size], end_stream=size == len(left))
                left = left[size:]
            # Headers and a small body leave in one write.
            self._flush()
            if size <= 0:
                await stream.changed()
            elif not self._writable.is_set():
                await self._writable.wait()
        self._flush()
        stream.sent = not left

    def consumed(self, stream: "Stream", size: int) -> None:
        """Gives back the window of what a reader took."""
        if self._transport is not None:
            # The connection may be closing, when windows no longer matter.
            with suppress(h2.exceptions.ProtocolError):
                self._h2.acknowledge_received_data(size, stream.id)
            self._flush()

    def forget(self, stream: "Stream", *, reset: bool) -> None:
        """A stream has ended for its reader."""
        if self._streams.pop(stream.id, None) is None:
            return
        if reset and self._transport is not None:
            # It may have ended at the peer in the same moment.
            with suppress(h2.exceptions.ProtocolError):
                self._h2.reset_stream(stream.id, h2.errors.ErrorCodes.CANCEL)
            self._flush()
        if self._closing is not None and not self._streams:
            self.close()
        self._on_free()

    def close(self) -> None:
        """Says goodbye and closes; what is under way fails."""
        if self._transport is not None:
            with suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection()
            self._flush()
        self._lose(Broken("the connection was closed"), abort=False)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if not self.last_heard and len(data) > 3 and not data.startswith(_SETTINGS, 3):
            # The first frame is SETTINGS; RFC 9113, section 3.4.
            error = NotHttp2() if data.startswith(b"HTTP/") else Broken("the peer speaks no HTTP")
            self._fail_ready(error)
            self._lose(Broken(str(error)))
            return
        self.last_heard = self._loop.time()
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._flush()
            self._lose(Broken(f"the peer broke the protocol: {type(error).__name__}"))
            return
        touched: dict[int, Stream] = {}
        for event in events:
            self._received(event, touched)
        for stream in touched.values():
            stream.wake()
        self._flush()

    def _received(self, event: h2.events.Event, touched: "dict[int, Stream]") -> None:
        number: Any = getattr(event, "stream_id", None)
        stream = self._streams.get(number) if number else None
        if stream is not None:
            touched[stream.id] = stream
            stream.received(event)
        match event:
            case h2.events.WindowUpdated() if not number:
                touched.update(self._streams)
            case h2.events.RemoteSettingsChanged():
                self._capacity = min(self._h2.remote_settings.max_concurrent_streams, 1 << 16)
                touched.update(self._streams)
                if not self._ready.done():
                    self._ready.set_result(None)
            case h2.events.PingAckReceived() if self._pong is not None:
                if not self._pong.done():
                    self._pong.set_result(None)
                self._pong = None
            case h2.events.ConnectionTerminated():
                self._go_away(event.last_stream_id or 0)

    def _go_away(self, last: int) -> None:
        self._closing = self._closing or Unprocessed("the peer is closing the connection")
        self._fail_ready(self._closing)
        for stream in [each for each in self._streams.values() if each.id > last]:
            stream.fail(Unprocessed("the peer did not look at the request"))
        if not self._streams:
            self.close()
        self._on_free()

    def eof_received(self) -> None:
        return None  # closes

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lose(Broken(f"the connection was lost{f' ({error})' if error else ''}"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _lose(self, error: Broken, *, abort: bool = True) -> None:
        """Fails everything that waits for the connection, and ends it."""
        self._closing = error
        self._writable.set()
        self._fail_ready(error)
        if self._pong is not None and not self._pong.done():
            self._pong.set_result(None)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)
        if self._transport is not None:
            transport, self._transport = self._transport, None
            if abort:
                transport.abort()
            else:
                transport.close()
        self._on_free()

    def _fail_ready(self, error: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # whether or not somebody waits

    def _flush(self) -> None:
        if self._transport is not None and (data := self._h2.data_to_send()):
            self._transport.write(data)


class Stream:
    """One request and its answer. Its reader, one task, calls `answer`, then `read` to the end."""

    def __init__(self, connection: Connection, id: int) -> None:
        self.id = id
        self._connection = connection
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._chunks: list[bytes] = []
        self._unread = 0
        self._complete = False
        self._error: Broken | None = None
        self._waiting: asyncio.Future[None] | None = None
        # Whether the whole request has left.
        self.sent = False

    @property
    def over(self) -> bool:
        """Nothing more is to be sent: the answer is complete, or there will be none."""
        return self._complete or self._error is not None

    async def answer(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers. Raises `Broken`."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self.changed()
        return self._head

    async def read(self) -> bytes:
        """All that has come since, at least one byte; empty at the end. Raises `Broken`."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._complete:
                self._connection.forget(self, reset=not self.sent)
                return b""
            await self.changed()
        chunks, self._chunks = self._chunks, []
        unread, self._unread = self._unread, 0
        self._connection.consumed(self, unread)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Ends the request: at the provider too, if the answer is not complete."""
        if self._unread:
            unread, self._unread = self._unread, 0
            self._chunks.clear()
            self._connection.consumed(self, unread)
        self._connection.forget(self, reset=not (self._complete and self.sent))

    async def changed(self) -> None:
        """Returns when something came for this stream, or a window grew."""
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    # What the connection calls.

    def received(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived(data=data, flow_controlled_length=length):
                if data:
                    self._chunks.append(data)
                self._unread += length or 0
            case h2.events.ResponseReceived(headers=headers):
                self._head = _head(headers or ())
            case h2.events.StreamEnded():
                self._complete = True
            case h2.events.StreamReset(error_code=code):
                # A server may answer without reading the whole request; RFC 9113, section 8.1.
                if not self._complete:
                    refused = code == h2.errors.ErrorCodes.REFUSED_STREAM
                    kind = Unprocessed if refused else Broken
                    self._error = kind(f"the peer reset the stream ({code!r})")

    def fail(self, error: Broken) -> None:
        if not self._complete:
            self._error = error
        self.wake()

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def request_headers(
    method: bytes,
    scheme: bytes,
    authority: bytes,
    path: bytes,
    headers: Iterable[tuple[bytes, bytes]],
) -> list[tuple[bytes, bytes]]:
    """The headers of a request as HTTP/2 wants them."""
    return [
        (b":method", method),
        (b":authority", authority),
        (b":scheme", scheme),
        (b":path", path),
        *((lower, value) for name, value in headers if (lower := name.lower()) not in _HOP_BY_HOP),
    ]


def _head(headers: Iterable[Any]) -> tuple[int, list[tuple[bytes, bytes]]]:
    status = 0
    rest = []
    for name, value in headers:
        if name == b":status":
            status = int(value)
        elif not name.startswith(b":"):
            rest.append((name, value))
    return status, rest
