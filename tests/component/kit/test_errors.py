"""What a handler raises reaches a real client as a typed error; cancellation passes untouched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from peregrine.kit import errors
from peregrine.kit.context import Identity
from peregrine.kit.settings import InnerSettings, Secret
from tests.component.kit.echo import COUNT, SAY, EchoServicer, EchoStub, echo_server, forever
from tests.support import identity
from tests.support.eventually import eventually

MESSAGE = StringValue(value="x")


async def call(raised: Callable[[], Any], *, stream: bool, timeout: float = 5.0) -> Any:
    """The AioRpcError that a client gets when the handler does `raised`."""

    async def say(_: str, __: Any) -> str:
        return str(await raised())

    async def count(_: str, __: Any) -> AsyncIterator[str]:
        yield "first"
        yield str(await raised())

    async with (
        echo_server(EchoServicer(say, count)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = EchoStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if stream:
                async for _ in stub.Count(MESSAGE, timeout=timeout):
                    pass
            else:
                await stub.Say(MESSAGE, timeout=timeout)
    return caught.value


def raising(error: BaseException) -> Callable[[], Any]:
    async def raised() -> None:
        raise error

    return raised


def infos(error: grpc.aio.AioRpcError) -> list[error_details_pb2.ErrorInfo]:
    (details,) = (v for k, v in error.trailing_metadata() or () if k == errors.DETAILS_KEY)
    return [
        error_details_pb2.ErrorInfo.FromString(each.value)
        for each in status_pb2.Status.FromString(details).details
        if each.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    ]


both_kinds = pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])


@both_kinds
async def test_a_typed_error_arrives_with_everything_in_it(stream: bool) -> None:
    sent = errors.ResourceExhausted(
        "full — später",
        reason="TOO_MANY_RUNS",
        metadata={"limit": "10"},
        retry_after=2.5,
        violations=[("a", "b")],
    )
    error = await call(raising(sent), stream=stream)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [info.reason for info in infos(error)] == ["TOO_MANY_RUNS"]
    read = errors.from_rpc_error(error)
    assert type(read) is errors.ResourceExhausted
    assert (read.message, read.metadata, read.retry_after, read.violations) == (
        sent.message,
        sent.metadata,
        sent.retry_after,
        sent.violations,
    )


@both_kinds
async def test_an_unforeseen_error_tells_the_caller_an_id_and_the_log_the_rest(
    stream: bool, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    error = await call(raising(KeyError("the password of acme")), stream=stream)
    read = errors.from_rpc_error(error)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert [info.reason for info in infos(error)] == ["INTERNAL_ERROR"]
    assert "password" not in repr(error)
    (line,) = [line for line in log_lines() if line["event"] == "handler_failed"]
    assert line["error_id"] == read.metadata["error_id"]
    assert line["method"] == (COUNT if stream else SAY)
    assert "KeyError" in line["exception"]


@both_kinds
async def test_a_timeout_inside_is_not_passed_off_as_the_callers_deadline(stream: bool) -> None:
    error = await call(raising(TimeoutError()), stream=stream)
    assert errors.from_rpc_error(error).reason == "INTERNAL_ERROR"


@both_kinds
async def test_the_callers_deadline_ends_the_handler(stream: bool) -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await forever()
        finally:
            ended.set()

    error = await call(slow, stream=stream, timeout=0.2)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(ended.wait(), 5)


@both_kinds
async def test_a_handler_that_was_cancelled_from_within_answers_instead_of_hanging(
    stream: bool,
) -> None:
    error = await call(raising(asyncio.CancelledError()), stream=stream)
    assert errors.from_rpc_error(error).reason == "WORK_CANCELLED"


@both_kinds
async def test_the_error_of_a_call_made_inside_is_passed_on_with_its_reason(stream: bool) -> None:
    async def inner() -> None:
        raise await call(raising(errors.NotFound("no", reason="AGENT_NOT_FOUND")), stream=False)

    read = errors.from_rpc_error(await call(inner, stream=stream))
    assert type(read) is errors.NotFound
    assert read.reason == "AGENT_NOT_FOUND"


async def test_an_untyped_refusal_of_a_call_made_inside_is_our_fault() -> None:
    inner = grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, details="who knows")
    assert errors.from_rpc_error(await call(raising(inner), stream=False)).reason == (
        "INTERNAL_ERROR"
    )


async def test_a_task_group_shows_the_typed_error_inside_it() -> None:
    group = ExceptionGroup("x", [ExceptionGroup("y", [errors.Aborted("no", reason="STALE")])])
    assert errors.from_rpc_error(await call(raising(group), stream=False)).reason == "STALE"


async def test_a_method_that_nobody_built_says_so() -> None:
    async with (
        echo_server() as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EchoStub(channel).NotBuilt(MESSAGE, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert errors.from_rpc_error(caught.value).reason == "METHOD_NOT_IMPLEMENTED"


async def test_an_error_larger_than_metadata_may_be_still_arrives_typed() -> None:
    huge = errors.NotFound(
        "€" * 10_000,
        reason="HUGE",
        metadata={f"k{n}": "€" * 1000 for n in range(100)},
        violations=[("€" * 1000, "€" * 1000)] * 100,
    )
    assert errors.from_rpc_error(await call(raising(huge), stream=False)).reason == "HUGE"


@both_kinds
async def test_a_client_that_cancels_ends_the_handler_and_its_generator(stream: bool) -> None:
    entered, left = asyncio.Event(), asyncio.Event()
    seen: list[BaseException] = []

    async def wait() -> None:
        entered.set()
        try:
            await forever()
        except BaseException as error:
            seen.append(error)
            raise
        finally:
            left.set()

    async def say(_: str, __: Any) -> str:
        await wait()
        return ""

    async def count(_: str, __: Any) -> AsyncIterator[str]:
        yield "first"
        await wait()

    async with (
        echo_server(EchoServicer(say, count)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = EchoStub(channel)
        rpc = stub.Count(MESSAGE, timeout=30) if stream else stub.Say(MESSAGE, timeout=30)
        await asyncio.wait_for(entered.wait(), 5)
        rpc.cancel()
        await asyncio.wait_for(left.wait(), 5)
    assert [type(error) for error in seen] == [asyncio.CancelledError]


async def test_a_generator_is_closed_even_when_the_client_leaves_while_it_is_being_written() -> (
    None
):
    closed = asyncio.Event()

    async def flood(_: str, __: Any) -> AsyncIterator[str]:
        try:
            while True:  # the client does not read: writing blocks on flow control
                yield "x" * 100_000
        finally:
            closed.set()

    async with (
        echo_server(EchoServicer(count=flood)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        rpc = EchoStub(channel).Count(MESSAGE, timeout=30)
        await rpc.read()
        rpc.cancel()
        await eventually(closed.is_set, timeout=5)


async def test_health_needs_no_identity_but_calls_do_where_it_is_required() -> None:
    settings = InnerSettings(identity_keys=Secret(identity.KEYS_TEXT), drain_seconds=1)
    async with (
        echo_server(settings=settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for metadata in ((), (("peregrine-tenant", "acme"), ("peregrine-user", "bob"))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EchoStub(channel).Say(MESSAGE, timeout=5, metadata=metadata)
            assert errors.from_rpc_error(caught.value).reason == "CREDENTIALS_MISSING"
        metadata = identity.signed(Identity("acme", "bob"))
        assert (await EchoStub(channel).Say(MESSAGE, timeout=5, metadata=metadata)).value == "x"
