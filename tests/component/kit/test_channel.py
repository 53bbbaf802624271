"""A pool is a channel: it spreads calls, bounds them, carries the context on, retries with care."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from peregrine.kit import context, errors
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.settings import InnerSettings
from tests.component.kit.echo import COUNT, GET, EchoServicer, EchoStub, echo_server, forever
from tests.support.eventually import eventually
from tests.support.names import name_server
from tests.support.ports import free_port
from tests.support.proxy import fault_proxy

ACME = Identity("acme", "bob")
HELLO = StringValue(value="hello")


def pool(target: str, **options: Any) -> ChannelPool:
    options.setdefault("default_timeout", 5.0)
    return ChannelPool(target, name="echo", **options)


def unavailable(**options: Any) -> errors.Unavailable:
    return errors.Unavailable("away", reason="AWAY", **options)


async def test_a_pool_has_a_connection_for_each_channel() -> None:
    async with (
        echo_server() as server,
        fault_proxy(server.address) as proxy,
        pool(proxy.address, size=3) as calls,
    ):
        await calls.warm(5)
        assert calls.get_state() is grpc.ChannelConnectivity.READY
        assert proxy.connections == 3


async def test_a_channel_that_got_no_address_asks_anew_and_its_stubs_with_it() -> None:
    # Whoever asked first never hears; gRPC would ask again after some eight seconds.
    async with echo_server() as server, name_server(lost=1) as names:
        port = server.address.rpartition(":")[2]
        async with pool(f"dns://127.0.0.1:{names.port}/echo.example.:{port}", size=1) as calls:
            stub = EchoStub(calls)
            with pytest.raises(errors.Unavailable) as away:
                await calls.warm(0.2)
            assert away.value.reason == "PEER_UNREACHABLE"
            await calls.warm(5)
            assert (await stub.Get(HELLO)).value == "hello"


async def test_calls_go_to_the_least_busy_channel_and_are_counted_until_they_end() -> None:
    release = asyncio.Event()

    async def say(text: str, _: Any) -> str:
        await release.wait()
        return text

    async def count(_: str, __: Any) -> AsyncIterator[str]:
        yield "1"
        await release.wait()

    async with (
        echo_server(EchoServicer(say, count)) as server,
        pool(server.address, size=2) as calls,
    ):
        stub = EchoStub(calls)
        started = [stub.Say(HELLO), stub.Count(HELLO), stub.Say(HELLO), stub.Say(HELLO)]
        assert calls.in_flight == (2, 2)
        started[2].cancel()
        await eventually(lambda: sum(calls.in_flight) == 3)
        release.set()
        assert (await started[0]).value == "hello"
        assert [message.value async for message in started[1]] == ["1"]
        await started[3]
        await eventually(lambda: calls.in_flight == (0, 0))


async def test_the_context_goes_with_every_call() -> None:
    seen: list[context.Call | None] = []

    async def say(text: str, _: Any) -> str:
        seen.append(context.current())
        return text

    async def count(_: str, __: Any) -> AsyncIterator[str]:
        seen.append(context.current())
        yield "1"

    async with (
        echo_server(EchoServicer(say, count)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        stub = EchoStub(calls)
        with context.bind(identity=ACME, retries=2, run_id="run-1", timeout=3) as mine:
            await stub.Say(HELLO)
            await stub.Get(HELLO)
            assert [message.value async for message in stub.Count(HELLO)] == ["1"]
    assert len(seen) == 3
    for call in seen:
        assert call is not None
        assert (call.identity, call.run_id) == (ACME, "run-1")
        assert call.retries.remaining == 2
        assert call.traceparent == mine.traceparent
        assert call.deadline is not None


async def test_without_a_context_a_call_still_has_a_deadline_a_trace_and_a_budget() -> None:
    seen: list[context.Call | None] = []

    async def say(text: str, _: Any) -> str:
        seen.append(context.current())
        return text

    async with (
        echo_server(EchoServicer(say)) as server,
        pool(server.address, default_timeout=2.0) as calls,
    ):
        await EchoStub(calls).Say(HELLO, metadata=(("x-extra", "1"),))
    (call,) = seen
    assert call is not None
    assert call.deadline is not None
    assert call.retries.remaining == 3
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", call.traceparent)


async def test_a_call_ends_at_its_timeout_or_50_ms_before_its_callers_deadline() -> None:
    left: list[float] = []

    async def say(_: str, rpc: Any) -> str:
        left.append(rpc.time_remaining())
        return str(await forever())

    async with echo_server(EchoServicer(say)) as server, pool(server.address) as calls:
        stub = EchoStub(calls)
        for timeout, remaining in ((1.0, 60.0), (None, 1.05)):
            with context.bind(timeout=remaining), pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Say(HELLO, timeout=timeout)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert max(left) < 1.01, "gRPC rounds up to a millisecond"
        with context.bind(timeout=1):
            assert calls.allowed(None) <= 0.95
            assert calls.allowed(0.5) == 0.5
        with context.bind(timeout=0.01), pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(HELLO)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(left) == 2, "a call without time left does not reach the server"


class Failing:
    """Answers a unary call only after `failures` of them were refused with `error`."""

    def __init__(self, failures: int, error: errors.PeregrineError) -> None:
        self.failures = failures
        self.error = error
        self.budgets: list[int] = []

    async def say(self, text: str, _: Any) -> str:
        self.budgets.append(context.retry_budget().remaining)
        if len(self.budgets) <= self.failures:
            raise self.error
        return text


async def test_an_idempotent_call_is_tried_again_and_the_budget_goes_down_on_the_wire() -> None:
    failing = Failing(2, unavailable())
    retried: list[str] = []
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET}), on_retry=retried.append) as calls,
    ):
        with context.bind(identity=ACME, retries=3):
            assert (await EchoStub(calls).Get(HELLO)).value == "hello"
            assert context.retry_budget().remaining == 1
    assert failing.budgets == [3, 2, 1]
    assert retried == [GET, GET]


async def test_three_attempts_are_the_most() -> None:
    failing = Failing(10, unavailable())
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        call = EchoStub(calls).Get(HELLO)
        for _ in range(2):  # awaiting the same call again does not start it again
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert errors.from_rpc_error(caught.value).reason == "AWAY"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert len(failing.budgets) == 3


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceExhausted("full", reason="FULL", retry_after=0.01),
        errors.Aborted("stale", reason="STALE"),
        errors.DeadlineExceeded("late", reason="LATE"),
        errors.Internal("bug", reason="BUG"),
    ],
)
async def test_only_unavailable_is_tried_again(error: errors.PeregrineError) -> None:
    failing = Failing(1, error)
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(calls).Get(HELLO)
    assert len(failing.budgets) == 1


async def test_a_method_that_was_not_declared_idempotent_is_not_tried_again() -> None:
    failing = Failing(1, unavailable())
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(calls).Say(HELLO)
    assert len(failing.budgets) == 1


async def test_a_spent_budget_ends_the_retries_of_the_whole_run() -> None:
    failing = Failing(100, unavailable())
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        stub = EchoStub(calls)
        with context.bind(retries=2):
            results = await asyncio.gather(
                *(stub.Get(HELLO) for _ in range(4)), return_exceptions=True
            )
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)
    assert len(failing.budgets) == 4 + 2


async def test_a_delay_that_the_server_asks_for_is_obeyed_or_the_call_given_up() -> None:
    patient = Failing(1, unavailable(retry_after=0.3))
    async with (
        echo_server(EchoServicer(patient.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await EchoStub(calls).Get(HELLO)
        assert loop.time() - began >= 0.3
    hopeless = Failing(1, unavailable(retry_after=30))
    async with (
        echo_server(EchoServicer(hopeless.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        async with asyncio.timeout(5):
            with pytest.raises(grpc.aio.AioRpcError):
                await EchoStub(calls).Get(HELLO, timeout=20)
    assert len(hopeless.budgets) == 1


async def test_a_started_stream_is_never_tried_again() -> None:
    starts = 0

    async def count(_: str, __: Any) -> AsyncIterator[str]:
        nonlocal starts
        starts += 1
        yield "1"
        raise unavailable()

    async with (
        echo_server(EchoServicer(count=count)) as server,
        pool(server.address, idempotent=frozenset({GET, COUNT})) as calls,
    ):
        got = []
        with pytest.raises(grpc.aio.AioRpcError):
            async for message in EchoStub(calls).Count(HELLO):
                got.append(message.value)  # noqa: PERF401 - what came before the failure counts
    assert (got, starts) == (["1"], 1)


@pytest.mark.parametrize("method", ["Say", "Get", "Count"])
async def test_cancelling_the_task_that_waits_ends_the_call_on_the_server(method: str) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def say(_: str, __: Any) -> str:
        entered.set()
        try:
            return str(await forever())
        finally:
            left.set()

    async def count(text: str, rpc: Any) -> AsyncIterator[str]:
        yield "0"
        yield await say(text, rpc)

    async with (
        echo_server(EchoServicer(say, count)) as server,
        pool(server.address, default_timeout=30, idempotent=frozenset({GET})) as calls,
    ):
        stub = EchoStub(calls)

        async def wait() -> None:
            if method == "Count":
                async for _ in stub.Count(HELLO):
                    pass
            else:
                await getattr(stub, method)(HELLO)

        waiting = asyncio.create_task(wait())
        await asyncio.wait_for(entered.wait(), 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(left.wait(), 5)
        await eventually(lambda: calls.in_flight == (0, 0))


@pytest.mark.parametrize("method", ["Say", "Get", "Count"])
async def test_a_call_ends_at_whatever_moment_its_waiter_is_cancelled(method: str) -> None:
    running = 0

    async def say(_: str, __: Any) -> str:
        nonlocal running
        running += 1
        try:
            return str(await forever())
        finally:
            running -= 1

    async def count(text: str, rpc: Any) -> AsyncIterator[str]:
        yield "0"
        yield await say(text, rpc)

    async def wait(stub: EchoStub) -> None:
        if method == "Count":
            async for _ in stub.Count(HELLO):
                pass
        else:
            await getattr(stub, method)(HELLO)

    async with (
        echo_server(EchoServicer(say, count)) as server,
        pool(server.address, default_timeout=60, idempotent=frozenset({GET})) as calls,
    ):
        stub = EchoStub(calls)
        await calls.warm(5)
        kept = []  # so that no garbage collection ends a call that was forgotten
        for turns in range(60):
            waiting = asyncio.create_task(wait(stub))
            kept.append(waiting)
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await eventually(lambda: calls.in_flight == (0, 0) and running == 0)


async def test_cancelling_between_two_attempts_makes_no_further_one() -> None:
    failing = Failing(10, unavailable(retry_after=2))
    async with (
        echo_server(EchoServicer(failing.say)) as server,
        pool(server.address, idempotent=frozenset({GET})) as calls,
    ):
        with context.bind(retries=3):
            waiting = asyncio.ensure_future(_finish(EchoStub(calls).Get(HELLO)))
            budget = context.retry_budget()
            await eventually(lambda: budget.remaining == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert len(failing.budgets) == 1
        assert calls.in_flight == (0, 0)


async def _finish(call: Any) -> Any:
    return await call


async def test_warming_an_absent_server_says_who_cannot_be_reached() -> None:
    target = f"127.0.0.1:{free_port()}"
    async with pool(target) as calls:
        with pytest.raises(
            errors.Unavailable, match=f"echo at {target} cannot be reached"
        ) as caught:
            await calls.warm(0.2)
    assert caught.value.reason == "PEER_UNREACHABLE"


async def test_a_server_that_comes_back_is_found_within_the_retries() -> None:
    port = free_port()
    settings = InnerSettings(auth_required=False, listen=f"127.0.0.1:{port}", drain_seconds=0.1)
    async with pool(settings.listen, idempotent=frozenset({GET})) as calls:
        async with echo_server(settings=settings):
            await calls.warm(5)
        with pytest.raises(grpc.aio.AioRpcError):
            await EchoStub(calls).Say(HELLO)
        async with echo_server(settings=settings):
            await calls.warm(5)
            assert (await EchoStub(calls).Get(HELLO)).value == "hello"


async def test_unix_and_dns_targets_work(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/echo.sock"
    async with (
        echo_server(
            settings=InnerSettings(auth_required=False, listen=listen, drain_seconds=1)
        ) as server,
        pool(server.address) as calls,
    ):
        assert (await EchoStub(calls).Say(HELLO)).value == "hello"
    async with echo_server() as server, pool(f"dns:///localhost:{server.port}") as calls:
        assert (await EchoStub(calls).Say(HELLO)).value == "hello"


async def test_many_calls_at_once_all_come_back() -> None:
    async with echo_server() as server, pool(server.address, size=4) as calls:
        stub = EchoStub(calls)
        answers = await asyncio.gather(*(stub.Say(StringValue(value=str(n))) for n in range(500)))
        assert [int(answer.value) for answer in answers] == list(range(500))
        assert calls.in_flight == (0, 0, 0, 0)
