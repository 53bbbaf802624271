"""A pool of warm channels to one service, usable wherever a generated stub expects a channel.

`XServiceStub(pool)` works unchanged. Each call goes to the channel with the fewest calls in flight,
carries the current context on (identity, retry budget, trace, run), and gets a deadline: the given
or the default timeout, never more than what the caller of this process left, less 50 ms to answer
in.

Errors leave as `AioRpcError`. What a call does after an error is in `calls`.

This is done in the multicallables and not in grpc.aio client interceptors, because the channel has
to be chosen before there is a call to intercept, and an intercepted call runs in a task of its own.
Measured on a unary echo of 0.53 ms: the pool adds 0.05 ms, of which 0.035 ms are the four metadata;
an interceptor that does nothing adds 0.04 ms.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from peregrine.kit import context
from peregrine.kit.calls import RetriedUnary, Stream, Unary
from peregrine.kit.errors import Unavailable
from peregrine.kit.options import channel_options

DEADLINE_MARGIN = 0.05
READY = grpc.ChannelConnectivity.READY

log = structlog.get_logger(__name__)


class ChannelPool(grpc.aio.Channel):
    """Channels to `target`, each with a connection of its own. Made inside a running loop.

    Args:
      target: host:port, unix:/path, or dns:///host:port (then round robin over its addresses).
      size: number of channels, so of connections.
      name: of the service behind, for logs and errors.
      default_timeout: seconds for a call that names no timeout.
      idempotent: full names, "/package.Service/Method", of unary methods that may be tried again.
      on_retry: told the method at each further attempt, so that retries can be counted.
      metadata: further metadata of every call, such as a credential.
      tls: for a connection that is encrypted.
    """

    def __init__(
        self,
        target: str,
        *,
        size: int = 2,
        name: str,
        default_timeout: float,
        idempotent: frozenset[str] = frozenset(),
        on_retry: Callable[[str], None] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        tls: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.target = target
        self.name = name
        self.default_timeout = default_timeout
        self._idempotent = idempotent
        self._on_retry = on_retry
        self._metadata = tuple(metadata)
        self._tls = tls
        self._channels = [self._opened() for _ in range(size)]
        # What stubs call, one for each channel, and what makes it of a channel.
        self._methods: list[tuple[list[Any], Callable[[grpc.aio.Channel], Any]]] = []
        self._in_flight = [0] * size
        self._landed = [self._landing(index) for index in range(size)]

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Calls under way on each channel."""
        return tuple(self._in_flight)

    async def warm(self, timeout: float) -> None:
        """Connects every channel. One that did not connect in time begins anew: gRPC asks for an
        address that it did not get ever more seldom, in the end every two minutes.

        Raises:
          Unavailable: PEER_UNREACHABLE, when not all connected within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.channel_ready()
        except TimeoutError:
            await self._renew()
            raise Unavailable(
                f"{self.name} at {self.target} cannot be reached",
                reason="PEER_UNREACHABLE",
                metadata={"peer": self.name},
                retry_after=1.0,
            ) from None

    def _opened(self) -> grpc.aio.Channel:
        options = channel_options(self.target)
        if self._tls is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, self._tls, options=options)

    async def _renew(self) -> None:
        for index, former in enumerate(self._channels):
            if former.get_state() is READY:
                continue
            channel = self._channels[index] = self._opened()
            for calls, made in self._methods:
                calls[index] = made(channel)
            await former.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes the channels; calls in flight get `grace` seconds, none by default."""
        async with asyncio.TaskGroup() as group:
            for channel in self._channels:
                group.create_task(channel.close(grace))

    async def __aenter__(self) -> "ChannelPool":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY when all channels are; else the state of the first that is not."""
        states = [channel.get_state(try_to_connect) for channel in self._channels]
        return next((state for state in states if state is not READY), READY)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() is last_observed_state:
            changes = [
                asyncio.ensure_future(channel.wait_for_state_change(channel.get_state()))
                for channel in self._channels
            ]
            try:
                await asyncio.wait(changes, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for change in changes:
                    change.cancel()
                await asyncio.gather(*changes, return_exceptions=True)

    async def channel_ready(self) -> None:
        async with asyncio.TaskGroup() as group:
            for channel in self._channels:
                group.create_task(channel.channel_ready())

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.aio.UnaryUnaryMultiCallable[Any, Any]":
        calls = self._calls(
            lambda channel: channel.unary_unary(
                method, request_serializer, response_deserializer, _registered_method
            )
        )
        open_calls = self._calls(
            lambda channel: channel.stream_unary(method, request_serializer, response_deserializer)
        )
        kind = RetriedUnary if method in self._idempotent else Unary
        return kind(self, method, calls, open_calls)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> "grpc.aio.UnaryStreamMultiCallable[Any, Any]":
        calls = self._calls(
            lambda channel: channel.unary_stream(
                method, request_serializer, response_deserializer, _registered_method
            )
        )
        open_calls = self._calls(
            lambda channel: channel.stream_stream(method, request_serializer, response_deserializer)
        )
        return Stream(self, method, calls, open_calls)

    def _calls(self, made: Callable[[grpc.aio.Channel], Any]) -> list[Any]:
        calls = [made(channel) for channel in self._channels]
        self._methods.append((calls, made))
        return calls

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the contract has no client-streaming methods")

    def stream_stream(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the contract has no client-streaming methods")

    def start(
        self, calls: list[Any], request: Any, timeout: float, given: Any, options: dict[str, Any]
    ) -> Any:
        """Starts one attempt on the least busy channel."""
        in_flight = self._in_flight
        index = in_flight.index(min(in_flight))
        metadata = context.outgoing(context.current())
        metadata += self._metadata
        if given:
            metadata.extend(given)
        call = calls[index](request, timeout=timeout, metadata=metadata, **options)
        in_flight[index] += 1
        call.add_done_callback(self._landed[index])
        return call

    def allowed(self, timeout: float | None) -> float:
        """The seconds that a call gets; below 0, gRPC ends it without sending it."""
        allowed = self.default_timeout if timeout is None else timeout
        left = context.deadline_remaining()
        return allowed if left is None else min(allowed, left - DEADLINE_MARGIN)

    def retried(self, method: str, attempt: int, error: grpc.aio.AioRpcError) -> None:
        log.info(
            "call_retried", peer=self.name, method=method, attempt=attempt, code=error.code().name
        )
        if self._on_retry is not None:
            self._on_retry(method)

    def _landing(self, index: int) -> Callable[[Any], None]:
        def landed(_: Any) -> None:
            self._in_flight[index] -= 1

        return landed
