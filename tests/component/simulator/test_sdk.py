"""The unmodified SDK works against the simulator, over HTTP/1.1, HTTP/2 and TLS."""

import json
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from httpx2 import AsyncClient

from peregrine.kit.settings import Secret
from peregrine.simulator.main import Simulator, SimulatorSettings
from tests.component.simulator.conftest import FAST, MODEL, Ask, Certificate
from tests.unit.simulator.requests import TOOLS, tool_result

QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"


async def test_a_turn_with_three_tools_streams_and_is_answered(
    client: AsyncAnthropic, simulator: Simulator, protocol: str, ask: Ask
) -> None:
    asked = ask(QUESTION, tools=TOOLS)
    async with client.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        first = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_stop") == 4
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [
        ("calculator", {"expression": "25 * 17"}),
        ("current_time", {"timezone": "UTC"}),
        ("knowledge_search", {"query": "refunds"}),
    ]
    found = {"results": [{"title": "Refund policy", "text": "Refunds take 14 days."}]}
    outputs = ["425", "2026-11-22T06:00:00+00:00", json.dumps(found)]
    asked["messages"] += [
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {
            "role": "user",
            "content": [
                tool_result(call.id, output) for call, output in zip(calls, outputs, strict=True)
            ],
        },
    ]
    async with client.messages.stream(**asked) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        second = await stream.get_final_message()
    for part in ("425", "2026-11-22T06:00:00", "Refund policy", "Refunds take 14 days."):
        assert part in text
    assert second.stop_reason == "end_turn"
    assert second.usage.output_tokens == -(-len(text) // 4)
    assert {record.protocol for record in simulator.state.records} == {protocol}


async def test_a_whole_message_equals_the_streamed_one(client: AsyncAnthropic, ask: Ask) -> None:
    asked = ask(QUESTION, tools=TOOLS)
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    ids = {"id", "content"}
    assert whole.to_dict(exclude_unset=True).keys() >= {"id", "role", "usage", "stop_reason"}
    assert whole.model_dump(exclude=ids) == streamed.model_dump(exclude=ids)
    assert [_without_id(b) for b in whole.content] == [_without_id(b) for b in streamed.content]


def _without_id(block: Any) -> dict[str, Any]:
    return {key: value for key, value in block.to_dict().items() if key != "id"}


async def test_thinking_streams_with_its_signature(client: AsyncAnthropic, ask: Ask) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    async with client.messages.stream(**ask(thinking=thinking)) as stream:
        message = await stream.get_final_message()
    thought, said = message.content
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature
    assert said.type == "text"
    history = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [block.to_dict() for block in message.content]},
        {"role": "user", "content": "thanks"},
    ]
    answer = await client.messages.create(**ask(messages=history))
    assert answer.content[0].to_dict()["text"] == "You are welcome!"


async def test_limits_are_honoured(client: AsyncAnthropic, ask: Ask) -> None:
    cut = await client.messages.create(**ask("who are you?", max_tokens=2))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    stopped = await client.messages.create(**ask("who are you?", stop_sequences=["model"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "model")
    assert stopped.content[0].to_dict()["text"] == "I am a simulated "


async def test_tokens_are_counted_as_they_are_billed(client: AsyncAnthropic, ask: Ask) -> None:
    asked = ask("x" * 400, system="y" * 40, tools=TOOLS)
    billed = await client.messages.create(**asked)
    asked.pop("max_tokens")
    counted = await client.messages.count_tokens(**asked)
    assert counted.input_tokens == billed.usage.input_tokens > 110


async def test_models_are_listed_as_simulated(client: AsyncAnthropic) -> None:
    listed = [model async for model in await client.models.list(limit=2)]
    assert [model.id for model in listed] == list(SimulatorSettings().models)
    assert all("simulated" in model.display_name for model in listed)
    one = await client.models.retrieve("claude-haiku-4-5")
    assert one.id == "claude-haiku-4-5"
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("gpt-x")


async def test_answers_carry_a_request_id_and_the_simulated_label(
    client: AsyncAnthropic, ask: Ask
) -> None:
    raw = await client.messages.with_raw_response.create(**ask())
    assert raw.headers["request-id"].startswith("req_")
    assert raw.headers["x-simulated"] == "peregrine-simulator"


async def test_the_prompt_cache_shows_in_usage(client: AsyncAnthropic, ask: Ask) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    asked = ask(system=[{"type": "text", "text": "z" * 8000, **mark}])
    first = (await client.messages.create(**asked)).usage
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (2000, 0)
    async with client.messages.stream(**asked) as stream:
        second = (await stream.get_final_message()).usage
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, 2000)
    assert second.input_tokens == first.input_tokens


async def test_tls_offers_http2_and_http1_by_alpn(certificate: Certificate, ask: Ask) -> None:
    settings = SimulatorSettings(
        **FAST, tls_cert_file=certificate.certificate, tls_key_file=certificate.key
    )
    async with Simulator.running(settings) as simulator:
        assert simulator.base_url.startswith("https://")
        for http2 in (True, False):
            transport = DefaultAsyncHttpxClient(http2=http2, verify=certificate.trusted())
            async with AsyncAnthropic(
                base_url=simulator.base_url, api_key="any", max_retries=0, http_client=transport
            ) as client:
                async with client.messages.stream(**ask("hello")) as stream:
                    assert (await stream.get_final_message()).model == MODEL
        protocols = [record.protocol for record in simulator.state.records]
        assert protocols == ["HTTP/2", "HTTP/1.1"]


async def test_without_a_key_or_with_a_wrong_one_nobody_is_answered(ask: Ask) -> None:
    settings = SimulatorSettings(**FAST, api_key=Secret("right"))
    async with Simulator.running(settings) as simulator:
        for key, refused in (("wrong", True), ("right", False)):
            async with AsyncAnthropic(
                base_url=simulator.base_url, api_key=key, max_retries=0
            ) as client:
                if refused:
                    with pytest.raises(anthropic.AuthenticationError):
                        await client.messages.create(**ask())
                else:
                    await client.messages.create(**ask())
        async with AsyncClient(base_url=simulator.base_url) as plain:
            answer = await plain.post("/v1/messages", json=ask())
            assert answer.status_code == 401
            keyed = await plain.post("/v1/messages", json=ask(), headers={"x-api-key": "right"})
            assert keyed.json()["error"]["message"] == "anthropic-version: header is required"
