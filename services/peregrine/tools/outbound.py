"""HTTP to the outside, for tools: the one home of httpx in this service.

One client for the worker: HTTP/2 where the other side speaks it, at most 100 connections, 20 of
them kept alive. It obeys no proxy variables and keeps no cookies, so nothing leads around the rules
of `egress` and nothing of one caller reaches the next one's request.

Every connection is made by the `guard`. A redirect is a new URL: it is parsed, checked and
connected to in the same way, and to another origin it takes no header of the request. There are at
most five of them, and one deadline for all, down to the last byte of the answer, however slowly it
drips. Only text and JSON are shown to a model (`bodies` reads them, within bounds), and what a
request was told in secret is blotted out.
"""

import asyncio
import http.cookiejar
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx
import orjson
from prometheus_client import CollectorRegistry, Counter

from peregrine.kit.settings import Secret
from peregrine.tools import bodies, egress, guard
from peregrine.tools.definition import ToolFailure, TransientFailure
from peregrine.tools.egress import Rules, Target
from peregrine.tools.guard import Connect, Guard, Resolve

MAX_REDIRECTS = 5
MAX_CONNECTIONS = 100
MAX_KEPT_ALIVE = 20
DEFAULT_SECONDS = 10.0

_KEEPALIVE_SECONDS = 60.0
_LOCATION = b"location"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHOWN_OF_ERROR = 2_000
_OURS = {
    "user-agent": "peregrine-tools",
    "accept": "application/json, text/*;q=0.9, */*;q=0.1",
    "accept-encoding": "gzip",
}
# A connection that is not made leaves time to say so, before the deadline of the whole.
_CONNECT_SHARE = 0.9


class Refused(ToolFailure):
    """The request may not leave, now or later."""

    nothing_done = True


class NothingSent(TransientFailure):
    """The request has not left: nothing can have happened."""

    nothing_done = True


class AnswerLost(TransientFailure):
    """The request may have left, and its answer did not arrive whole."""


class Later(TransientFailure):
    """The server refused for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`secrets` are headers, too; their values are never shown."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A successful one (2xx). `url` is where it came from, after redirects. `private`: the server
    wants it not to be kept, or not for others (Cache-Control: no-store or private, Set-Cookie)."""

    status: int
    url: str
    media_type: str
    text: str
    private: bool = False

    @property
    def is_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    def data(self) -> Any:
        """What the text says as JSON; None when it is no JSON, whatever it says of itself.

        Raises:
          ToolFailure: CONTENT_REFUSED, it is nested so deeply that it cannot be read.
        """
        if not self.is_json:
            return None
        try:
            return orjson.loads(self.text)
        except orjson.JSONDecodeError as error:
            if "depth" in error.msg or "ecursion" in error.msg:
                raise ToolFailure(
                    "The answer is JSON that is nested too deeply.", reason="CONTENT_REFUSED"
                ) from None
            return None


class _Transport(httpx.AsyncBaseTransport):
    """httpx on a pool with a network backend of our own, for which it has no option."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        # httpx would read a Location on its own, follow it or not; one parser is enough.
        headers = [(name, value) for name, value in answer.headers if name.lower() != _LOCATION]
        onward = next((value for name, value in answer.headers if name.lower() == _LOCATION), b"")
        return httpx.Response(
            answer.status,
            headers=headers,
            stream=_Body(answer.stream),
            extensions={**answer.extensions, "location": onward.decode("latin-1")},
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class Outbound:
    """The client. Opened by `opened`."""

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        pool: httpcore.AsyncConnectionPool,
        seconds: float,
        registry: CollectorRegistry | None,
    ) -> None:
        """`pool`: the guarded connections, for what speaks another protocol over HTTP."""
        self.pool = pool
        self._client = client
        self._seconds = seconds
        self._requests = Counter(
            "peregrine_tool_outbound_requests_total",
            "HTTP requests of tools by how they ended: success, or the reason of the failure",
            ("outcome",),
            registry=registry,
        )
        self._requests.labels("success")

    async def fetch(self, request: Request, *, timeout: float | None = None) -> Answer:
        """Sends a request and reads its answer whole.

        Args:
          timeout: seconds for all of it, redirects and the last byte included.

        Raises:
          Refused: EGRESS_REFUSED. NothingSent: HOST_UNREACHABLE. AnswerLost: HTTP_TIMEOUT,
            CONNECTION_BROKEN.
          ToolFailure: HTTP_STATUS, TOO_MANY_REDIRECTS, RESPONSE_TOO_LARGE, CONTENT_REFUSED.
        """
        try:
            answer = await self._attempt(request, self._seconds if timeout is None else timeout)
        except ToolFailure as failure:
            self._requests.labels(failure.reason).inc()
            raise
        self._requests.labels("success").inc()
        return answer

    async def warm(self, url: str, *, timeout: float = 5.0) -> bool:
        """Opens a connection to the origin of `url` and keeps it; False when that did not work.

        The request for it is a HEAD of the origin without any header of ours that means something.
        """
        try:
            origin = egress.parse(url).origin
            await self._attempt(Request(url=f"{origin}/", method="HEAD"), timeout)
        except (Refused, NothingSent, AnswerLost, egress.Refused):
            return False
        except ToolFailure:
            pass  # an answer of whatever kind came over a connection
        return True

    async def _attempt(self, request: Request, limit: float) -> Answer:
        try:
            async with asyncio.timeout(limit):
                return await self._follow(request, limit)
        except egress.Refused as refusal:
            raise Refused(str(refusal), reason="EGRESS_REFUSED") from None
        except (httpcore.ConnectTimeout, httpcore.PoolTimeout):
            raise NothingSent(
                "No connection was made in time.", reason="HOST_UNREACHABLE"
            ) from None
        except (httpcore.ConnectError, httpx.InvalidURL):
            raise NothingSent("The host cannot be reached.", reason="HOST_UNREACHABLE") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise AnswerLost(
                f"There was no whole answer within {limit:.3g} s.", reason="HTTP_TIMEOUT"
            ) from None
        except (
            bodies.Incomplete,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpx.HTTPError,
            OSError,
        ):
            raise AnswerLost("The connection broke off.", reason="CONNECTION_BROKEN") from None

    async def _follow(self, request: Request, limit: float) -> Answer:
        target = egress.parse(request.url)
        headers = _OURS | {name.lower(): value for name, value in request.headers.items()}
        headers |= {name.lower(): secret.reveal() for name, secret in request.secrets.items()}
        for _ in range(MAX_REDIRECTS + 1):
            async with self._stream(request, target, headers, limit) as response:
                onward = response.extensions["location"]
                follows = response.status_code in _REDIRECTS and request.method in ("GET", "HEAD")
                if not (follows and onward):
                    return await self._read(request, target, response)
            before, target = target, _onward(target, onward)
            if target.origin != before.origin:
                headers = dict(_OURS)
        raise ToolFailure(
            f"There were more than {MAX_REDIRECTS} redirects.", reason="TOO_MANY_REDIRECTS"
        )

    @asynccontextmanager
    async def _stream(
        self, request: Request, target: Target, headers: Mapping[str, str], limit: float
    ) -> AsyncIterator[httpx.Response]:
        built = self._client.build_request(
            request.method,
            target.url,
            headers=headers,
            content=request.body,
            timeout=httpx.Timeout(limit, connect=limit * _CONNECT_SHARE),
        )
        if (built.url.raw_scheme, built.url.raw_host) != (
            target.scheme.encode(),
            target.host.encode(),
        ):
            raise egress.Refused("The URL can be read in two ways.")
        response = await self._client.send(built, stream=True, follow_redirects=False)
        try:
            yield response
        finally:
            await response.aclose()

    async def _read(self, request: Request, target: Target, response: httpx.Response) -> Answer:
        kind = bodies.kind(response.headers.get("content-type", ""))
        if response.is_success and not kind.is_text:
            raise ToolFailure(
                f"The answer is {kind.media_type}; only text and JSON can be shown.",
                reason="CONTENT_REFUSED",
            )
        text = ""
        if kind.is_text:
            encoding = response.headers.get("content-encoding", "")
            try:
                text = kind.decode(await bodies.read(response.aiter_raw(), encoding))
            except (bodies.TooLarge, bodies.Unreadable) as problem:
                # The rest would fill the window of an HTTP/2 connection, which others wait for.
                stream = response.extensions.get("network_stream")
                if stream is not None:
                    await stream.aclose()
                large = isinstance(problem, bodies.TooLarge)
                raise ToolFailure(
                    str(problem), reason="RESPONSE_TOO_LARGE" if large else "CONTENT_REFUSED"
                ) from None
        text = _blotted(text, request.secrets.values())
        if not response.is_success:
            words = f"The server answered {response.status_code}. {text[:_SHOWN_OF_ERROR]}".strip()
            raise _STATUS.get(response.status_code, ToolFailure)(words, reason="HTTP_STATUS")
        return Answer(
            status=response.status_code,
            url=_blotted(target.url, request.secrets.values()),
            media_type=kind.media_type,
            text=text,
            private=_is_private(response.headers),
        )


@asynccontextmanager
async def opened(
    *,
    rules: Rules,
    seconds: float = DEFAULT_SECONDS,
    registry: CollectorRegistry | None = None,
    resolve: Resolve = guard.resolve,
    connect: Connect = guard.connect,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Outbound]:
    """A client under `rules`; closed with its connections at the end.

    Args:
      seconds: for a request that says nothing else.
    """
    pool = httpcore.AsyncConnectionPool(
        ssl_context=tls or httpx.create_ssl_context(trust_env=False),
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_KEPT_ALIVE,
        keepalive_expiry=_KEEPALIVE_SECONDS,
        http2=True,
        network_backend=Guard(rules=rules, resolve=resolve, connect=connect),
    )
    no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    async with httpx.AsyncClient(
        transport=_Transport(pool), timeout=seconds, trust_env=False, cookies=no_cookies
    ) as client:
        yield Outbound(client=client, pool=pool, seconds=seconds, registry=registry)


def _is_private(headers: httpx.Headers) -> bool:
    directives = headers.get("cache-control", "").lower().split(",")
    said = {directive.partition("=")[0].strip() for directive in directives}
    return bool(said & {"no-store", "private"}) or "set-cookie" in headers


# What went wrong between a gateway and its server is known to neither of us.
_STATUS: Mapping[int, type[ToolFailure]] = {
    429: Later,
    502: AnswerLost,
    503: Later,
    504: AnswerLost,
}


def _onward(target: Target, location: str) -> Target:
    # The library mends what is broken in an absolute URL; that is taken as it stands.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location):
        return egress.parse(location)
    try:
        return egress.parse(urljoin(target.url, location))
    except ValueError:
        raise egress.Refused("The server redirects to no URL.") from None


def _blotted(text: str, secrets: Iterable[Secret]) -> str:
    for secret in secrets:
        value = secret.reveal()
        # "Bearer abc123" is said without its scheme as well; JSON may escape it.
        bare = value.rpartition(" ")[2] if " " in value else ""
        for form in (value, json.dumps(value)[1:-1], bare if len(bare) > 5 else ""):
            text = text.replace(form, "***") if form else text
    return text
