"""A call that is open before its request is known: what it is on the wire, and when it is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from peregrine.kit import calls, context, errors
from peregrine.kit.calls import Opened, opened
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.settings import InnerSettings
from tests.component.kit.echo import GET, EchoServicer, EchoStub, echo_server
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy

ACME = Identity("acme", "bob")
HELLO = StringValue(value="hello")
METHODS = ["Say", "Get", "Count"]


class Arrivals(grpc.aio.ServerInterceptor):
    """The methods of the calls that a server has taken up, whether their requests came or not."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.seen.append(details.method.rpartition("/")[2])
        return await continuation(details)


async def count(text: str, _: Any) -> AsyncIterator[str]:
    for letter in text:
        yield letter


def pool(target: str) -> ChannelPool:
    return ChannelPool(target, name="echo", default_timeout=5.0, idempotent=frozenset({GET}))


async def answer(call: Any) -> str:
    """What came, of either kind of call."""
    if hasattr(call, "__aiter__"):
        return "".join([message.value async for message in call])
    return str((await call).value)


@pytest.mark.parametrize("method", METHODS)
async def test_the_far_side_has_the_call_before_its_request(method: str) -> None:
    arrivals = Arrivals()
    async with (
        echo_server(EchoServicer(count=count), interceptors=[arrivals]) as server,
        pool(server.address) as channel,
    ):
        call = opened(getattr(EchoStub(channel), method))
        await eventually(lambda: arrivals.seen == [method])
        assert sum(channel.in_flight) == 1
        assert await answer(call.send(HELLO)) == "hello"
        assert arrivals.seen == [method]
        await eventually(lambda: channel.in_flight == (0, 0))


async def test_it_carries_the_context_that_it_was_opened_under() -> None:
    seen: list[context.Call | None] = []

    async def say(text: str, _: Any) -> str:
        seen.append(context.current())
        return text

    async with echo_server(EchoServicer(say)) as server, pool(server.address) as channel:
        with context.bind(identity=ACME, run_id="run-1", timeout=30):
            call = opened(EchoStub(channel).Say, timeout=20)
        await call.send(HELLO)
    (got,) = seen
    assert got is not None
    assert (got.identity, got.run_id) == (ACME, "run-1")
    assert got.deadline is not None


@pytest.mark.parametrize("method", METHODS)
async def test_one_that_was_lost_is_made_anew_with_its_request(method: str) -> None:
    arrivals = Arrivals()
    async with (
        echo_server(EchoServicer(count=count), interceptors=[arrivals]) as server,
        fault_proxy(server.address) as proxy,
        pool(proxy.address) as channel,
    ):
        call = opened(getattr(EchoStub(channel), method))
        await eventually(lambda: arrivals.seen == [method])
        proxy.reset()
        await eventually(lambda: channel.in_flight == (0, 0))
        await channel.warm(5)
        assert await answer(call.send(HELLO)) == "hello"
        assert arrivals.seen == [method] * 2


async def test_one_that_is_old_is_given_up_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_OPEN_SECONDS", 0.05)
    arrivals = Arrivals()
    async with (
        echo_server(interceptors=[arrivals]) as server,
        pool(server.address) as channel,
    ):
        call = opened(EchoStub(channel).Say)
        await eventually(lambda: arrivals.seen == ["Say"] and channel.in_flight == (0, 0))
        assert await answer(call.send(HELLO)) == "hello"
        assert arrivals.seen == ["Say"] * 2


@pytest.mark.parametrize("method", METHODS)
async def test_one_that_is_not_needed_leaves_nothing_behind(method: str) -> None:
    arrivals = Arrivals()
    settings = InnerSettings(auth_required=False, drain_seconds=30.0)
    async with pool("127.0.0.1:1") as away:
        never: Opened = opened(getattr(EchoStub(away), method))
        never.cancel()
        assert away.in_flight in ((0, 0), (1, 0))
        await eventually(lambda: away.in_flight == (0, 0))
    async with asyncio.timeout(10):  # the server would wait for a call that is open
        async with (
            echo_server(interceptors=[arrivals], settings=settings) as server,
            pool(server.address) as channel,
        ):
            call = opened(getattr(EchoStub(channel), method))
            await eventually(lambda: arrivals.seen == [method])
            call.cancel()
            call.cancel()
            await eventually(lambda: channel.in_flight == (0, 0))


async def test_cancelling_after_the_request_was_sent_takes_nothing_back() -> None:
    async with echo_server() as server, pool(server.address) as channel:
        call = opened(EchoStub(channel).Say)
        waiting = call.send(HELLO)
        call.cancel()
        assert await answer(waiting) == "hello"


async def test_what_may_be_tried_again_is_tried_again() -> None:
    tries = 0

    async def say(text: str, _: Any) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise errors.Unavailable("away", reason="AWAY")
        return text

    async with echo_server(EchoServicer(say)) as server, pool(server.address) as channel:
        stub = EchoStub(channel)
        assert await answer(opened(stub.Get).send(HELLO)) == "hello"
        assert tries == 2
        tries = 0
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await opened(stub.Say).send(HELLO)
        assert errors.from_rpc_error(away.value).reason == "AWAY"
        assert tries == 1


async def test_one_without_a_server_fails_as_any_call_does() -> None:
    async with pool("127.0.0.1:1") as channel:
        for method in METHODS:
            call = opened(getattr(EchoStub(channel), method))
            with pytest.raises(grpc.aio.AioRpcError) as away:
                await answer(call.send(HELLO))
            assert away.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_where_many_calls_are_under_way_none_is_opened_ahead() -> None:
    arrivals = Arrivals()
    async with echo_server(interceptors=[arrivals]) as server, pool(server.address) as channel:
        stub = EchoStub(channel)
        first = [opened(stub.Say) for _ in range(20)]
        await eventually(lambda: len(arrivals.seen) == 8)
        assert sum(channel.in_flight) == 8
        assert [await answer(call.send(HELLO)) for call in first] == ["hello"] * 20
        assert len(arrivals.seen) == 20
        late = opened(stub.Say)
        late.cancel()
        await eventually(lambda: channel.in_flight == (0, 0))
