"""The HTTP client under the SDK: versions, connections, and peers that misbehave."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx2
import pytest

from peregrine.llm_gateway import http2, transport
from peregrine.llm_gateway.transport import Opened, open_client
from tests.support.eventually import eventually


@asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[Opened]:
    given = {"protocol": "auto", "connections": 1, "connect_seconds": 5.0}
    async with open_client(url, **{**given, **settings}) as opened:
        yield opened


def pool(opened: Opened) -> transport.Pool:
    assert opened.pool is not None
    return opened.pool


class Peer(asyncio.Protocol):
    """An HTTP/2 server of a few lines that does to each request what the test says."""

    def __init__(self, answer: "Callable[[Peer, int], None]", streams: int) -> None:
        self._answer = answer
        self._streams = streams
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.events: list[h2.events.Event] = []
        self.transport: Any = None
        self.lost = asyncio.Event()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        self.transport = made
        maximum = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={maximum: self._streams}
        )
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.StreamEnded):
                self._answer(self, event.stream_id)
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def respond(self, stream_id: int, body: bytes = b"ok", *, end: bool = True) -> None:
        self.h2.send_headers(stream_id, [(":status", "200")])
        self.h2.send_data(stream_id, body, end_stream=end)

    def seen(self, kind: type[h2.events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def listening(
    make: Callable[[], Peer], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[Peer]]]:
    """A URL, and what `make` made for each connection to it."""
    peers: list[Peer] = []

    def accept() -> Peer:
        peers.append(make())
        return peers[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https://localhost' if tls else 'http://127.0.0.1'}:{port}", peers
    finally:
        server.close()
        # One that refused the handshake was never connected.
        connected = [each for each in peers if each.transport is not None]
        for each in connected:
            each.transport.abort()
        await asyncio.gather(*(each.lost.wait() for each in connected))


def peer(
    answer: Callable[[Peer, int], None], *, streams: int = 100
) -> AbstractAsyncContextManager[tuple[str, list[Peer]]]:
    return listening(lambda: Peer(answer, streams))


class Line(Peer):
    """A server that answers whatever comes with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(Peer.respond, 100)
        self._bytes = answer
        self.heard = b""

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        self.transport = made

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self._bytes:
            self.transport.write(self._bytes)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_server_of_http1_is_found_out_and_spoken_to_in_http1() -> None:
    class Old(Line):
        def data_received(self, data: bytes) -> None:
            if data.startswith(b"PRI"):
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            else:
                super().data_received(data)

    async with listening(lambda: Old(OK)) as (url, _), client(url) as opened:
        await opened.warm()
        assert pool(opened).speaks_http1
        for _ in range(2):
            response = await opened.http.get(url)
            assert (response.http_version, response.text) == ("HTTP/1.1", "ok")


def tls(certificate: tuple[str, str], *offered: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(list(offered))
    return context


@pytest.mark.parametrize(
    ("offered", "make", "version"),
    [
        ("h2", lambda: Peer(Peer.respond, 100), "HTTP/2"),
        ("http/1.1", lambda: Line(OK), "HTTP/1.1"),
    ],
)
async def test_over_tls_the_version_is_negotiated(
    certificate: tuple[str, str], offered: str, make: Callable[[], Peer], version: str
) -> None:
    trusted = ssl.create_default_context(cafile=certificate[0])
    async with (
        listening(make, tls=tls(certificate, offered)) as (url, _),
        client(url, verify=trusted) as opened,
    ):
        response = await opened.http.post(url, content=b"x")
        assert (response.http_version, response.text) == (version, "ok")


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    certificate: tuple[str, str],
) -> None:
    async with (
        listening(lambda: Line(b""), tls=tls(certificate, "h2")) as (url, _),
        client(url) as opened,
    ):
        with pytest.raises(httpx2.ConnectError):
            await opened.http.get(url)


async def test_requests_beyond_the_streams_of_a_connection_open_another() -> None:
    held: list[tuple[Peer, int]] = []

    async with peer(lambda to, stream: held.append((to, stream)), streams=3) as (url, peers):
        async with client(url) as opened, asyncio.TaskGroup() as group:
            requests = [group.create_task(opened.http.post(url, content=b"x")) for _ in range(7)]
            await eventually(lambda: len(held) == 7)
            assert len(peers) == 3
            for to, stream in held:
                to.respond(stream)
                to.flush()
        assert {each.result().text for each in requests} == {"ok"}


async def test_a_request_that_a_closing_server_did_not_look_at_is_sent_again() -> None:
    def answer(to: Peer, stream: int) -> None:
        if to is peers[0]:
            to.h2.close_connection(last_stream_id=0)
        else:
            to.respond(stream)

    async with peer(answer) as (url, peers), client(url) as opened:
        assert (await opened.http.post(url, content=b"x")).text == "ok"
        assert len(peers) == 2


async def test_what_a_closing_server_has_begun_it_may_end() -> None:
    held: list[tuple[Peer, int]] = []

    async with peer(lambda to, stream: held.append((to, stream))) as (url, peers):
        async with client(url) as opened:
            request = asyncio.create_task(opened.http.post(url, content=b"x"))
            await eventually(lambda: held)
            to, stream = held[0]
            # As a server that drains: "no more", then the answers that are still due.
            to.transport.write(goaway(last=stream))
            await eventually(lambda: not pool(opened).connections)
            to.respond(stream)
            to.flush()
            assert (await request).text == "ok"
            assert len(peers) == 1


def goaway(*, last: int) -> bytes:
    return bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + last.to_bytes(4) + (0).to_bytes(4)


async def test_a_stream_that_is_refused_is_sent_again() -> None:
    refused: list[int] = []

    def answer(to: Peer, stream: int) -> None:
        if not refused:
            refused.append(stream)
            to.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            to.respond(stream)

    async with peer(answer) as (url, _), client(url) as opened:
        assert (await opened.http.post(url, content=b"x")).text == "ok"


async def test_a_body_waits_for_the_window_and_a_cancelled_one_is_reset() -> None:
    async with peer(Peer.respond) as (url, peers), client(url) as opened:
        # The peer grants no window beyond the first 65,535 bytes.
        sending = asyncio.create_task(opened.http.post(url, content=b"x" * 200_000))
        await eventually(lambda: peers and received(peers[0]) == 65_535)

        sending.cancel()

        await eventually(lambda: peers[0].seen(h2.events.StreamReset))
        (reset,) = peers[0].seen(h2.events.StreamReset)
        assert reset.error_code == h2.errors.ErrorCodes.CANCEL
        assert len(pool(opened).connections) == 1


def received(to: Peer) -> int:
    return sum(len(event.data) for event in to.seen(h2.events.DataReceived))


async def test_an_answer_that_comes_before_the_request_was_read_is_an_answer() -> None:
    class Hasty(Peer):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for event in self.seen(h2.events.RequestReceived):
                self.events.remove(event)
                self.respond(event.stream_id, b"too large")
                self.h2.reset_stream(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)
                self.flush()

    async with listening(lambda: Hasty(Peer.respond, 100)) as (url, _), client(url) as opened:
        response = await opened.http.post(url, content=b"x" * 200_000)
        assert response.text == "too large"


async def test_unread_bytes_hold_the_sender_back_and_a_closed_stream_gives_them_back() -> None:
    def answer(to: Peer, stream: int) -> None:
        to.h2.send_headers(stream, [(":status", "200")])
        pour(to, stream)

    def pour(to: Peer, stream: int) -> None:
        while size := min(to.h2.local_flow_control_window(stream), 16_384):
            to.h2.send_data(stream, b"x" * size)
            to.flush()

    async with peer(answer) as (url, peers), client(url) as opened:
        for _ in range(40):  # 40 windows of a stream are more than the connection's
            async with opened.http.stream("POST", url, content=b"x") as response:
                chunks = response.aiter_raw()
                assert await anext(chunks)
        to = peers[0]
        await eventually(lambda: len(to.seen(h2.events.StreamReset)) == 40)
        await eventually(lambda: to.h2.outbound_flow_control_window > http2.STREAM_WINDOW)


async def test_a_peer_that_does_not_answer_pings_loses_its_connection() -> None:
    freed = asyncio.Event()
    async with listening(lambda: Line(b"")) as (url, _):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: http2.Connection(on_free=freed.set), "127.0.0.1", int(url.rpartition(":")[2])
        )
        stream = await connection.open([(b":method", b"GET")], b"")

        await connection.ping(0.05)

        assert not connection.usable
        with pytest.raises(http2.Broken):
            await stream.answer()
        assert freed.is_set()


async def test_a_peer_that_answers_pings_keeps_its_connection() -> None:
    async with peer(Peer.respond) as (url, _), client(url) as opened:
        await opened.warm()
        (connection,) = pool(opened).connections
        await connection.ping(5.0)
        assert connection.usable


async def test_another_origin_is_not_talked_to() -> None:
    async with peer(Peer.respond) as (url, _), client(url) as opened:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await opened.http.get("http://localhost:1/")


async def test_what_is_not_http_is_unreachable() -> None:
    greeting = b"220 mail.example ESMTP\r\n" * 4
    async with listening(lambda: Line(greeting)) as (url, _), client(url) as opened:
        with pytest.raises(httpx2.ConnectError):
            await opened.http.get(url)


async def test_behind_a_proxy_the_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(lambda: Line(OK)) as (url, peers):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("no_proxy", "")
        async with client("http://model.example") as opened:
            await opened.warm()
            assert (await opened.http.get("http://model.example/v1")).text == "ok"
        (proxy,) = peers
        assert isinstance(proxy, Line)
        assert proxy.heard.startswith(b"GET http://model.example/v1 HTTP/1.1\r\n")
