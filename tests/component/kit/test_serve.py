"""A server's life as its clients see it: health, reflection, limits, drain, ports."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from peregrine.kit import serve
from peregrine.kit.errors import StartRefused, Unavailable
from peregrine.kit.options import MAX_MESSAGE_BYTES
from peregrine.kit.settings import InnerSettings, Secret, SettingsError
from tests.component.kit.echo import SERVICE, EchoServicer, EchoStub, add_echo, echo_server
from tests.support import identity
from tests.support.eventually import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def server(**options: Any) -> serve.Server:
    return serve.Server(
        name="echo",
        settings=options.pop("settings", InnerSettings(auth_required=False, drain_seconds=5.0)),
        servicers=[(add_echo, options.pop("servicer", EchoServicer()), SERVICE)],
        **options,
    )


async def status(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


async def test_health_says_not_serving_until_the_backends_answered() -> None:
    answered = asyncio.Event()
    asked = 0

    async def ready() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("not yet", reason="POSTGRES_UNAVAILABLE")
        await answered.wait()

    async with (
        server(ready=ready) as started,
        grpc.aio.insecure_channel(started.address) as channel,
    ):
        await eventually(lambda: asked == 2)
        assert [await status(channel), await status(channel, SERVICE)] == [NOT_SERVING] * 2
        assert await status(channel, serve.LIVENESS) == SERVING
        answered.set()
        await asyncio.wait_for(started.serving(), 5)
        assert [await status(channel), await status(channel, SERVICE)] == [SERVING] * 2


async def test_a_ready_check_that_breaks_is_raised_to_whoever_waits() -> None:
    async def ready() -> None:
        raise ValueError("wrong")

    async with server(ready=ready) as started:
        with pytest.raises(ValueError, match="wrong"):
            await started.serving()


async def test_stopping_says_not_serving_then_drains_then_lets_calls_end() -> None:
    order: list[str] = []
    release, in_call = asyncio.Event(), asyncio.Event()

    async def say(text: str, _: Any) -> str:
        in_call.set()
        await release.wait()
        order.append("call ended")
        return text

    async def drain() -> None:
        order.append(f"drain, health {await status(channel)}")
        assert (
            await EchoStub(channel).Count(StringValue(value="1"), timeout=5).read()
        ).value == "0"
        release.set()

    started = server(servicer=EchoServicer(say), drain=drain)
    await started.start()
    await started.serving()
    async with grpc.aio.insecure_channel(started.address) as channel:
        call = EchoStub(channel).Say(StringValue(value="hi"), timeout=10)
        await asyncio.wait_for(in_call.wait(), 5)
        await started.stop()
        assert (await call).value == "hi"
    assert order == [f"drain, health {NOT_SERVING}", "call ended"]


async def test_the_grace_for_endpoints_comes_before_the_drain() -> None:
    loop = asyncio.get_running_loop()
    drained: list[float] = []

    async def drain() -> None:
        drained.append(loop.time())

    started = server(
        settings=InnerSettings(auth_required=False, endpoint_grace_seconds=0.2), drain=drain
    )
    await started.start()
    began = loop.time()
    await started.stop()
    assert drained[0] - began >= 0.19


async def test_an_open_health_watch_hears_not_serving_and_does_not_hold_the_stop() -> None:
    started = server(settings=InnerSettings(auth_required=False, drain_seconds=600))
    await started.start()
    await started.serving()
    async with grpc.aio.insecure_channel(started.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(started.stop(), 10)
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_a_drain_that_fails_or_hangs_does_not_keep_the_server_from_stopping(
    log_lines: Callable[[], list[dict[str, Any]]],
) -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def hangs() -> None:
        await asyncio.Event().wait()

    for drain in (fails, hangs):
        started = server(drain=drain)
        await started.start()
        await asyncio.wait_for(started.stop(grace=0.1), 5)
    assert {"drain_failed", "drain_cut"} <= {line["event"] for line in log_lines()}


async def test_stopping_twice_or_before_the_start_is_harmless() -> None:
    unstarted = server()
    await unstarted.stop()
    started = server()
    await started.start()
    await started.stop()
    await started.stop()


async def test_a_port_in_use_is_refused_and_names_the_variable() -> None:
    async with server() as first:
        with pytest.raises(StartRefused, match=r"\(address already in use\).*PEREGRINE_LISTEN"):
            await server(settings=InnerSettings(auth_required=False, listen=first.address)).start()


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:notaport", "203.0.113.7:50051"])
async def test_an_address_that_is_not_ours_is_refused(listen: str) -> None:
    with pytest.raises(StartRefused, match="cannot listen on"):
        await server(
            settings=InnerSettings(identity_keys=Secret(identity.KEYS_TEXT), listen=listen)
        ).start()


async def test_a_metrics_port_in_use_is_refused_and_leaves_nothing_listening() -> None:
    from prometheus_client import CollectorRegistry

    async with server() as first:
        second = server(
            settings=InnerSettings(auth_required=False, metrics_port=first.port),
            registry=CollectorRegistry(),
        )
        try:
            with pytest.raises(StartRefused, match="PEREGRINE_METRICS_PORT"):
                await second.start()
        finally:
            await second.stop()


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/echo.sock"
    async with (
        server(settings=InnerSettings(auth_required=False, listen=listen)) as started,
        grpc.aio.insecure_channel(started.address) as channel,
    ):
        assert (await EchoStub(channel).Say(StringValue(value="hi"), timeout=5)).value == "hi"


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", "127.0.0.1.example.org:0", "127.evil:0", "10.0.0.1:0", ":0"]
)
async def test_a_server_that_asks_nobody_who_he_is_stays_on_this_machine(listen: str) -> None:
    settings = InnerSettings(listen=listen, auth_required=False)
    with pytest.raises(StartRefused, match="PEREGRINE_AUTH_REQUIRED: is off") as refused:
        await server(settings=settings).start()
    assert "\n" not in str(refused.value)


async def test_a_server_that_asks_may_be_reached_from_everywhere() -> None:
    keys = Secret(identity.KEYS_TEXT)
    async with server(settings=InnerSettings(listen="0.0.0.0:0", identity_keys=keys)) as started:
        assert started.port


def test_no_server_is_made_without_keys() -> None:
    with pytest.raises(SettingsError, match="PEREGRINE_SECRET_IDENTITY_KEYS: is not set"):
        server(settings=InnerSettings())


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_is_behind_its_setting(on: bool) -> None:
    async with (
        echo_server(
            settings=InnerSettings(auth_required=False, reflection=on, drain_seconds=1)
        ) as started,
        grpc.aio.insecure_channel(started.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), timeout=5)
        if on:
            answer = await call.read()
            names = {each.name for each in answer.list_services_response.service}
            assert {SERVICE, "grpc.health.v1.Health"} <= names
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_over_the_limit_is_refused_and_the_server_goes_on() -> None:
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with (
        echo_server() as started,
        grpc.aio.insecure_channel(started.address, options=unlimited) as channel,
    ):
        stub = EchoStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(StringValue(value="x" * MAX_MESSAGE_BYTES), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        nearly = "x" * (MAX_MESSAGE_BYTES - 100)
        assert (await stub.Say(StringValue(value=nearly), timeout=10)).value == nearly
