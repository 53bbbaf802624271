"""Scripts through the control port: blocks, errors, cut connections, as the SDK sees them."""

import asyncio
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from peregrine.simulator.main import Simulator
from tests.component.simulator.conftest import Ask, sdk
from tests.support.eventually import eventually
from tests.unit.simulator.requests import TOOLS, tool_result


async def add(control: httpx2.AsyncClient, *turns: Any, **fields: Any) -> int:
    answer = await control.post("/script", json={"turns": list(turns), **fields})
    assert answer.status_code == 200, answer.text
    id: int = answer.json()["id"]
    return id


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.RequestTooLargeError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_become_the_exceptions_of_the_sdk(
    client: AsyncAnthropic,
    control: httpx2.AsyncClient,
    ask: Ask,
    status: int,
    kind: str,
    raised: type[anthropic.APIStatusError],
    stream: bool,
) -> None:
    await add(control, {"error": {"status": status, "retry_after": 7, "message": "no"}})
    with pytest.raises(raised) as caught:
        await client.messages.create(**ask(stream=stream))
    assert caught.value.status_code == status
    assert caught.value.type == kind
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.request_id
    assert caught.value.body == {
        "type": "error",
        "error": {"type": kind, "message": "no"},
        "request_id": caught.value.request_id,
    }


async def test_a_request_that_is_too_large_is_refused_and_the_connection_goes_on(
    client: AsyncAnthropic, ask: Ask
) -> None:
    with pytest.raises(anthropic.RequestTooLargeError):
        await client.messages.create(**ask("x" * (33 * 1024 * 1024)))
    assert (await client.messages.create(**ask())).stop_reason == "end_turn"


async def test_an_error_in_the_middle_of_a_stream_is_an_event(
    client: AsyncAnthropic, control: httpx2.AsyncClient, simulator: Simulator, ask: Ask
) -> None:
    turn = {"blocks": [{"type": "text", "tokens": 9}], "error": {"status": 529, "after_tokens": 3}}
    await add(control, turn)
    seen: list[str] = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with client.messages.stream(**ask()) as stream:
            async for text in stream.text_stream:
                seen += [text]
    assert "".join(seen) == "001 002 003 "
    assert caught.value.type == "overloaded_error"
    (record,) = simulator.state.records
    assert (record.ended, record.error) == ("error", "overloaded_error")


async def test_scripted_blocks_arrive_as_written(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask
) -> None:
    blocks = [
        {"type": "thinking", "text": "hm"},
        {"type": "text", "text": "I will look."},
        {"type": "tool_use", "name": "a", "id": "toolu_x", "input": {"n": 1}, "chunks": 2},
        {"type": "tool_use", "name": "b", "input": {}},
    ]
    await add(control, {"blocks": blocks, "usage": {"input_tokens": 11}})
    async with client.messages.stream(**ask()) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].to_dict()["id"] == "toolu_x"
    assert message.content[2].to_dict()["input"] == {"n": 1}
    assert message.content[3].to_dict()["input"] == {}
    assert message.usage.input_tokens == 11
    assert message.stop_reason == "tool_use"


async def test_concurrent_runs_of_one_script_do_not_disturb_one_another(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask
) -> None:
    call = {"type": "tool_use", "name": "calculator", "input": {"expression": "1 + 1"}}
    done = {"blocks": [{"type": "text", "text": "scripted end"}]}
    await add(control, {"blocks": [call]}, done, match={"contains": "run"})

    async def run(number: int) -> str:
        asked = ask(f"run {number}", tools=TOOLS)
        first = await client.messages.create(**asked)
        (use,) = first.content
        assert use.type == "tool_use"
        asked["messages"] += [
            {"role": "assistant", "content": [use.to_dict()]},
            {"role": "user", "content": [tool_result(use.id, "2")]},
        ]
        second = await client.messages.create(**asked)
        return str(second.content[0].to_dict()["text"])

    assert set(await asyncio.gather(*(run(n) for n in range(30)))) == {"scripted end"}
    other = await client.messages.create(**ask("hello"))
    assert "scripted" not in str(other.content[0].to_dict()["text"])


async def test_a_stream_that_is_cut_breaks_off_after_exactly_what_was_said(
    client: AsyncAnthropic, control: httpx2.AsyncClient, simulator: Simulator, ask: Ask
) -> None:
    blocks = [{"type": "text", "tokens": 9}]
    await add(control, {"attempts": [{"blocks": blocks, "cut": {"after_tokens": 4}}, {}]})
    seen: list[str] = []
    with pytest.raises((httpx2.TransportError, anthropic.APIConnectionError)):
        async with client.messages.stream(**ask()) as stream:
            async for text in stream.text_stream:
                seen += [text]
    assert "".join(seen) == "001 002 003 004 "
    (record,) = simulator.state.records
    assert record.ended == "cut"
    assert record.describe()["content"] == [{"type": "text", "text": "001 002 003 004 "}]
    assert (await client.messages.create(**ask())).content == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_can_be_cut_before_any_response(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask, stream: bool
) -> None:
    await add(control, {"cut": {}}, times=1)
    with pytest.raises(anthropic.APIConnectionError):
        await client.messages.create(**ask(stream=stream))
    assert (await client.messages.create(**ask())).stop_reason == "end_turn"


async def test_cutting_a_stream_of_http2_leaves_its_neighbours_alone(
    simulator: Simulator, control: httpx2.AsyncClient, ask: Ask
) -> None:
    slow = {"tokens_per_second": 100}
    text = {"type": "text", "tokens": 20}
    await add(control, {"blocks": [text], "latency": slow}, match={"contains": "whole"})
    cut = {"blocks": [text], "latency": slow, "cut": {"after_tokens": 5}}
    await add(control, cut, match={"contains": "cut"})

    async def run(client: AsyncAnthropic, text: str) -> str:
        pieces: list[str] = []
        try:
            async with client.messages.stream(**ask(text)) as stream:
                async for piece in stream.text_stream:
                    pieces += [piece]
        except (httpx2.TransportError, anthropic.APIConnectionError):
            return "cut"
        return "".join(pieces)

    async with sdk(simulator, "HTTP/2") as client:
        texts = ["whole 1", "cut 1", "whole 2", "cut 2"]
        ends = await asyncio.gather(*(run(client, text) for text in texts))
    assert [len(end.split()) for end in ends] == [20, 1, 20, 1]


async def test_cutting_the_connection_takes_all_its_streams(
    simulator: Simulator, control: httpx2.AsyncClient, ask: Ask
) -> None:
    await add(control, {"blocks": [{"type": "text", "text": "x", "delay": 60}]})
    cut = {"blocks": [{"type": "text", "text": "x"}], "cut": {"scope": "connection"}}
    async with sdk(simulator, "HTTP/2") as client:
        waiting = asyncio.create_task(client.messages.create(**ask("wait", stream=False)))
        await eventually(lambda: simulator.state.records.stats()["concurrency"] == 1)
        await add(control, cut, match={"contains": "cut"})
        with pytest.raises(anthropic.APIConnectionError):
            await client.messages.create(**ask("cut"))
        with pytest.raises(anthropic.APIConnectionError):
            await waiting
    records = simulator.state.records
    await eventually(lambda: records.stats()["ended"] == {"cut": 1, "client_closed": 1})


async def test_latency_is_set_globally_per_script_and_per_request(
    client: AsyncAnthropic, control: httpx2.AsyncClient, simulator: Simulator, ask: Ask
) -> None:
    set_to = (await control.post("/latency", json={"first_token": 0.01})).json()
    assert set_to["first_token"] == 0.01
    await client.messages.create(**ask())
    blocks = [{"type": "text", "tokens": 5}]
    await add(control, {"blocks": blocks}, latency={"first_token": 0.02, "tokens_per_second": 400})
    await client.messages.create(**ask())
    header = {"x-simulator-latency": "first_token=0.03"}
    await client.messages.create(**ask(), extra_headers=header)
    rows = [record.describe() for record in simulator.state.records]
    assert [row["modelled_first_token_seconds"] for row in rows] == [0.01, 0.02, 0.03]
    assert [row["modelled_decode_seconds"] for row in rows] == [0, *[pytest.approx(0.01)] * 2]
    assert all(row["late_seconds"] >= 0 for row in rows)
    with pytest.raises(anthropic.BadRequestError):
        await client.messages.create(**ask(), extra_headers={"x-simulator-latency": "x"})


async def test_removing_the_scripts_brings_the_small_talker_back(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask
) -> None:
    id = await add(control, {"blocks": [{"type": "text", "text": "scripted"}]})
    assert [s["id"] for s in (await control.get("/script")).json()["scripts"]] == [id]
    assert (await client.messages.create(**ask())).content[0].to_dict()["text"] == "scripted"
    assert (await control.delete(f"/script/{id}")).status_code == 200
    assert (await control.delete(f"/script/{id}")).status_code == 404
    assert (await client.messages.create(**ask())).content[0].to_dict()["text"] != "scripted"
    assert (await control.delete("/script")).status_code == 200
