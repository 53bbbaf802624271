"""A whole run with a tool of an MCP server that dies in the middle of a call."""

import os
import signal
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from tests.component.tools.conftest import call, text
from tests.component.tools.test_mcp import command, declared
from tests.support import stack
from tests.support.eventually import eventually

pytest.importorskip("mcp", reason="the extra tools is not installed")


def calls(*tools: tuple[str, dict[str, object]]) -> dict[str, object]:
    return {"blocks": [{"type": "tool_use", "name": name, "input": given} for name, given in tools]}


async def test_a_server_killed_in_a_call_is_a_failed_tool_event_and_the_next_call_works(
    migrated_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_url, identity=False) as running:
        address = running.environ["PEREGRINE_TOOLS_TARGET"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = tools_pb2_grpc.ToolServiceStub(channel)
            applied = tools_pb2.ApplyToolRequest(tool=declared(command(tmp_path)))
            await stub.ApplyTool(applied, timeout=20)
            # The agent names the server, and is offered what it has.
            await running.apply(stack.agent(tools=["srv", "calculator"]))
            request = tools_pb2.ExecuteToolRequest(call=call("srv_pid"))
            pid = int(text((await stub.ExecuteTool(request, timeout=30)).result))
            running.simulator.state.scripts.add(
                {
                    "match": {"contains": "work"},
                    "turns": [
                        calls(("srv_slow", {"seconds": 50})),
                        calls(("srv_shout", {"text": "again"})),
                        {"blocks": [{"type": "text", "text": "Done."}]},
                    ],
                }
            )
            chat = running.first.runs.Chat(
                pb.ChatRequest(input=pb.RunInput(agent=stack.AGENT, message="work")), timeout=60
            )
            events: list[pb.RunEvent] = []
            killed = False
            async for response in chat:
                events += response.events
                if not killed and stack.of(events, "tool_call_started"):
                    await eventually((tmp_path / "started").exists)
                    os.kill(pid, signal.SIGKILL)
                    killed = True
    stack.check_log(events)
    first, second = stack.of(events, "tool_call_finished")
    assert (first.tool, first.status) == ("srv_slow", pb.TOOL_CALL_STATUS_FAILED)
    assert "was lost" in first.content[0].text
    assert (second.tool, second.status) == ("srv_shout", pb.TOOL_CALL_STATUS_SUCCEEDED)
    assert second.content[0].text == "AGAIN"
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    assert not stack.of(events, "context_loaded")[0].degradations
