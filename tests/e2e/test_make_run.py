"""`make run`, as a user meets it: it comes up whole, answers, and leaves nothing behind."""

import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from peregrine.local.processes import Child, Children
from tests.support.local import LocalPeregrine, local_peregrine, said

QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"
SERVICES = {"edge", "memory", "cache", "tools", "llm-gateway", "orchestrator", "simulator"}


@pytest.fixture
async def peregrine(tmp_path: Path) -> AsyncIterator[LocalPeregrine]:
    async with Children(grace=20.0) as children:
        local = local_peregrine(children, tmp_path)
        yield local
    await local.nothing_left()


@pytest.mark.timeout(300)  # it starts everything twice
async def test_it_comes_up_with_one_command_answers_remembers_and_stops_cleanly(
    peregrine: LocalPeregrine,
) -> None:
    local = peregrine.start()
    output = await peregrine.ready(local)
    assert "SIMULATED MODEL" in output
    assert "peregrine chat" in output
    [page] = re.findall(r"http://127\.0\.0\.1:\d+/", output)
    async with httpx.AsyncClient(timeout=5) as http:
        assert (await http.get(page)).status_code == 200
    assert peregrine.target in output
    assert "examples could be applied" not in output
    assert peregrine.processes().keys() >= SERVICES

    chat = await peregrine.cli("chat", "--json", QUESTION)
    events = [json.loads(line) for line in chat.splitlines()]
    assert "425" in chat
    assert len({json.dumps(each) for each in events if "tool_call_finished" in str(each)}) >= 3
    assert "425" in await ask_over_grpc(peregrine.target, QUESTION)

    # A declared HTTP tool, answered by the stand-in, by itself and asked for by the agent.
    assert "simulated" in await peregrine.cli("tools", "call", "get_weather", '{"city": "Oslo"}')
    assert "The weather in Oslo: " in await peregrine.cli("chat", "How is the weather in Oslo?")

    second = peregrine.start()
    assert await second.wait(30) == 1
    assert f"another Peregrine (process {local.pid})" in only_line(second)

    local.send(signal.SIGTERM)
    assert await local.wait(20) == 0
    await peregrine.nothing_left()

    # What it knew is there at the next start. A service that dies then is told by name.
    local = peregrine.start()
    await peregrine.ready(local)
    conversations = await peregrine.cli("conversations", "list")
    assert len(conversations.strip().splitlines()) >= 2
    peregrine.processes()["memory"].kill()
    assert await local.wait(20) == 1
    last = said(local).strip().splitlines()[-1]
    assert last.startswith("Peregrine stopped: memory was ended by SIGKILL")
    assert str(peregrine.state / "logs" / "memory.log") in last
    await peregrine.nothing_left()


@pytest.mark.timeout(300)
async def test_a_killed_supervisor_leaves_nothing_running_and_the_next_start_works(
    peregrine: LocalPeregrine,
) -> None:
    local = peregrine.start()
    await peregrine.ready(local)
    await local.kill()
    again = peregrine.start()  # at once, while its children are still being ended
    await peregrine.ready(again)
    assert peregrine.processes().keys() >= SERVICES

    again.send(signal.SIGINT)
    again.send(signal.SIGINT)
    await again.wait(15)
    await peregrine.nothing_left()


async def test_a_port_in_use_is_said_in_one_line_with_the_variable_that_moves_it(
    peregrine: LocalPeregrine,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        local = peregrine.start(PEREGRINE_LOCAL_TOOLS_PORT=str(port))
        assert await local.wait(30) == 1
    line = only_line(local)
    assert f"port {port} (tools) cannot be had" in line
    assert "PEREGRINE_LOCAL_TOOLS_PORT" in line
    await peregrine.nothing_left()


async def test_a_service_that_refuses_its_settings_stops_the_start_with_its_own_words(
    peregrine: LocalPeregrine,
) -> None:
    local = peregrine.start(PEREGRINE_TOOLS_CONCURRENCY="many")
    assert await local.wait(60) == 1
    last = said(local).strip().splitlines()[-1]
    assert last.startswith("Peregrine stopped: tools ended with exit code 2")
    assert "PEREGRINE_TOOLS_CONCURRENCY" in last
    await peregrine.nothing_left()


async def test_a_state_directory_that_cannot_be_written_is_said_in_one_line(
    peregrine: LocalPeregrine, tmp_path: Path
) -> None:
    if os.geteuid() == 0:  # nothing is forbidden to root, but nobody makes directories in a file
        place = tmp_path / "file"
        place.touch()
    else:
        place = tmp_path / "closed"
        place.mkdir(mode=0o500)
    local = peregrine.start(PEREGRINE_STATE_DIR=str(place / "state"))
    assert await local.wait(30) == 1
    line = only_line(local)
    assert f"the state directory {place / 'state'} cannot be written" in line
    assert "PEREGRINE_STATE_DIR" in line


async def test_a_malformed_setting_ends_the_start_before_anything_runs(
    peregrine: LocalPeregrine,
) -> None:
    local = peregrine.start(PEREGRINE_LOCAL_MEMORY_PORT="fifty")
    assert await local.wait(30) == 2
    assert only_line(local).startswith("PEREGRINE_LOCAL_MEMORY_PORT: 'fifty' is not a whole number")
    assert not peregrine.state.exists()


async def ask_over_grpc(target: str, question: str) -> str:
    async with grpc.aio.insecure_channel(target) as channel:
        orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        run = orchestrator_pb2.RunInput(agent="assistant", message=question)
        call = orchestrator.Chat(orchestrator_pb2.ChatRequest(input=run), timeout=60)
        return "".join([e.text_delta.text async for answer in call for e in answer.events])


def only_line(child: Child) -> str:
    [line] = said(child).strip().splitlines()
    return line
