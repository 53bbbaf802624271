"""What every request passes before a route sees it: plain ASGI, one function call deep.

It bounds what may be sent (1 MiB, within 10 s), learns who is asking, and carries identity and
trace into the calls that the request becomes. The edge knows no credentials: it exchanges what a
request shows for an identity at the orchestrator, and passes that inward. Whatever is not said to
be open needs one, paths that do not exist too.

Two checks protect a browser's user from other pages that the browser shows: a `Host` that is not
one of ours is refused while the edge listens on loopback (a name that was rebound to 127.0.0.1 gets
nothing), and a request that changes something must come from the page's own origin, when it says
where from.
"""

import asyncio
import re
import time
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from peregrine.client import Exchange
from peregrine.edge import problems
from peregrine.edge.metrics import EdgeMetrics
from peregrine.kit import context
from peregrine.kit.address import stays_here
from peregrine.kit.bearer import credential_in
from peregrine.kit.context import Identity, Proof
from peregrine.kit.errors import PeregrineError, PermissionDenied, Unauthenticated

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 10.0

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz"})
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FIXED_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]

Headers = Mapping[str, str]


class Border:
    """Wraps the application.

    Args:
      hosts: names by which the edge may be called; none: any.
      exchange: where a credential becomes an identity; None: everybody is the local user.
      open_paths: what is answered whoever asks.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str],
        exchange: Exchange | None,
        open_paths: frozenset[str],
        metrics: EdgeMetrics,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._exchange = exchange
        self._open_paths = open_paths
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        started = time.monotonic()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_FIXED_HEADERS]
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.requests.labels(route, str(message["status"])).inc()
                self._metrics.seconds.labels(route).observe(time.monotonic() - started)
            await send(message)

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            self._check(scope, headers)
            identity, proof = await self._identify(scope["path"], headers)
        except PeregrineError as error:
            # The body was not read, and nobody wants it.
            await problems.response(error, {"Connection": "close"})(scope, receive, answer)
            return
        trace = headers.get("traceparent", "")
        with context.bind(
            identity=identity,
            proof=proof,
            traceparent=trace if _TRACEPARENT.fullmatch(trace) else context.new_traceparent(),
        ):
            await self._app(scope, _Bounded(receive), answer)

    async def _identify(self, path: str, headers: Headers) -> tuple[Identity, Proof | None]:
        """Who is asking, and what proves it to services.

        Raises:
          Unauthenticated: CREDENTIALS_MISSING or CREDENTIALS_INVALID.
          Unavailable: the orchestrator cannot say at the moment.
        """
        if self._exchange is None or path in self._open_paths:
            return context.LOCAL, None
        credential = credential_in(headers.get("authorization", ""))
        if credential is None:
            raise Unauthenticated(
                "say who you are: an API key or a token as `Authorization: Bearer …`",
                reason="CREDENTIALS_MISSING",
            )
        exchanged = await self._exchange.identify(credential)
        return exchanged.identity, exchanged

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts and scope["path"] not in _PROBES:
            raise PermissionDenied(
                f"this edge is not called {_name(host)[:100]!r}:"
                " name it in PEREGRINE_EDGE_HOSTS if it should be",
                reason="HOST_NOT_ALLOWED",
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _SAFE:
            if origin.partition("://")[2] != host:
                raise PermissionDenied(
                    "a page of another origin may not change anything here",
                    reason="ORIGIN_NOT_ALLOWED",
                )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise problems.too_large()


class _Bounded:
    """`receive`, within the bounds of a body. What comes after the body is the reader's leaving."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = MAX_BODY_BYTES
        self._deadline = time.monotonic() + BODY_SECONDS
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(self._deadline - time.monotonic(), 0.0)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, headers={"Connection": "close"})
        self._whole = not message.get("more_body", False)
        return message


def allowed_hosts(listen: str, named: tuple[str, ...]) -> frozenset[str]:
    """The names that are answered to: on loopback its own and those that were named."""
    host = _name(listen)
    if stays_here(listen):
        return _LOOPBACK | {host, *named}
    return frozenset(named)


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
