"""What a stub over a `ChannelPool` calls: retried where that is safe, open ahead where that helps.

A unary method that was declared idempotent is tried again after UNAVAILABLE, at most twice, while
the run's retry budget lasts, after a full-jitter backoff or the delay that the server asked for. A
started stream is never retried: its reader resumes by position.

Where a call is sure to come, `opened` has it on its way before its request is known.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Protocol

import grpc
import grpc.aio

from peregrine.kit import context
from peregrine.kit.errors import from_rpc_error

_MAX_ATTEMPTS = 3
_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 1.0
# How long a call may be open without its request: shorter than what it carries is good for, and a
# server that goes away waits no longer for it.
_OPEN_SECONDS = 10.0
# With so many calls of this pool under way, the far side is awake and a call opened ahead no sooner
# there, while it costs a tenth of a millisecond more processor time.
_MANY = 8


class Pool(Protocol):
    """What calls need of the pool that they go through; see `ChannelPool`."""

    @property
    def in_flight(self) -> tuple[int, ...]: ...
    def start(
        self, calls: list[Any], request: Any, timeout: float, given: Any, options: dict[str, Any]
    ) -> Any: ...
    def allowed(self, timeout: float | None) -> float: ...
    def retried(self, method: str, attempt: int, error: grpc.aio.AioRpcError) -> None: ...


class Opened:
    """A call that is on its way before its request is known.

    The far side has taken it up when the request comes, which then is a message on an open stream.
    On the wire it is the call that it would have been: a request, whenever it comes, and its end.
    One that is lost, or ten seconds old, is made anew when its request is there; one of many is
    made only then.
    """

    def __init__(self, method: "_Method", timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._method = method
        self._request: asyncio.Future[Any] = loop.create_future()
        self._call: Any = None
        if method.in_flight < _MANY:
            self._call = method.opened(_when_known(self._request), timeout)
            self._old = loop.call_later(_OPEN_SECONDS, self.cancel)

    def send(self, request: Any, *, timeout: float | None = None) -> Any:
        """Sends its request, once; returns what calling the method with it returns.

        Args:
          timeout: of a call that is made anew.
        """
        if self._call is None or self._call.done() or self._request.done():
            self.cancel()
            return self._method(request, timeout=timeout)
        self._old.cancel()
        self._request.set_result(request)
        return self._method.sent(self._call, request)

    def cancel(self) -> None:
        """It is not needed. Nothing, when its request was sent."""
        if self._call is not None and not self._request.done():
            self._old.cancel()
            self._request.cancel()
            self._call.cancel()


def opened(method: Any, *, timeout: float | None = None) -> Opened:
    """Makes a call without its request.

    Args:
      method: of a stub over a `ChannelPool`.
      timeout: seconds for its answer, as for any other call; those in which it is open come on top.
    """
    return Opened(method, timeout)


async def _when_known(request: "asyncio.Future[Any]") -> AsyncIterator[Any]:
    """What gRPC reads the one request from."""
    yield await request


class _Method:
    def __init__(self, pool: Pool, method: str, calls: list[Any], open_calls: list[Any]) -> None:
        self._pool = pool
        self._method = method
        self._calls = calls
        self._open_calls = open_calls

    @property
    def in_flight(self) -> int:
        """Calls under way of all methods."""
        return sum(self._pool.in_flight)

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        pool = self._pool
        call = pool.start(self._calls, request, pool.allowed(timeout), metadata, options)
        return self.sent(call, request)

    def opened(self, requests: AsyncIterator[Any], timeout: float | None) -> Any:
        """A call whose request is what `requests` yields."""
        pool = self._pool
        if timeout is not None:
            timeout += _OPEN_SECONDS
        return pool.start(self._open_calls, requests, pool.allowed(timeout), None, {})

    def sent(self, call: Any, request: Any) -> Any:
        """What the caller gets of a call whose request is on its way."""
        return call


class Unary(_Method, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    pass


class Stream(_Method, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    def sent(self, call: Any, request: Any) -> Any:
        return _StreamCall(call)


class RetriedUnary(Unary):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **options: Any,
    ) -> Any:
        pool = self._pool
        given = list(metadata or ())

        def start(seconds: float) -> Any:
            return pool.start(self._calls, request, seconds, given, options)

        allowed = pool.allowed(timeout)
        return _RetriedCall(pool, self._method, start(allowed), start, allowed)

    def sent(self, call: Any, request: Any) -> Any:
        pool = self._pool

        def start(seconds: float) -> Any:
            return pool.start(self._calls, request, seconds, None, {})

        return _RetriedCall(pool, self._method, call, start, call.time_remaining() or 0.0)


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
        self,
        pool: Pool,
        method: str,
        first: Any,
        start: Callable[[float], Any],
        allowed: float,
    ) -> None:
        super().__init__(first)
        self._pool = pool
        self._method = method
        self._start = start
        self._deadline = time.monotonic() + allowed
        self._attempt = 1

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
        if error.code() is not grpc.StatusCode.UNAVAILABLE or self._attempt >= _MAX_ATTEMPTS:
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
        self._attempt = _MAX_ATTEMPTS
        return super().cancel()
