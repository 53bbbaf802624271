"""Lists and single things: agents, runs, conversations, tools, the profile; and the help."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import PeregrineClient
from tests.component.cli.fakes import Neighbours, neighbours
from tests.component.cli.program import Program
from tests.support.fake_orchestrator import CONVERSATION, FakeOrchestrator, Gate, started


@pytest.fixture
async def others() -> AsyncIterator[Neighbours]:
    async with neighbours() as others:
        yield others


@pytest.fixture
def elsewhere(others: Neighbours) -> Program:
    return Program(
        {"PEREGRINE_MEMORY_TARGET": others.target, "PEREGRINE_TOOLS_TARGET": others.target}
    )


async def test_agents(peregrine: Program, fake: FakeOrchestrator) -> None:
    assert "no agents" in (await peregrine("agents", "list")).out
    async with PeregrineClient(fake.target) as client:
        spec = pb.AgentSpec(model="m", tools=["a", "b"], system_prompt="Be\nbrief.")
        await client.apply_agent(pb.Agent(name="one", spec=spec))
    listed = (await peregrine("agents", "list")).out.splitlines()
    assert listed[0].split() == ["NAME", "MODEL", "VERSION", "AGE", "TOOLS"]
    assert listed[1].split()[:3] == ["one", "m", "1"]
    assert (await peregrine("agents", "list", "--json")).lines[0]["spec"]["tools"] == ["a", "b"]
    shown = (await peregrine("agents", "get", "one")).out
    assert shown.startswith("agent one\n  spec\n    model          m\n")
    assert (await peregrine("agents", "get", "one", "--json")).lines[0]["version"] == 1
    assert (await peregrine("agents", "delete", "one")).out == "agent/one deleted\n"
    assert (await peregrine("agents", "delete", "one")).out == "agent/one was not there\n"
    gone = await peregrine("agents", "get", "one")
    assert (gone.code, gone.err) == (1, "error: there is no agent 'one' (AGENT_NOT_FOUND)\n")


async def test_runs(peregrine: Program, fake: FakeOrchestrator) -> None:
    assert "no runs" in (await peregrine("runs", "list")).out
    async with PeregrineClient(fake.target) as client:
        await client.start_run("assistant", "hello")
        fake.script = [started(), Gate()]
        waiting = await client.start_run("support", "hello")
    listed = (await peregrine("runs", "list", "--agent", "support")).out.splitlines()
    assert listed[0].split()[:3] == ["RUN", "AGENT", "STATE"]
    assert [line.split()[:3] for line in listed[1:]] == [[waiting.run_id, "support", "running"]]
    runs = (await peregrine("runs", "list", "--json")).lines
    assert [run["state"] for run in runs] == ["RUN_STATE_RUNNING", "RUN_STATE_SUCCEEDED"]
    cancelled = await peregrine("runs", "cancel", waiting.run_id)
    assert cancelled.out == f"run/{waiting.run_id} is being cancelled\n"
    ended = await peregrine("runs", "cancel", runs[1]["run_id"])
    assert ended.out == f"run/{runs[1]['run_id']} had already succeeded\n"
    shown = await peregrine("runs", "get", runs[1]["run_id"])
    assert "RUN_STATE_SUCCEEDED" in shown.out


async def test_conversations(elsewhere: Program) -> None:
    listed = (await elsewhere("conversations", "list")).out.splitlines()
    assert listed[1].split() == [CONVERSATION, "assistant", "3", "-", *"What is 25 * 17?".split()]
    shown = (await elsewhere("conversations", "get", CONVERSATION)).out
    assert shown.splitlines()[1:] == [
        "you What is 25 * 17?",
        "  ▸ calculator 25 * 17",
        "agent 425",
    ]
    (whole,) = (await elsewhere("conversations", "get", CONVERSATION, "--json")).lines
    assert [message["position"] for message in whole["messages"]] == [1, 2, 3]
    deleted = await elsewhere("conversations", "delete", CONVERSATION)
    assert deleted.out == f"conversation/{CONVERSATION} deleted\n"
    assert (await elsewhere("conversations", "get", CONVERSATION)).code == 1


async def test_tools(elsewhere: Program) -> None:
    listed = (await elsewhere("tools", "list")).out.splitlines()
    assert listed[1].split()[:4] == ["calculator", "PURE", "builtin", "ready"]
    assert listed[1].endswith("Works out arithmetic.")
    called = await elsewhere("tools", "call", "calculator", '{"expression": "25 * 17"}')
    assert (called.code, called.out, called.err) == (0, "425\n", "calculator took 0.42 ms\n")
    unknown = await elsewhere("tools", "call", "nothing")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err == "error: nothing: there is no such tool (TOOL_NOT_FOUND)\n"
    for text in ("nonsense", "[1]"):
        assert (await elsewhere("tools", "call", "calculator", text)).code == 2


async def test_the_profile(elsewhere: Program) -> None:
    assert (await elsewhere("profile", "get")).out == "{}\n"
    put = await elsewhere("profile", "put", "-", stdin='{"name": "Ann"}')
    assert put.out == '{\n  "name": "Ann"\n}\n'
    assert (await elsewhere("profile", "get", "--json")).lines == [
        {"data": {"name": "Ann"}, "version": 1}
    ]


@pytest.mark.parametrize(
    "arguments",
    [(), ("chat",), ("apply",), ("agents",), ("runs", "list"), ("tools", "call"), ("watch",)],
)
async def test_everything_has_help(arguments: tuple[str, ...]) -> None:
    ended = await Program()(*arguments, "--help")
    assert ended.code == 0
    assert "Usage: peregrine" in ended.out


async def test_help_reads_neither_grpc_nor_the_protos() -> None:
    code = (
        "import sys; from peregrine.cli.commands import build; build();"
        "print([name for name in sys.modules if name.split('.')[0] in ('grpc', 'google', 'yaml')])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        env=Program().environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out == b"[]\n"
