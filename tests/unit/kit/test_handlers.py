"""How a stream is written: one message ahead, in order, and nothing after a failure."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from peregrine.kit.handlers import Behavior, Wrapped
from tests.support.eventually import eventually


class Wire:
    """A call's context whose writes are done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[asyncio.Future[None]] = []
        self.broken_off: list[int] = []

    async def write(self, message: int) -> None:
        self.begun.append(message)
        self.done.append(asyncio.get_running_loop().create_future())
        try:
            await self.done[-1]
        except asyncio.CancelledError:
            self.broken_off.append(message)
            raise


class Stream:
    """Yields the numbers up to `count`; knows what it was asked for, and whether it was closed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.asked = 0
        self.closed = False

    async def numbers(self, request: Any, context: Any) -> AsyncIterator[int]:
        try:
            for number in range(1, self._count + 1):
                self.asked = number
                yield number
            self.asked = self._count + 1
        finally:
            self.closed = True


def written(stream: Stream, wire: Wire) -> asyncio.Task[Any]:
    def as_it_is(_: str, behavior: Behavior) -> Behavior:
        return behavior

    handler = grpc.unary_stream_rpc_method_handler(stream.numbers)
    wrapped = Wrapped(as_it_is).get("/peregrine.test.Numbers/Count", handler)
    return asyncio.create_task(wrapped.unary_stream(None, wire))


async def test_the_next_message_is_asked_for_while_the_last_one_is_on_its_way() -> None:
    stream, wire = Stream(4), Wire()
    task = written(stream, wire)
    await eventually(lambda: wire.begun == [1])
    assert stream.asked == 1, "the first one is written with the headers, before anything else"
    wire.done[0].set_result(None)
    await eventually(lambda: wire.begun == [1, 2] and stream.asked == 3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.begun == [1, 2] and stream.asked == 3, "one ahead, not more"
    wire.done[1].set_result(None)
    await eventually(lambda: wire.begun == [1, 2, 3] and stream.asked == 4)
    wire.done[2].set_result(None)
    await asyncio.wait_for(task, 5)
    assert wire.begun == [1, 2, 3, 4] and stream.closed


async def test_a_stream_of_one_message_waits_for_it() -> None:
    stream, wire = Stream(1), Wire()
    task = written(stream, wire)
    await eventually(lambda: wire.begun == [1])
    assert not task.done(), "gRPC knows only then that the headers are sent"
    wire.done[0].set_result(None)
    await asyncio.wait_for(task, 5)
    assert stream.closed


async def test_a_stream_of_nothing_ends() -> None:
    stream, wire = Stream(0), Wire()
    await asyncio.wait_for(written(stream, wire), 5)
    assert stream.closed and not wire.begun


async def test_a_write_that_failed_ends_the_stream() -> None:
    stream, wire = Stream(10), Wire()
    task = written(stream, wire)
    await eventually(lambda: bool(wire.done))
    wire.done[0].set_result(None)
    await eventually(lambda: len(wire.done) == 2)
    wire.done[1].set_exception(ConnectionError("the reader is gone"))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, 5)
    assert wire.begun == [1, 2] and stream.closed


async def test_a_cancelled_stream_breaks_off_its_write_and_is_closed() -> None:
    stream, wire = Stream(10), Wire()
    task = written(stream, wire)
    await eventually(lambda: bool(wire.done))
    wire.done[0].set_result(None)
    await eventually(lambda: len(wire.done) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert wire.broken_off == [2] and stream.closed


async def test_a_last_write_that_fails_is_nobodys_surprise() -> None:
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: surprises.append(what))
    stream, wire = Stream(2), Wire()
    task = written(stream, wire)
    await eventually(lambda: bool(wire.done))
    wire.done[0].set_result(None)
    await asyncio.wait_for(task, 5)
    wire.done.pop().set_exception(ConnectionError("the reader is gone"))
    await asyncio.sleep(0)
    del task
    gc.collect()
    assert not surprises
