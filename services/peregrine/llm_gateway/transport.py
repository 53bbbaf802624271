"""The HTTP client under the SDK: HTTP/2, pooled, warm. The one home of `httpx2`.

A few connections are opened before the gateway says it serves, are replaced when they are lost, and
carry all requests as streams; more are opened while these are full. Over TLS the protocol is
negotiated (ALPN). Over plain http it is HTTP/2 with prior knowledge; a server that answers in
HTTP/1 is spoken to in HTTP/1.1 from then on. So is everything behind a proxy (HTTPS_PROXY and the
like): there, and then, `httpx2`'s own pool does the work, where closing a response closes its
connection, which ends the request upstream as well.
"""

import asyncio
import logging
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx2
import structlog

from peregrine.llm_gateway import http2

Client: TypeAlias = httpx2.AsyncClient
Response: TypeAlias = httpx2.Response
TransportError: TypeAlias = httpx2.TransportError
ConnectTimeout: TypeAlias = httpx2.ConnectTimeout

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 32
# A connection that was silent this long is asked whether it lives, and given this long to answer.
PING_SECONDS = 20.0
PONG_SECONDS = 5.0
_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 5.0
# A server that is closing its connections may refuse a request that it never looked at.
_MAX_TRIES = 3
_IDLE_SECONDS = 60.0


@asynccontextmanager
async def open_client(
    base_url: str,
    *,
    protocol: str,
    connections: int,
    connect_seconds: float,
    verify: ssl.SSLContext | None = None,
) -> AsyncIterator["Opened"]:
    """The client for `base_url`, closed at the end of the block. Connects nothing by itself.

    Args:
      protocol: "auto" or "1.1".
      connections: how many `Opened.warm` opens and keeps.
      verify: whom to trust; by default the usual authorities, or what SSL_CERT_FILE names.
    """
    # One line per request, at INFO, from a library.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    context = verify or httpx2.create_ssl_context()
    limits = httpx2.Limits(max_keepalive_connections=100, keepalive_expiry=_IDLE_SECONDS)
    pool: Pool | None = None
    transport: httpx2.AsyncBaseTransport | None = None
    if not _proxied(base_url):
        http1 = httpx2.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
        transport = http1
        if protocol == "auto":
            transport = pool = Pool(
                base_url,
                tls=context,
                http1=http1,
                connections=connections,
                connect_seconds=connect_seconds,
            )
    # Reading has no timeout here: the caller's deadlines are asyncio's, and they know more.
    timeout = httpx2.Timeout(None, connect=connect_seconds)
    async with httpx2.AsyncClient(
        transport=transport, verify=context, timeout=timeout, limits=limits, follow_redirects=False
    ) as client:
        yield Opened(client, pool)


class Opened:
    """A client, and its pool if it is ours."""

    def __init__(self, http: Client, pool: "Pool | None") -> None:
        self.http = http
        self.pool = pool

    def poster(self, url: str, headers: Mapping[str, str]) -> "Poster":
        return Poster(self.http, self.pool, url, headers)

    async def warm(self) -> None:
        """Opens connections, as far as that goes, and keeps them from now on.

        A provider that is away keeps nobody from serving: each call says so, typed, which is more
        than a gateway that is not there can say.
        """
        if self.pool is not None:
            await self.pool.warm()


class Poster:
    """POSTs one body after the other to one URL with one set of headers, and streams the answers.

    The request is made once: making it, through a client's layers, took 1.0 ms of CPU in a tight
    loop and 2.2 ms between other work, sending it takes a tenth.
    """

    def __init__(
        self, http: Client, pool: "Pool | None", url: str, headers: Mapping[str, str]
    ) -> None:
        self._http = http
        self._pool = pool
        self._url = httpx2.URL(url)
        self._headers = httpx2.Headers(headers)
        raw = self._url
        self._http2 = http2.request_headers(
            b"POST", raw.raw_scheme, raw.netloc, raw.raw_path, self._headers.raw
        )

    async def post(self, content: bytes) -> Response:
        """The answer, whatever its status, its body still to be read and closed.

        Raises: TransportError.
        """
        if self._pool is not None:
            sized = [*self._http2, (b"content-length", b"%d" % len(content))]
            response = await self._pool.exchange(sized, content)
            if response is not None:
                return response
        request = self._http.build_request(
            "POST", self._url, headers=self._headers, content=content
        )
        return await self._http.send(request, stream=True)


class Pool(httpx2.AsyncBaseTransport):
    """HTTP/2 connections to one origin, or HTTP/1.1 if that is what the server speaks."""

    def __init__(
        self,
        base_url: str,
        *,
        tls: ssl.SSLContext,
        http1: httpx2.AsyncHTTPTransport,
        connections: int,
        connect_seconds: float,
    ) -> None:
        url = httpx2.URL(base_url)
        self._origin = _origin(url)
        self._host = url.host
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = tls if url.scheme == "https" else None
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2", "http/1.1"])
        self._http1 = http1
        self._wanted = connections
        self._connect_seconds = connect_seconds
        self._connections: list[http2.Connection] = []
        self._opening: asyncio.Task[None] | None = None
        self._freed = asyncio.Event()
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self.speaks_http1 = False

    @property
    def connections(self) -> tuple[http2.Connection, ...]:
        """Those that take requests."""
        return tuple(each for each in self._connections if each.usable)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if _origin(request.url) != self._origin:
            raise httpx2.UnsupportedProtocol("this client talks to one origin only")
        body = await request.aread()
        url = request.url
        headers = http2.request_headers(
            request.method.encode(), url.raw_scheme, url.netloc, url.raw_path, request.headers.raw
        )
        response = await self.exchange(headers, body)
        if response is None:
            return await self._http1.handle_async_request(request)
        return response

    async def exchange(self, headers: http2.Headers, body: bytes) -> Response | None:
        """Sends a request of this origin; None when the server speaks HTTP/1.

        Raises: TransportError.
        """
        for last in (False,) * (_MAX_TRIES - 1) + (True,):
            waited = 0.0
            connection = self._free_connection()
            if connection is None and not self.speaks_http1:
                began = time.monotonic()
                connection = await self._wait_for_connection()
                waited = time.monotonic() - began
            if connection is None:
                return None
            try:
                return await _exchange(connection, headers, body, waited)
            except http2.Unprocessed as error:
                if last:
                    raise httpx2.RemoteProtocolError(str(error)) from error
            except http2.Broken as error:
                raise httpx2.ReadError(str(error)) from error
        raise AssertionError("unreachable")

    def _free_connection(self) -> http2.Connection | None:
        free = [each for each in self._connections if each.free > 0]
        return min(free, key=lambda each: each.load) if free else None

    async def _wait_for_connection(self) -> http2.Connection | None:
        """A connection with a free stream; None once the server turned out to speak HTTP/1."""
        while not self.speaks_http1:
            if connection := self._free_connection():
                return connection
            if len(self.connections) >= MAX_CONNECTIONS:
                self._freed.clear()
                await self._freed.wait()
            else:
                await self._open_one()
        return None

    async def _open_one(self) -> None:
        """Opens a connection. All who need one meanwhile wait for the same.

        Raises:
          httpx2.ConnectError
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect(), name="provider-connect")
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whether or not somebody still waits for it

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection: http2.Connection | None = None
        try:
            async with asyncio.timeout(self._connect_seconds):
                transport, connection = await loop.create_connection(
                    lambda: http2.Connection(on_free=self._on_free),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    happy_eyeballs_delay=0.25,
                )
                tls = transport.get_extra_info("ssl_object")
                if tls is not None and tls.selected_alpn_protocol() != "h2":
                    raise http2.NotHttp2
                await connection.ready()
        except http2.NotHttp2:
            log.info("provider_speaks_http1")
            self.speaks_http1 = True
        except TimeoutError:
            raise httpx2.ConnectError(f"not connected within {self._connect_seconds:g} s") from None
        except (OSError, http2.Broken) as error:
            raise httpx2.ConnectError(str(error)) from error
        else:
            self._connections = [*self._connections, connection]
        finally:
            if connection is not None and connection not in self._connections:
                connection.close()

    def _on_free(self) -> None:
        self._freed.set()
        if not all(each.usable for each in self._connections):
            self._connections = [each for each in self._connections if each.usable or each.load]
            self._lost.set()

    async def warm(self) -> None:
        """Opens the connections that are wanted, as far as possible, and starts to keep them."""
        try:
            await self._fill()
        except httpx2.ConnectError as error:
            log.warning("provider_unreachable", error=str(error))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="provider-keeper")

    async def _fill(self) -> None:
        while len(self.connections) < self._wanted and not self.speaks_http1:
            await self._open_one()

    async def _keep(self) -> None:
        """Replaces lost connections and pings silent ones."""
        backoff = _FIRST_BACKOFF
        while not self.speaks_http1:
            self._lost.clear()
            try:
                await self._fill()
                backoff = _FIRST_BACKOFF
                pause = PING_SECONDS / 2
            except httpx2.ConnectError:
                # Not in a hurry: a call that needs a connection opens it itself.
                pause, backoff = backoff, min(backoff * 2, _MAX_BACKOFF)
                await asyncio.sleep(pause)
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._lost.wait()
            except TimeoutError:
                await self._ping()

    async def _ping(self) -> None:
        now = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as pings:
            for connection in self.connections:
                if now - connection.last_heard >= PING_SECONDS:
                    pings.create_task(connection.ping(PONG_SECONDS))

    async def aclose(self) -> None:
        tasks = [task for task in (self._keeper, self._opening) if task is not None]
        self._keeper = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()
        await self._http1.aclose()


async def _exchange(
    connection: http2.Connection, headers: http2.Headers, body: bytes, waited: float
) -> httpx2.Response:
    stream = await connection.open(headers, body)
    try:
        status, answered = await stream.answer()
    except BaseException:
        stream.close()
        raise
    return httpx2.Response(
        status,
        headers=answered,
        stream=_Body(stream),
        extensions={"http_version": b"HTTP/2", "connect_seconds": waited},
    )


class _Body(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """The body of an answer; closing it before its end resets the stream."""

    def __init__(self, stream: http2.Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._stream.read()
        except http2.Broken as error:
            raise httpx2.ReadError(str(error)) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._stream.close()


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _proxied(url: str) -> bool:
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if parts.scheme not in proxies and "all" not in proxies:
        return False
    return not urllib.request.proxy_bypass(parts.hostname or "")
