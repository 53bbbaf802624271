"""Cancelling ends the request upstream, at once, in every phase, and nothing else."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.llm_gateway.main import Settings, build
from tests.component.llm_gateway.conftest import (
    Gateway,
    Model,
    StartGateway,
    Stub,
    ask,
    kinds,
    read,
    said,
)
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy

PROTOCOLS = pytest.mark.parametrize("protocol", ["auto", "1.1"])
SILENT = {"blocks": [{"type": "text", "text": "Late."}], "latency": {"first_token": 60}}
SLOW = {"blocks": [{"type": "text", "tokens": 1000}], "latency": {"tokens_per_second": 20}}
LONG_BEFORE_ITS_END = 20  # seconds; each of the two takes 50 or more


@pytest.fixture
async def provider(model: Model) -> AsyncIterator[FaultProxy]:
    """The way to the model, where its connections can be counted."""
    async with fault_proxy(model.url.removeprefix("http://")) as proxy:
        yield proxy


async def first_text(call: Any) -> None:
    async for response in call:
        if any(event.HasField("text_delta") for event in response.events):
            return


def idle(gateway: Gateway) -> bool:
    return gateway.metric("peregrine_llm_inflight") == 0


@PROTOCOLS
async def test_a_call_cancelled_before_the_first_token_ends_upstream(
    start_gateway: StartGateway, model: Model, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays(SILENT)
    call = gateway.stub.Generate(ask())
    reading = asyncio.create_task(read(call))
    await eventually(model.requests)

    call.cancel()

    async with asyncio.timeout(LONG_BEFORE_ITS_END):
        assert await model.ended() == "client_closed"
    await asyncio.wait([reading])
    await eventually(lambda: idle(gateway))


@PROTOCOLS
async def test_a_call_cancelled_in_mid_stream_ends_upstream(
    start_gateway: StartGateway, model: Model, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays(SLOW)
    call = gateway.stub.Generate(ask())
    await first_text(call)

    call.cancel()

    async with asyncio.timeout(LONG_BEFORE_ITS_END):
        assert await model.ended() == "client_closed"
    await eventually(lambda: idle(gateway))
    labels = {"model": "claude-sonnet-5-5", "status": "cancelled"}
    assert gateway.metric("peregrine_llm_requests_total", **labels) == 1


async def test_a_call_cancelled_while_connecting_leaves_nothing(
    start_gateway: StartGateway, model: Model, provider: FaultProxy
) -> None:
    provider.cut()
    gateway = await start_gateway(base_url=f"http://{provider.address}", connect_seconds=30)
    provider.resume()
    provider.stall()
    call = gateway.stub.Generate(ask())
    reading = asyncio.create_task(read(call))
    await eventually(lambda: gateway.metric("peregrine_llm_inflight") == 1)

    call.cancel()

    await asyncio.wait([reading])
    await eventually(lambda: idle(gateway))
    provider.resume()
    model.plays({"blocks": [{"type": "text", "text": "Here."}]})
    assert said(await read(gateway.stub.Generate(ask()))) == "Here."
    assert len(model.requests()) == 1


async def test_only_the_stream_that_was_cancelled_ends(
    start_gateway: StartGateway, model: Model, provider: FaultProxy
) -> None:
    gateway = await start_gateway(base_url=f"http://{provider.address}", connections=1)
    model.plays(SLOW, match={"contains": "cancelled"})
    model.plays(
        {"blocks": [{"type": "text", "tokens": 40}], "latency": {"tokens_per_second": 40}},
        match={"contains": "goes on"},
    )
    others = [asyncio.create_task(read(gateway.stub.Generate(ask("goes on")))) for _ in range(10)]
    calls = [gateway.stub.Generate(ask("cancelled")) for _ in range(10)]
    await asyncio.gather(*(first_text(call) for call in calls))

    for call in calls:
        call.cancel()

    texts = {said(events) for events in await asyncio.gather(*others)}
    assert len(texts) == 1
    ends = [each.ended for each in model.requests()]
    assert (ends.count("completed"), ends.count("client_closed")) == (10, 10)
    assert provider.connections == 1


async def test_more_cancelled_calls_than_a_connection_has_streams_do_not_clog_it(
    start_gateway: StartGateway, model: Model, provider: FaultProxy
) -> None:
    gateway = await start_gateway(base_url=f"http://{provider.address}", connections=1)
    model.plays(SLOW, match={"contains": "cancelled"})
    for _ in range(5):
        calls = [gateway.stub.Generate(ask("cancelled")) for _ in range(50)]
        await asyncio.gather(*(first_text(call) for call in calls))
        for call in calls:
            call.cancel()
        await eventually(lambda: idle(gateway))

    assert kinds(await read(gateway.stub.Generate(ask("hello"))))[-1] == "finished"
    assert provider.connections == 1


@PROTOCOLS
async def test_a_deadline_that_passes_ends_the_request_upstream(
    start_gateway: StartGateway, model: Model, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays(SILENT)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(gateway.stub.Generate(ask(), timeout=0.3))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(LONG_BEFORE_ITS_END):
        assert await model.ended() == "client_closed"


async def test_cancel_generation_ends_it_for_all_its_readers(
    gateway: Gateway, model: Model
) -> None:
    model.plays(SLOW)
    call = gateway.stub.Generate(ask())
    started = (await anext(aiter(call))).events[0].started
    watch = gateway.stub.WatchGeneration(
        pb.WatchGenerationRequest(generation_id=started.generation_id)
    )
    await first_text(watch)
    request = pb.CancelGenerationRequest(generation_id=started.generation_id)

    assert (await gateway.stub.CancelGeneration(request)).cancelled

    async with asyncio.timeout(LONG_BEFORE_ITS_END):
        assert await model.ended() == "client_closed"
    for events in (await read(call), await read(watch)):
        assert events[-1].failed.error.reason == "GENERATION_CANCELLED"
        assert events[-1].failed.usage.input_tokens > 0
    assert not (await gateway.stub.CancelGeneration(request)).cancelled


async def test_a_generation_goes_on_while_somebody_reads_it(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 30}], "latency": {"tokens_per_second": 60}})
    call = gateway.stub.Generate(ask())
    started = (await anext(aiter(call))).events[0].started
    watch = gateway.stub.WatchGeneration(
        pb.WatchGenerationRequest(generation_id=started.generation_id)
    )
    await first_text(watch)

    call.cancel()

    assert (await read(watch))[-1].HasField("finished")
    assert await model.ended() == "completed"


async def test_stopping_the_gateway_ends_what_does_not_end_itself(model: Model) -> None:
    model.plays(SLOW)
    settings = Settings(
        auth_required=False, listen="127.0.0.1:0", base_url=model.url, drain_seconds=0.2
    )
    async with build(settings) as server:
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = Stub(channel).Generate(ask())
            await first_text(call)
            await server.stop()

    assert await model.ended() == "client_closed"


async def test_stopping_the_gateway_lets_a_generation_end(model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 20}], "latency": {"tokens_per_second": 40}})
    settings = Settings(
        auth_required=False, listen="127.0.0.1:0", base_url=model.url, drain_seconds=10
    )
    async with build(settings) as server:
        await server.start()
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = Stub(channel).Generate(ask())
            await first_text(call)
            stopping = asyncio.create_task(server.stop())
            assert kinds(await read(call))[-1] == "finished"
            await stopping

    assert await model.ended() == "completed"


async def test_calls_cancelled_at_any_moment_leave_the_connection_and_the_others_whole(
    start_gateway: StartGateway, model: Model, provider: FaultProxy
) -> None:
    gateway = await start_gateway(base_url=f"http://{provider.address}", connections=1)
    model.plays({"blocks": [{"type": "text", "tokens": 30}], "latency": {"tokens_per_second": 300}})
    chance = random.Random(5)

    async def leave_after(messages: int) -> None:
        call = gateway.stub.Generate(ask())
        if messages:
            async for _ in call:
                messages -= 1
                if not messages:
                    break
        call.cancel()

    async with asyncio.TaskGroup() as group:
        kept = []
        for _ in range(150):
            if chance.random() < 0.2:
                kept.append(group.create_task(read(gateway.stub.Generate(ask()))))
            else:
                group.create_task(leave_after(chance.randrange(4)))

    assert len({said(task.result()) for task in kept}) == 1
    await eventually(lambda: idle(gateway))
    await eventually(lambda: all(each.ended for each in model.requests()))
    assert provider.connections == 1
