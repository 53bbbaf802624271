"""Calls of tools: asked again while workers have no place, open while their arguments come."""

import asyncio
import time
import uuid
from typing import Any, cast

from prometheus_client import CollectorRegistry

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.kit import context
from peregrine.kit.errors import ResourceExhausted
from peregrine.orchestrator import plan
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.replay import Step
from peregrine.orchestrator.toolcalls import ToolCalls
from peregrine.orchestrator.upstream import Upstream
from peregrine.orchestrator.waterfall import Recorder


class Pages:
    """Takes events and keeps none."""

    def emit(self, **payload: Any) -> int:
        return 1


class OpenCall:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Workers:
    """Refuse the first `refusals` calls, each with this delay; then they have room."""

    def __init__(self, refusals: float, *, delay: float | None = 0.001) -> None:
        self.refusals = refusals
        self.delay = delay
        self.asked: list[tools.ToolCall] = []
        self.opened: list[OpenCall] = []
        self.asked_over: list[object] = []

    def open_tool(self, registered: tools.RegisteredTool) -> OpenCall:
        self.opened.append(OpenCall())
        return self.opened[-1]

    async def execute_tool(
        self, call: tools.ToolCall, registered: tools.RegisteredTool, *, over: object = None
    ) -> tools.ToolResult:
        self.asked.append(call)
        self.asked_over.append(over)
        if len(self.asked) <= self.refusals:
            raise ResourceExhausted("no place", reason="TOOLS_OVERLOADED", retry_after=self.delay)
        return tools.ToolResult(call_id=call.call_id, status=tools.TOOL_STATUS_SUCCEEDED)


OFFERED = {
    "clock": tools.RegisteredTool(tool=tools.Tool(effect=common.EFFECT_READ)),
    "payment": tools.RegisteredTool(tool=tools.Tool(effect=common.EFFECT_WRITE)),
}


def use(call_id: str, tool: str = "clock") -> common.ToolUse:
    return common.ToolUse(call_id=call_id, tool=tool, arguments=common.Json(utf8=b"{}"))


def begun(call_id: str, tool: str = "clock") -> llm.ToolUseStarted:
    return llm.ToolUseStarted(call_id=call_id, tool=tool)


def tool_calls(
    workers: Workers, step: Step, group: asyncio.TaskGroup, *, eager: bool = True
) -> ToolCalls:
    spec = pb.AgentSpec(model="m")
    if not eager:
        spec.optimizations.eager_tools = False
    return ToolCalls(
        run_id=uuid.uuid4(),
        step=step,
        plan=plan.resolve("agent", spec, pb.RunInput()),
        offered=OFFERED,
        journal=cast(Journal, Pages()),
        upstream=cast(Upstream, workers),
        recorder=Recorder(time.monotonic()),
        metrics=Metrics(CollectorRegistry()),
        group=group,
    )


async def outcome(workers: Workers, *, seconds: float) -> pb.ToolCallFinished:
    """How one call of a run with so much time ends."""
    step = Step(1)
    step.finished = pb.StepFinished(content=[common.ContentBlock(tool_use=use("one"))])
    with context.bind(timeout=seconds):
        async with asyncio.TaskGroup() as group:
            tool_calls(workers, step, group).step_complete()
    return step.results["one"]


async def test_a_call_waits_for_a_place_as_long_as_its_run_has_time() -> None:
    workers = Workers(refusals=41)
    result = await outcome(workers, seconds=60.0)
    assert result.status == pb.TOOL_CALL_STATUS_SUCCEEDED
    assert len(workers.asked) == 42
    assert len({call.idempotency_key for call in workers.asked}) == 1


async def test_a_call_that_finds_no_place_in_the_time_of_its_run_fails_and_says_so() -> None:
    workers = Workers(refusals=float("inf"), delay=3600.0)
    result = await outcome(workers, seconds=0.5)
    assert result.status == pb.TOOL_CALL_STATUS_FAILED
    assert result.error.reason == "TOOLS_OVERLOADED"
    # Another worker might have had room.
    assert len(workers.asked) == 2


async def test_who_is_told_no_delay_does_not_ask_again() -> None:
    workers = Workers(refusals=float("inf"), delay=None)
    assert (await outcome(workers, seconds=60.0)).error.reason == "TOOLS_OVERLOADED"
    assert len(workers.asked) == 1


async def test_a_call_is_open_while_the_model_writes_its_arguments() -> None:
    workers, step = Workers(refusals=1, delay=0.001), Step(1)
    async with asyncio.TaskGroup() as group:
        calls = tool_calls(workers, step, group)
        calls.block_begun(begun("one"))
        calls.block_begun(begun("one"))
        (opened,) = workers.opened
        assert not workers.asked
        calls.block_complete(use("one"))
    # The worker had no place, so another is asked, by a call of its own.
    assert workers.asked_over == [opened, None]
    calls.close()
    assert not opened.cancelled
    assert step.results["one"].status == pb.TOOL_CALL_STATUS_SUCCEEDED


async def test_a_call_that_the_model_did_not_end_is_ended() -> None:
    workers = Workers(refusals=0)
    async with asyncio.TaskGroup() as group:
        calls = tool_calls(workers, Step(1), group)
        calls.block_begun(begun("one"))
        calls.close()
    assert [each.cancelled for each in workers.opened] == [True]
    assert not workers.asked


async def test_only_what_starts_at_once_is_opened_and_no_more_than_can_run() -> None:
    workers = Workers(refusals=0)
    async with asyncio.TaskGroup() as group:
        calls = tool_calls(workers, Step(1), group)
        calls.block_begun(begun("pay", "payment"))
        calls.block_begun(begun("what", "unknown"))
        tool_calls(workers, Step(1), group, eager=False).block_begun(begun("late"))
        assert not workers.opened
        for number in range(20):
            calls.block_begun(begun(str(number)))
        calls.close()
    assert len(workers.opened) == 16
