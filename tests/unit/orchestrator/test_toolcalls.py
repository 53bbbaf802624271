"""Calls of tools whose workers have no place: asked again, for as long as the run has time."""

import asyncio
import time
import uuid
from typing import Any, cast

from prometheus_client import CollectorRegistry

from peregrine.api.common.v1 import common_pb2 as common
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


class Workers:
    """Refuse the first `refusals` calls, each with this delay; then they have room."""

    def __init__(self, refusals: float, *, delay: float | None = 0.001) -> None:
        self.refusals = refusals
        self.delay = delay
        self.asked: list[tools.ToolCall] = []

    async def execute_tool(
        self, call: tools.ToolCall, registered: tools.RegisteredTool
    ) -> tools.ToolResult:
        self.asked.append(call)
        if len(self.asked) <= self.refusals:
            raise ResourceExhausted("no place", reason="TOOLS_OVERLOADED", retry_after=self.delay)
        return tools.ToolResult(call_id=call.call_id, status=tools.TOOL_STATUS_SUCCEEDED)


async def outcome(workers: Workers, *, seconds: float) -> pb.ToolCallFinished:
    """How one call of a run with so much time ends."""
    metrics = Metrics(CollectorRegistry())
    step = Step(1)
    call = common.ToolUse(call_id="one", tool="clock", arguments=common.Json(utf8=b"{}"))
    step.finished = pb.StepFinished(content=[common.ContentBlock(tool_use=call)])
    with context.bind(timeout=seconds):
        async with asyncio.TaskGroup() as group:
            ToolCalls(
                run_id=uuid.uuid4(),
                step=step,
                plan=plan.resolve("agent", pb.AgentSpec(model="m"), pb.RunInput()),
                offered={"clock": tools.RegisteredTool(tool=tools.Tool(effect=common.EFFECT_READ))},
                journal=cast(Journal, Pages()),
                upstream=cast(Upstream, workers),
                recorder=Recorder(time.monotonic()),
                metrics=metrics,
                group=group,
            ).step_complete()
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
