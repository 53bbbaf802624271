"""Answers of the model, as a caller of `Generate` reads them."""

import asyncio

import orjson
import pytest

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from tests.component.llm_gateway.conftest import (
    Gateway,
    Model,
    StartGateway,
    ask,
    kinds,
    read,
    said,
)


async def test_an_answer_streams_from_started_to_finished(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "text": "Hello, you there."}]})

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["started", "text_delta", "finished"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert said(events) == "Hello, you there."
    started, finished = events[0].started, events[-1].finished
    assert started.simulated
    assert started.model == "claude-sonnet-5-5"
    assert started.prompt_usage.input_tokens == finished.usage.input_tokens > 0
    assert finished.stop_reason == pb.STOP_REASON_END_TURN
    assert finished.usage.output_tokens > 1


async def test_times_add_up_to_what_the_caller_waited(gateway: Gateway, model: Model) -> None:
    model.plays(
        {
            "blocks": [{"type": "text", "tokens": 5}],
            "latency": {"first_token": 0.1, "tokens_per_second": 50},
        }
    )
    clock = asyncio.get_running_loop().time
    await read(gateway.stub.Generate(ask()))  # the first call pays for imports
    began = clock()

    events = await read(gateway.stub.Generate(ask()))

    waited = (clock() - began) * 1e3
    times = events[-1].finished.times
    assert times.connect_ms == 0.0
    assert times.first_token_ms >= 99
    assert times.decode_ms >= 60
    total = times.queue_ms + times.build_ms + times.first_token_ms + times.decode_ms
    assert total <= waited


async def test_a_tool_call_leaves_whole_with_the_bytes_the_model_wrote(
    gateway: Gateway, model: Model
) -> None:
    arguments = '{"b": 9007199254740993, "a":  [1.10, "é\\u00e9"]}'
    model.plays(
        {
            "blocks": [
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "name": "one", "json": arguments, "chunks": 7},
                {"type": "tool_use", "name": "two", "input": {}},
            ]
        }
    )

    events = await read(gateway.stub.Generate(ask(tools=True)))

    begun = [event.tool_use_started for event in events if event.HasField("tool_use_started")]
    one, two = [event.tool_use for event in events if event.HasField("tool_use")]
    assert [(each.call_id, each.tool) for each in begun] == [
        (one.call_id, "one"),
        (two.call_id, "two"),
    ]
    assert (one.tool, one.arguments.utf8) == ("one", arguments.encode())
    assert (two.tool, two.arguments.utf8) == ("two", b"{}")
    assert one.call_id != two.call_id
    assert events[-1].finished.stop_reason == pb.STOP_REASON_TOOL_USE


async def test_a_tool_call_is_handed_on_while_the_model_still_writes(
    gateway: Gateway, model: Model
) -> None:
    model.plays(
        {
            "blocks": [
                {"type": "tool_use", "name": "first", "input": {"n": 1}},
                {"type": "text", "tokens": 3, "delay_before": 30},
            ]
        }
    )

    call = gateway.stub.Generate(ask(tools=True))
    async with asyncio.timeout(25):
        async for response in call:
            if any(event.HasField("tool_use") for event in response.events):
                break
    call.cancel()

    assert await model.ended() == "client_closed"


async def test_broken_arguments_are_handed_on_raw(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "tool_use", "name": "one", "json": '{"a": '}]})

    events = await read(gateway.stub.Generate(ask(tools=True)))

    (call,) = [event.tool_use for event in events if event.HasField("tool_use")]
    assert call.arguments.utf8 == b'{"a": '
    assert gateway.metric("peregrine_llm_broken_tool_arguments_total") == 1


async def test_thinking_streams_and_returns_whole_with_its_signature(
    gateway: Gateway, model: Model
) -> None:
    model.plays(
        {
            "blocks": [
                {"type": "thinking", "text": "Let me see now."},
                {"type": "text", "text": "Yes."},
            ]
        }
    )

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["started", "thinking_delta", "opaque_block", "text_delta", "finished"]
    thought = "".join(event.thinking_delta.text for event in events)
    block = next(event.opaque_block for event in events if event.HasField("opaque_block"))
    whole = orjson.loads(block.utf8)
    assert whole["type"] == "thinking"
    assert whole["thinking"] == thought == "Let me see now."
    assert whole["signature"]

    again = ask("go on")
    again.prompt.messages.add(role="ROLE_ASSISTANT").content.add(opaque=block)
    again.prompt.messages.add(role="ROLE_USER").content.add(text="and?")
    await read(gateway.stub.Generate(again))
    assert block.utf8 in model.requests()[-1].body


async def test_events_that_came_together_travel_together(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 200}]})

    responses = [response async for response in gateway.stub.Generate(ask())]

    assert sum(len(response.events) for response in responses) > 200
    assert len(responses) < 100


async def test_the_stop_reason_tells_when_the_answer_was_cut(
    gateway: Gateway, model: Model
) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 100}]})

    events = await read(gateway.stub.Generate(ask(prompt={"max_output_tokens": 5})))

    assert events[-1].finished.stop_reason == pb.STOP_REASON_MAX_TOKENS
    assert events[-1].finished.usage.output_tokens == 5


async def test_marking_the_prompt_lets_the_next_call_read_it_from_the_providers_cache(
    gateway: Gateway, model: Model
) -> None:
    first = ask("word " * 3000, tools=True, prompt_caching=True)
    events = await read(gateway.stub.Generate(first))
    assert events[-1].finished.usage.cache_creation_input_tokens > 1024

    second = pb.GenerateRequest()
    second.CopyFrom(first)
    second.prompt.messages.add(role="ROLE_ASSISTANT").content.add(text="I see.")
    second.prompt.messages.add(role="ROLE_USER").content.add(text="Go on.")
    usage = (await read(gateway.stub.Generate(second)))[-1].finished.usage

    assert usage.cache_read_input_tokens > 1024
    assert usage.input_tokens < 100


async def test_two_hundred_generations_at_once_lose_nothing(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 20}]})

    async with asyncio.TaskGroup() as group:
        reads = [
            group.create_task(read(gateway.stub.Generate(ask(f"number {n}")))) for n in range(200)
        ]

    texts = {said(task.result()) for task in reads}
    assert len(texts) == 1
    assert all(kinds(task.result())[-1] == "finished" for task in reads)
    assert gateway.metric("peregrine_llm_inflight") == 0


async def test_a_prompt_of_several_megabytes_gets_through(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "text": "Long."}]})

    events = await read(gateway.stub.Generate(ask("x" * 8_000_000)))

    assert said(events) == "Long."


@pytest.mark.parametrize("protocol", ["auto", "1.1"])
async def test_both_versions_of_http_are_spoken(
    start_gateway: StartGateway, model: Model, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays({"blocks": [{"type": "text", "text": "Hi."}]})

    events = await read(gateway.stub.Generate(ask()))

    assert said(events) == "Hi."
    assert model.requests()[0].protocol == ("HTTP/1.1" if protocol == "1.1" else "HTTP/2")


async def test_what_happened_is_counted(gateway: Gateway, model: Model) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 20}]})

    events = await read(gateway.stub.Generate(ask()))

    name = "claude-sonnet-5-5"
    usage = events[-1].finished.usage
    assert gateway.metric("peregrine_llm_requests_total", model=name, status="success") == 1
    assert gateway.metric("peregrine_llm_first_token_seconds_count", model=name) == 1
    output = gateway.metric("peregrine_llm_tokens_total", model=name, kind="output")
    assert output == usage.output_tokens
    assert gateway.metric("peregrine_llm_prompt_tokens_sum", model=name) == usage.input_tokens


async def test_tokens_are_counted_and_models_listed(gateway: Gateway) -> None:
    counted = await gateway.stub.CountTokens(pb.CountTokensRequest(prompt=ask("one two").prompt))
    assert counted.input_tokens > 0

    first = await gateway.stub.ListModels(pb.ListModelsRequest(page_size=2))
    assert len(first.models) == 2
    assert all(each.simulated for each in first.models)
    rest = await gateway.stub.ListModels(pb.ListModelsRequest(page_token=first.next_page_token))
    assert not rest.next_page_token
    names = {each.name for each in (*first.models, *rest.models)}
    assert len(names) == 3
