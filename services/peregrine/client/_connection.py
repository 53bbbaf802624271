"""What every client has: a pool of channels to one service, typed errors, pages read to the end."""

import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from peregrine.kit import context
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error

PAGE = 200


class ServiceClient:
    """One service behind `target`. Open it with `async with`; the pool lives as long.

    Args:
      target: host:port, dns:///host:port or unix:/path.
      connections: channels of the pool, each with a connection of its own.
      timeout: seconds that a call other than a stream of events may take.
      identity: whom the calls are for, where the service is told so by its caller.
    """

    name: ClassVar[str]

    def __init__(
        self,
        target: str,
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
    ) -> None:
        self.target = target
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
        with self._as_identity():
            try:
                return await method(request)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

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
