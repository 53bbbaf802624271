"""A pool of warm channels to one service, usable wherever a generated stub expects a channel.

`XServiceStub(pool)` works unchanged. Each call goes to the channel with the fewest calls in flight,
carries the current context on (identity, retry budget, trace, run), and gets a deadline: the given
or the default timeout, never more than what the caller of this process left, less 50 ms to answer
in.

A unary method that was declared idempotent is tried again after UNAVAILABLE, at most twice, while
the run's retry budget lasts, after a full-jitter backoff or the delay that the server asked for. A
started stream is never retried: its reader resumes by position. Errors leave as `AioRpcError`.

This is done in the multicallables and not in grpc.aio client interceptors, because the channel has
to be chosen before there is a call to intercept, and an intercepted call runs in a task of its own.
Measured on a unary echo of 0.53 ms: the pool adds 0.05 ms, of which 0.035 ms are the four metadata;
an interceptor that does nothing adds 0.04 ms.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from peregrine.kit import context
from peregrine.kit.errors import Unavailable, from_rpc_error
from peregrine.kit.options import channel_options

MAX_ATTEMPTS = 3
DEADLINE_MARGIN = 0.05
_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 1.0

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
        if method in self._idempotent:
            return _RetriedUnary(self, method, calls)
        return _Unary(self, method, calls)

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
        return _Stream(self, method, calls)

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


READY = grpc.ChannelConnectivity.READY


class _Unary(grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    def __init__(self, pool: ChannelPool, method: str, calls: list[Any]) -> None:
        self._pool = pool
        self._method = method
        self._calls = calls

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        pool = self._pool
        return pool.start(self._calls, request, pool.allowed(timeout), metadata, options)


class _Stream(grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    def __init__(self, pool: ChannelPool, method: str, calls: list[Any]) -> None:
        self._pool = pool
        self._method = method
        self._calls = calls

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        pool = self._pool
        return _StreamCall(
            pool.start(self._calls, request, pool.allowed(timeout), metadata, options)
        )


class _RetriedUnary(_Unary):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        pool, method, calls = self._pool, self._method, self._calls
        given = list(metadata or ())

        def start(seconds: float) -> Any:
            return pool.start(calls, request, seconds, given, options)

        return _RetriedCall(pool, method, start, pool.allowed(timeout))


class _Call(grpc.aio.Call):
    """Shows the call inside it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def time_remaining(self) -> float | None:
        left: float | None = self._call.time_remaining()
        return left

    def add_done_callback(self, callback: Any) -> None:
        self._call.add_done_callback(callback)

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        return await self._call.code()

    async def details(self) -> Any:
        return await self._call.details()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()


class _StreamCall(_Call, grpc.aio.UnaryStreamCall[Any, Any]):
    """Ends the stream when its reader is cancelled or leaves.

    grpc.aio alone forgets to, when the reader is cancelled before the request is on its way.
    """

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self._messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._read_all()
        return self._messages

    async def read(self) -> Any:
        try:
            return await self._call.read()
        except asyncio.CancelledError:
            self._call.cancel()
            raise

    async def _read_all(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        finally:
            self._call.cancel()


class _RetriedCall(_Call, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A unary call of up to three attempts; everything but awaiting it shows the latest attempt."""

    def __init__(
        self, pool: ChannelPool, method: str, start: Callable[[float], Any], allowed: float
    ) -> None:
        self._pool = pool
        self._method = method
        self._start = start
        self._deadline = time.monotonic() + allowed
        self._attempt = 1
        super().__init__(start(allowed))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._finish().__await__()

    async def _finish(self) -> Any:
        while True:
            try:
                return await self._call
            except grpc.aio.AioRpcError as error:
                delay = self._delay(error)
                if delay is None:
                    raise
                self._attempt += 1
                self._pool.retried(self._method, self._attempt, error)
            await asyncio.sleep(delay)
            self._call = self._start(self._deadline - time.monotonic())

    def _delay(self, error: grpc.aio.AioRpcError) -> float | None:
        """Seconds until the next attempt; None when there is to be none."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or self._attempt >= MAX_ATTEMPTS:
            return None
        ceiling = min(_FIRST_BACKOFF * 2 ** (self._attempt - 1), _MAX_BACKOFF)
        delay = random.uniform(0.0, ceiling)
        asked = from_rpc_error(error).retry_after
        if asked is not None:
            delay += asked
        if time.monotonic() + delay >= self._deadline:
            return None
        return delay if context.retry_budget().take() else None

    def cancel(self) -> bool:
        self._attempt = MAX_ATTEMPTS
        return super().cancel()
