"""What the control port reports: requests, prompts, concurrency, how each request ended."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from peregrine.simulator.main import Simulator, SimulatorSettings
from tests.component.simulator import http2
from tests.component.simulator.conftest import FAST, MODEL, Ask, sdk
from tests.support.eventually import eventually
from tests.unit.simulator.requests import TOOLS


async def test_a_request_is_reported_with_its_prompt_and_times(
    client: AsyncAnthropic, control: httpx2.AsyncClient, protocol: str, ask: Ask
) -> None:
    asked = ask("What is 2 + 3?", tools=TOOLS, system="be brief")
    async with client.messages.stream(**asked) as stream:
        message = await stream.get_final_message()
    (row,) = (await control.get("/requests")).json()["requests"]
    assert (row["method"], row["path"], row["protocol"]) == ("POST", "/v1/messages", protocol)
    assert (row["model"], row["stream"], row["status"]) == (MODEL, True, 200)
    assert row["ended"] == "completed"
    assert row["started"] <= row["first_byte"] <= row["finished"]
    assert row["prompt"]["messages"] == asked["messages"]
    assert row["prompt"]["system"] == "be brief"
    assert [tool["name"] for tool in row["prompt"]["tools"]] == [tool["name"] for tool in TOOLS]
    assert row["content"][1]["input"] == {"expression": "2 + 3"}
    assert row["output_tokens"] == message.usage.output_tokens
    one = (await control.get(f"/requests/{row['id']}")).json()
    assert one == row


WAITING = {"first_token": 300}
DECODING = {"tokens_per_second": 0.001}


def slow(simulator: Simulator, latency: dict[str, float]) -> None:
    blocks = [{"type": "text", "tokens": 50}]
    simulator.state.scripts.add({"turns": [{"blocks": blocks, "latency": latency}]})


async def ended(simulator: Simulator, how: str, count: int = 1) -> None:
    records = simulator.state.records
    await eventually(lambda: records.stats()["ended"].get(how) == count)
    assert records.stats()["concurrency"] == 0


@pytest.mark.parametrize("latency", [WAITING, DECODING])
async def test_a_closed_connection_ends_its_request_at_once(
    simulator: Simulator,
    control: httpx2.AsyncClient,
    protocol: str,
    ask: Ask,
    latency: dict[str, float],
) -> None:
    slow(simulator, latency)
    async with sdk(simulator, protocol) as client:
        reading = asyncio.create_task(_text(client, ask()))
        (record,) = await eventually(lambda: list(simulator.state.records))
        await eventually(lambda: record.first_byte if latency is DECODING else record.model)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await ended(simulator, "client_closed")
    (row,) = (await control.get("/requests?ended=client_closed")).json()["requests"]
    assert row["started"] < row["finished"]
    assert row["modelled_seconds"] > row["finished"] - row["started"]


@pytest.mark.parametrize("latency", [WAITING, DECODING])
async def test_a_reset_stream_ends_its_request_at_once(
    simulator: Simulator, ask: Ask, latency: dict[str, float]
) -> None:
    slow(simulator, latency)
    async with http2.connected(simulator.base_url) as connection:
        stream = connection.post(ask(stream=True))
        (record,) = await eventually(lambda: list(simulator.state.records))
        if latency is DECODING:
            await eventually(lambda: b"text_delta" in connection.data[stream])
        else:
            await eventually(lambda: record.model)
        connection.reset(stream)
        await ended(simulator, "client_closed")
        simulator.state.scripts.clear()
        stream = connection.post(ask())
        await eventually(lambda: stream in connection.ended)


async def test_a_request_reset_while_its_body_is_sent_is_recorded(
    simulator: Simulator, ask: Ask
) -> None:
    async with http2.connected(simulator.base_url) as connection:
        stream = connection.post(ask(), end=False)
        await eventually(lambda: list(simulator.state.records))
        connection.reset(stream)
        await ended(simulator, "client_closed")


async def test_one_http2_connection_survives_more_resets_than_it_may_have_streams(
    simulator: Simulator, ask: Ask
) -> None:
    slow(simulator, DECODING)
    records = simulator.state.records
    async with http2.connected(simulator.base_url) as connection:
        for done in range(100, 1201, 100):
            streams = [connection.post(ask(stream=True)) for _ in range(100)]
            await eventually(lambda streams=streams: all(connection.data[id] for id in streams))
            for stream in streams:
                connection.reset(stream)
            await ended(simulator, "client_closed", done)
        simulator.state.scripts.clear()
        stream = connection.post(ask())
        await eventually(lambda: stream in connection.ended)
        assert records.stats()["max_concurrency"] == 100


async def test_concurrency_is_counted_now_and_at_most(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask
) -> None:
    turn = {"blocks": [{"type": "text", "text": "x", "delay": 0.3}]}
    await control.post("/script", json={"turns": [turn]})
    tasks = [asyncio.create_task(client.messages.create(**ask())) for _ in range(7)]

    async def seven() -> bool:
        return bool((await control.get("/stats")).json()["concurrency"] == 7)

    await eventually(seven)
    await asyncio.gather(*tasks)
    stats = (await control.get("/stats")).json()
    assert (stats["requests"], stats["concurrency"], stats["max_concurrency"]) == (7, 0, 7)
    assert stats["ended"] == {"completed": 7}
    assert (await control.delete("/requests")).status_code == 200
    assert (await control.get("/requests")).json() == {"total": 0, "requests": []}
    assert (await control.get("/stats")).json()["requests"] == 0


async def test_requests_can_be_filtered(
    client: AsyncAnthropic, control: httpx2.AsyncClient, ask: Ask
) -> None:
    for text in ("apple", "pear", "apple pie"):
        await client.messages.create(**ask(text))

    async def ids(query: str) -> list[int]:
        answer = (await control.get(f"/requests?{query}")).json()
        return [row["id"] for row in answer["requests"]]

    assert await ids("contains=apple") == [1, 3]
    assert await ids("after=1") == [2, 3]
    assert await ids("limit=1") == [3]
    assert await ids("ended=error") == []
    rows = (await control.get("/requests?prompts=0")).json()["requests"]
    assert all("prompt" not in row for row in rows)
    assert (await control.get("/requests?limit=x")).status_code == 400
    assert (await control.get("/requests/999")).status_code == 404
    assert (await control.get("/nothing")).status_code == 404
    assert (await control.post("/script", content=b"{")).status_code == 400
    assert (await control.get("/health")).json() == {"status": "serving"}


async def test_records_are_bounded(ask: Ask) -> None:
    async with (
        Simulator.running(SimulatorSettings(**FAST, max_records=5)) as simulator,
        sdk(simulator, "HTTP/1.1") as client,
    ):
        for _ in range(8):
            await client.messages.create(**ask())
        assert [record.id for record in simulator.state.records] == [4, 5, 6, 7, 8]
        assert simulator.state.records.stats()["requests"] == 8


async def test_stopping_breaks_off_what_runs_and_waits_for_nothing(protocol: str, ask: Ask) -> None:
    async with AsyncExitStack() as clients:
        async with Simulator.running(SimulatorSettings(**FAST)) as simulator:
            slow(simulator, DECODING)
            client = await clients.enter_async_context(sdk(simulator, protocol))
            reading = asyncio.create_task(_text(client, ask()))
            (record,) = await eventually(lambda: list(simulator.state.records))
            await eventually(lambda: record.first_byte)
        assert record.ended is not None
        with pytest.raises((httpx2.TransportError, anthropic.APIConnectionError)):
            await reading


async def test_ids_repeat_with_the_seed_and_differ_without(ask: Ask) -> None:
    ids = []
    for seed in (1, 1, None, None):
        settings = SimulatorSettings(**{**FAST, "seed": seed})
        async with Simulator.running(settings) as simulator, sdk(simulator, "HTTP/1.1") as client:
            ids.append((await client.messages.create(**ask())).id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_two_hundred_streams_at_once_all_arrive_whole(simulator: Simulator, ask: Ask) -> None:
    simulator.state.scripts.add(
        {
            "turns": [{"blocks": [{"type": "text", "tokens": 50}]}],
            "latency": {"first_token": 0.1, "tokens_per_second": 200},
        }
    )
    async with sdk(simulator, "HTTP/2") as client:
        answers = await asyncio.gather(*(_text(client, ask(f"{n}")) for n in range(200)))
    assert len(answers) == 200
    assert set(answers) == {"".join(f"{n:03d} " for n in range(1, 51))}
    assert simulator.state.records.stats()["ended"] == {"completed": 200}


async def _text(client: AsyncAnthropic, asked: dict[str, Any]) -> str:
    stream = await client.messages.create(**asked, stream=True)
    return "".join(
        [
            event.delta.text
            async for event in stream
            if event.type == "content_block_delta" and event.delta.type == "text_delta"
        ]
    )
