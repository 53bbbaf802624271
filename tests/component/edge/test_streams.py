"""Streams of events: every position resumes exactly, whoever is slow harms nobody else."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import jsonl
from peregrine.edge import streaming
from peregrine.edge.server import EdgeServer
from peregrine.kit.errors import OutOfRange
from tests.component.cli.fakes import Neighbours
from tests.support import fake_orchestrator as script
from tests.support.edge import Sent, edge, parse
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import FakeOrchestrator, Gate

HELLO = {"agent": "assistant", "message": "hello"}
ANSWER = [
    script.started(),
    script.step(1),
    *(script.text(1, f"word {number} ünd “mehr”\n") for number in range(40)),
    script.tool_started("a", "calculator", '{"big": 12345678901234567890123, "a":\n 1}'),
    script.tool_finished("a", "calculator", "425"),
    script.text(1, "425."),
    script.finished("425."),
]


@asynccontextmanager
async def reading(http: httpx.AsyncClient, path: str) -> AsyncIterator["Reader"]:
    async with http.stream("GET", path) as response:
        assert response.status_code == 200
        yield Reader(response)


class Reader:
    """Reads a stream piece by piece."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.bytes = b""
        self._chunks = response.aiter_bytes()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in self.bytes:
                self.bytes += await anext(self._chunks)

    async def to_the_end(self) -> bytes:
        async with asyncio.timeout(10):
            async for chunk in self._chunks:
                self.bytes += chunk
        return self.bytes

    @property
    def events(self) -> list[Sent]:
        return parse(self.bytes)


async def start(http: httpx.AsyncClient) -> str:
    run_id: str = (await http.post("/v1/runs", json=HELLO)).json()["run_id"]
    return run_id


async def test_an_answer_streams_as_it_is_made(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    gate = Gate()
    fake.script = [script.started(), script.text(1, "Hel"), gate, script.finished("Hello")]
    async with http.stream("POST", "/v1/chat/stream", json=HELLO) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert "content-encoding" not in response.headers
        reader = Reader(response)
        await reader.until(b'"Hel"')
        assert b"run_finished" not in reader.bytes
        gate.set()
        await reader.to_the_end()
    assert [(each.id, each.event) for each in reader.events] == [
        ("1", "run_started"),
        ("2", "text_delta"),
        ("3", "run_finished"),
    ]


async def test_an_event_is_what_the_command_line_prints(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    fake.script = ANSWER
    stream = (await http.post("/v1/chat/stream", json=HELLO)).text
    lines = [line[6:] for line in stream.split("\n") if line.startswith("data: ")]
    assert lines == [jsonl.line(event) for event in fake.run.events]
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, len(ANSWER) + 1))


async def test_every_position_resumes_exactly_through_either_edge(
    http: httpx.AsyncClient, fake: FakeOrchestrator, memory: Neighbours
) -> None:
    fake.script = ANSWER
    run_id = await start(http)
    path = f"/v1/runs/{run_id}/events"
    async with (
        edge(orchestrator=fake.target, memory=memory.target) as other,
        httpx.AsyncClient(base_url=other.url, timeout=10) as elsewhere,
    ):
        whole = (await http.get(path)).content
        ends = [0, *(each.end for each in parse(whole))]
        assert len(ends) == len(ANSWER) + 1
        for position in random.Random(3).sample(range(len(ANSWER)), 20):
            way = {"headers": {"Last-Event-ID": str(position)}}
            if position % 2:
                way = {"params": {"after": str(position), "epoch": "1"}}
            for client in (http, elsewhere):
                assert (await client.get(path, **way)).content == whole[ends[position] :]  # type: ignore[arg-type]


async def test_a_cut_stream_goes_on_where_it_was_cut(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    gate = Gate()
    fake.script = [*ANSWER[:20], gate, *ANSWER[20:]]
    path = f"/v1/runs/{await start(http)}/events"
    async with reading(http, path) as reader:
        await reader.until(b"id: 20\n")
        seen = reader.events[-1]
    gate.set()
    rest = (await http.get(path, headers={"Last-Event-ID": str(seen.id)})).content
    whole = (await http.get(path)).content
    assert reader.bytes[: seen.end] + rest == whole


async def test_nothing_more_to_come_is_204(http: httpx.AsyncClient, fake: FakeOrchestrator) -> None:
    path = f"/v1/runs/{await start(http)}/events"
    await http.get(path)
    answer = await http.get(path, headers={"Last-Event-ID": "4"})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_reader_that_knows_its_epoch_is_told_what_is_void(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    fake.script = [script.started(), script.text(1, "lost"), script.text(1, "lost too"), Gate()]
    run_id = await start(http)
    async with reading(http, f"/v1/runs/{run_id}/events") as reader:
        await reader.until(b"id: 3\n")
    await fake.run.truncate(1, script.text(1, "again"), script.finished("again"))
    rest = await http.get(f"/v1/runs/{run_id}/events", params={"after": 3, "epoch": 1})
    assert [each.event for each in parse(rest.content)] == [
        "log_truncated",
        "text_delta",
        "run_finished",
    ]


async def test_a_lost_orchestrator_is_bridged(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    fake.script, fake.cuts = ANSWER, [7, 11]
    stream = (await http.post("/v1/chat/stream", json=HELLO)).content
    assert [each.id for each in parse(stream)] == [str(n + 1) for n in range(len(ANSWER))]


async def test_a_failure_in_the_middle_is_an_event_without_an_id(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    fake.script, fake.cuts = ANSWER, [5]
    body = HELLO | {"request_id": "x"}
    async with http.stream("POST", "/v1/chat/stream", json=body) as response:
        reader = Reader(response)
        await reader.until(b"id: 5\n")
        fake.refuse = OutOfRange("too old", reason="EVENTS_COMPACTED")
        await reader.to_the_end()
    last = reader.events[-1]
    assert (last.id, last.event, last.data["reason"]) == (None, "problem", "EVENTS_COMPACTED")


async def test_a_run_that_says_nothing_yet_begins_and_beats(
    http: httpx.AsyncClient, fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BEGIN_SECONDS", 0.02)
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.05)
    gate = Gate()
    fake.script = [gate, *ANSWER]
    async with reading(http, f"/v1/runs/{await start(http)}/events") as reader:
        await reader.until(b": heartbeat\n\n: heartbeat\n\n")
        gate.set()
        await reader.to_the_end()
    assert reader.bytes.replace(b": heartbeat\n\n", b"").startswith(b"id: 1\n")
    assert len(reader.events) == len(ANSWER)


async def test_who_leaves_holds_nothing_and_the_run_goes_on(
    http: httpx.AsyncClient, server: EdgeServer, fake: FakeOrchestrator
) -> None:
    gate = Gate()
    fake.script = [*ANSWER[:3], gate, *ANSWER[3:]]
    run_id = await start(http)
    async with reading(http, f"/v1/runs/{run_id}/events") as reader:
        await reader.until(b"id: 3\n")
        assert len(server.streams) == 1
    await eventually(lambda: len(server.streams) == 0)
    gate.set()
    whole = (await http.get(f"/v1/runs/{run_id}/events")).content
    assert len(parse(whole)) == len(ANSWER)


async def test_the_wish_to_end_with_the_reader_is_passed_on(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    body = HELLO | {"disconnect_policy": "DISCONNECT_POLICY_CANCEL"}
    await http.post("/v1/chat/stream", json=body)
    assert fake.run.input.disconnect_policy == pb.DISCONNECT_POLICY_CANCEL


async def test_one_reader_too_many_is_told_when_to_come_back(
    fake: FakeOrchestrator, memory: Neighbours
) -> None:
    fake.script = [script.started(), Gate()]
    limit = {"PEREGRINE_EDGE_MAX_STREAMS": "1"}
    async with (
        edge(orchestrator=fake.target, memory=memory.target, **limit) as one,
        httpx.AsyncClient(base_url=one.url, timeout=10) as http,
    ):
        path = f"/v1/runs/{await start(http)}/events"
        async with reading(http, path) as reader:
            await reader.until(b"id: 1\n")
            refused = await http.get(path)
            assert (refused.status_code, refused.json()["reason"]) == (429, "OVERLOADED")
            assert refused.headers["retry-after"] == "1"
        await eventually(lambda: len(one.streams) == 0)


async def test_a_drain_sends_readers_elsewhere_where_they_get_exactly_the_rest(
    fake: FakeOrchestrator, memory: Neighbours
) -> None:
    gate = Gate()
    fake.script = [*ANSWER[:10], gate, *ANSWER[10:]]
    async with (
        edge(orchestrator=fake.target, memory=memory.target) as going,
        edge(orchestrator=fake.target, memory=memory.target) as staying,
        httpx.AsyncClient(base_url=going.url, timeout=10) as http,
        httpx.AsyncClient(base_url=staying.url, timeout=10) as elsewhere,
    ):
        path = f"/v1/runs/{await start(http)}/events"
        async with reading(http, path) as reader:
            await reader.until(b"id: 10\n")
            stopping = asyncio.create_task(going.stop(60.0))
            seen = await reader.to_the_end()
        async with asyncio.timeout(40):
            await stopping
        assert seen.endswith(b"retry: 250\n\n")
        gate.set()
        last = reader.events[-1]
        rest = (await elsewhere.get(path, headers={"Last-Event-ID": str(last.id)})).content
        assert seen[: last.end] + rest == (await elsewhere.get(path)).content


async def test_a_stalled_reader_is_cut_resumes_and_holds_nobody_up(
    fake: FakeOrchestrator, memory: Neighbours
) -> None:
    fake.script = [
        script.started(),
        *(script.text(1, f"{number} " + "x" * 2000) for number in range(1500)),
        script.finished("done"),
    ]
    quick = {"PEREGRINE_EDGE_BLOCKED_SECONDS": "0.5"}
    async with (
        edge(orchestrator=fake.target, memory=memory.target, **quick) as one,
        httpx.AsyncClient(base_url=one.url, timeout=10) as http,
    ):
        path = f"/v1/runs/{await start(http)}/events"
        stalled = socket.create_connection(("127.0.0.1", one.port))
        with stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await eventually(lambda: len(one.streams) == 1)
            whole = (await http.get(path)).content
            assert len(parse(whole)) == 1502
            await eventually(lambda: len(one.streams) == 0, what="the stalled reader is cut")
            assert one.registry.get_sample_value("peregrine_edge_readers_cut_total") == 1
            seen = received(stalled)
        last = parse(seen)[-1]
        assert 1 <= int(last.id or 0) < 1502
        rest = await http.get(path, headers={"Last-Event-ID": str(last.id)})
        assert seen[: last.end] + rest.content == whole


def received(stalled: socket.socket) -> bytes:
    """What the reader finds when it reads at last: less than all, and an abrupt end."""
    seen = b""
    stalled.settimeout(5)
    try:
        while chunk := stalled.recv(65536):
            seen += chunk
    except ConnectionResetError:
        pass
    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    # Chunks of HTTP/1.1: a line with the size stands before each, an empty one after it.
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        whole += body[:length]
        body = body[length + 2 :]
    return whole
