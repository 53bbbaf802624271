"""What every client has: a pool of channels to one service, typed errors, pages read to the end.

A client with an API key shows it to the orchestrator: on every call of its own, or, when the client
is one of another service, in exchange for the identity that it shows there. A key never travels
unencrypted to another machine, unless `tls=False` says so.
"""

import contextlib
import re
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from peregrine.kit import context
from peregrine.kit.address import stays_here
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity, Proof
from peregrine.kit.errors import FailedPrecondition, InvalidArgument, from_rpc_error

PAGE = 200

_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,8192}")


@dataclass(frozen=True, slots=True)
class Tls:
    """An encrypted connection. `roots`: PEM of the authorities to trust; None: those of gRPC."""

    roots: bytes | None = None


class Exchanging(Protocol):
    """What exchanges a credential for an identity."""

    async def identify(self, credential: str) -> "Proven": ...


class Proven(Proof, Protocol):
    """A proof that says whose it is."""

    identity: Identity


class ServiceClient:
    """One service behind `target`. Open it with `async with`; the pool lives as long.

    Args:
      target: host:port, dns:///host:port or unix:/path; by default where `make run` has it.
      connections: channels of the pool, each with a connection of its own.
      timeout: seconds that a call other than a stream of events may take.
      identity: whom the calls are for, where the service is told so by its caller.
      api_key: an API key, or a JWT of an issuer that the installation trusts.
      tls: whether the connection is encrypted, and by whose authority. By default it is not, and
        a key is then sent to this machine only.
      exchange: where the key becomes an identity, for services that take none.

    Raises:
      FailedPrecondition: TLS_NEEDED. InvalidArgument: API_KEY_MALFORMED.
    """

    name: ClassVar[str]
    local: ClassVar[str]
    """Where `make run` has the service."""
    takes_keys: ClassVar[bool] = False

    def __init__(
        self,
        target: str | None = None,
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
        exchange: Exchanging | None = None,
    ) -> None:
        self.target = self.local if target is None else target
        if api_key is not None and exchange is None and not self.takes_keys:
            raise TypeError(f"{type(self).__name__} shows no key to {self.name}: give an exchange")
        self._api_key = _checked(api_key, self.target, tls)
        self._tls = Tls() if tls is True else tls or None
        self._exchange = exchange
        self._connections = connections
        self._timeout = timeout
        self._identity = identity
        self._open: ChannelPool | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"

    async def __aenter__(self) -> Self:
        self._open = ChannelPool(
            self.target,
            size=self._connections,
            name=self.name,
            default_timeout=self._timeout,
            idempotent=self._idempotent(),
            metadata=self._credential(),
            tls=None if self._tls is None else _encrypted(self._tls),
        )
        self._bind(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pool, self._open = self._open, None
        if pool is not None:
            await pool.close()

    async def warm(self, timeout: float = 5.0) -> None:
        """Connects now, so that the first call need not. Raises Unavailable / PEER_UNREACHABLE."""
        await self._pool.warm(timeout)

    @property
    def _pool(self) -> ChannelPool:
        if self._open is None:
            raise RuntimeError(f"{type(self).__name__} is not open: use it with `async with`")
        return self._open

    def _bind(self, pool: ChannelPool) -> None:
        """Makes the stubs."""
        raise NotImplementedError

    def _idempotent(self) -> frozenset[str]:
        """The unary methods that may be tried again."""
        raise NotImplementedError

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        with await self._identified():
            try:
                return await method(request)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

    async def _identified(self) -> contextlib.AbstractContextManager[Any]:
        if self._exchange is None or self._api_key is None:
            return self._as_identity()
        proof = await self._exchange.identify(self._api_key)
        return context.bind(identity=proof.identity, proof=proof)

    def _credential(self) -> tuple[tuple[str, str], ...]:
        if self._api_key is None or self._exchange is not None:
            return ()
        return (("authorization", f"Bearer {self._api_key}"),)

    def _as_identity(self) -> contextlib.AbstractContextManager[Any]:
        if self._identity is None:
            return contextlib.nullcontext()
        return context.bind(identity=self._identity)

    async def _list(
        self, method: Callable[..., Any], request: Any, field: str, limit: int | None
    ) -> AsyncGenerator[Any, None]:
        """The items of all pages, at most `limit`."""
        left = limit
        while left is None or left > 0:
            request.page_size = PAGE if left is None else min(left, PAGE)
            response = await self._call(method, request)
            items = list(getattr(response, field))[:left]
            for item in items:
                yield item
            if left is not None:
                left -= len(items)
            request.page_token = response.next_page_token
            if not request.page_token:
                return


def _encrypted(tls: Tls) -> grpc.ChannelCredentials:
    made: grpc.ChannelCredentials
    made = grpc.ssl_channel_credentials(tls.roots)  # type: ignore[no-untyped-call]  # theirs
    return made


def _checked(api_key: str | None, target: str, tls: Tls | bool | None) -> str | None:
    if api_key is None:
        return None
    if not _CREDENTIAL.fullmatch(api_key):
        raise InvalidArgument(
            "an API key is visible ASCII characters, without spaces", reason="API_KEY_MALFORMED"
        )
    if tls is None and not stays_here(target):
        raise FailedPrecondition(
            f"an API key is not sent to {target} in the clear: switch TLS on; or off, in so many "
            "words, where the network in between is trusted",
            reason="TLS_NEEDED",
        )
    return api_key


def unary_methods(
    *services: ServiceDescriptor, without: frozenset[str] = frozenset()
) -> frozenset[str]:
    """The full names of the unary methods of services, but for the named ones."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if not method.server_streaming and method.name not in without
    )


def new_request_id() -> str:
    return uuid.uuid4().hex
