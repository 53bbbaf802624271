"""One request and its response, with a clock that is absolute and an ear on the client.

Pacing is against deadlines on the event loop's clock, so lateness never adds up: what is late is
followed by what is on time. While the response runs, a task listens for the client to go away
(RST_STREAM or close), and whatever waits is woken at that moment with `ClientClosed`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

from peregrine.simulator import connection
from peregrine.simulator.wire import ApiError

Headers = list[tuple[bytes, bytes]]


class ClientClosed(Exception):
    """The client ended the request at `at` (loop time)."""

    def __init__(self, at: float) -> None:
        super().__init__("the client closed the request")
        self.at = at


class Exchange:
    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._closed_at: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        # When the request came, not when it came to be looked at.
        self.started = connection.of(scope).heard

    @property
    def protocol(self) -> str:
        version = self._scope["http_version"]
        return "HTTP/2" if version == "2" else f"HTTP/{version}"

    def now(self) -> float:
        return self._loop.time()

    async def body(self, limit: int) -> bytes:
        """The whole body; past `limit` it is read to its end and answered with 413."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientClosed(self.now())
            size += len(message["body"])
            if size <= limit:
                chunks.append(message["body"])
            if not message["more_body"]:
                break
        if size > limit:
            raise ApiError(413, "Request exceeds the maximum size")
        return b"".join(chunks)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Listen for the client's end of the request; from here on `until` notices it."""
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def until(self, at: float) -> None:
        """Return at loop time `at`, or raise `ClientClosed` as soon as the client is gone."""
        if self._closed_at is None:
            if at <= self._loop.time():
                await asyncio.sleep(0)  # a stream that is late must not starve the others
            else:
                self._waiter = self._loop.create_future()
                timer = self._loop.call_at(at, _wake, self._waiter)
                try:
                    await self._waiter
                finally:
                    timer.cancel()
                    self._waiter = None
        if self._closed_at is not None:
            raise ClientClosed(self._closed_at)

    async def start(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, [*headers, (b"content-type", b"application/json"), length])
        await self.write(body, more=False)

    async def cut(self, what: Literal["stream", "connection"]) -> None:
        await connection.of(self._scope).cut(self._scope, what)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._closed_at = self._loop.time()
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
