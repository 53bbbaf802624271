"""The HTTP below a session with an MCP server. The one home of `httpx2` in this service.

The SDK brings a client of its own; this one gives it connections of the guarded pool that every
other request of a tool goes through (`outbound`), and bounds what comes back.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpcore
import httpx2

from peregrine.tools import egress
from peregrine.tools.bodies import MAX_BYTES

Failure = httpx2.HTTPError

_TIMEOUTS = httpx2.Timeout(30.0, read=310.0)
_REFUSED_BY_HTTP = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)


def client(headers: Mapping[str, str], pool: httpcore.AsyncConnectionPool) -> httpx2.AsyncClient:
    """Sends `headers` with every request; raises `Failure`. Closing it leaves the pool open."""
    return httpx2.AsyncClient(
        transport=_Bridge(pool),
        headers={"accept-encoding": "identity", **headers},
        timeout=_TIMEOUTS,
        trust_env=False,
    )


class _Bridge(httpx2.AsyncBaseTransport):
    """The SDK's HTTP client on the guarded pool of the worker, with bounded answers."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        target = egress.parse(str(request.url))
        try:
            answer = await self._pool.handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=target.scheme.encode(),
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except _REFUSED_BY_HTTP as error:
            raise httpx2.ConnectError(str(error) or "no connection was made") from error
        except egress.Refused as refusal:
            raise httpx2.ConnectError(str(refusal)) from refusal
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise httpx2.ReadError(str(error) or "the connection broke off") from error
        packed = [value for name, value in answer.headers if name.lower() == b"content-encoding"]
        if packed and packed != [b"identity"]:
            # It was asked not to, and unpacking has no bound here.
            await answer.aclose()
            raise httpx2.ReadError("the answer is packed")
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Bounded(answer.stream)
        )


class _Bounded(httpx2.AsyncByteStream):
    """At most as much as of any other answer; a stream of events may go on for ever, slowly."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in self._stream:
                size = 0 if b"\n\n" in part or b"\r\n\r\n" in part else size + len(part)
                if size > MAX_BYTES:
                    raise httpx2.ReadError("the answer is too large")
                yield part
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise httpx2.ReadError(str(error) or "the connection broke off") from error

    async def aclose(self) -> None:
        await self._stream.aclose()
