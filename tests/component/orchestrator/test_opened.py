"""Calls that are on their way before what they say is known: which, and that none is left open."""

import asyncio
from typing import Any

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.stack import Stack

WORDS: dict[str, Any] = {"type": "text", "text": "one two three"}
SUM: dict[str, Any] = {
    "type": "tool_use",
    "name": "calculator",
    "input": {"expression": "25 * 17"},
    "chunks": 4,
}


def open_calls() -> int:
    """How many calls of this process wait for their requests: the stack runs in it."""
    return sum(
        "_consume_request_iterator" in getattr(task.get_coro(), "__qualname__", "")
        for task in asyncio.all_tasks()
    )


def plays(peregrine: Stack, message: str, turn: dict[str, Any]) -> None:
    peregrine.simulator.state.scripts.add({"match": {"contains": message}, "turns": [turn]})


async def test_the_calls_that_follow_are_open_while_the_model_writes(peregrine: Stack) -> None:
    # It comes to a stop within the arguments of the call.
    plays(
        peregrine,
        "sum",
        {"blocks": [WORDS, SUM], "stalls": [{"after_tokens": 5, "seconds": 1}]},
    )
    assert open_calls() == 0
    chatting = asyncio.create_task(peregrine.chat("sum"))
    # The turn will be remembered, and the tool called.
    await eventually(lambda: open_calls() == 2, interval=0.002)
    events = await chatting
    stack.check_log(events)
    assert stack.of(events, "tool_call_finished")[0].content[0].text == "425"
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    # Long before they would be given up by themselves.
    await eventually(lambda: open_calls() == 0, timeout=3)


async def test_the_model_is_called_again_over_a_call_that_opened_while_a_tool_ran(
    peregrine: Stack,
) -> None:
    await peregrine.apply(stack.agent(tools=["sleep"]))
    nap = {"type": "tool_use", "name": "sleep", "input": {"seconds": 1}}
    plays(peregrine, "nap", {"blocks": [WORDS, nap]})
    chatting = asyncio.create_task(peregrine.chat("nap"))
    await eventually(lambda: open_calls() == 2, interval=0.002)
    events = await chatting
    stack.check_log(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    await eventually(lambda: open_calls() == 0, timeout=3)


async def test_a_run_that_is_cancelled_leaves_no_call_open(peregrine: Stack) -> None:
    plays(
        peregrine,
        "break",
        {"blocks": [WORDS, SUM], "stalls": [{"after_tokens": 5, "seconds": 25}]},
    )
    run = await peregrine.start("break")
    await eventually(lambda: open_calls() == 2, interval=0.002)
    await peregrine.first.runs.CancelRun(pb.CancelRunRequest(run_id=run.run_id), timeout=10)
    await eventually(lambda: open_calls() == 0, timeout=3)


async def test_an_answer_that_breaks_off_within_a_call_leaves_no_call_open(
    peregrine: Stack,
) -> None:
    plays(peregrine, "snap", {"blocks": [SUM], "cut": {"after_tokens": 2}})
    events = await peregrine.chat("snap")
    stack.check_log(events)
    assert not stack.of(events, "tool_call_started")
    assert events[-1].run_finished.state == pb.RUN_STATE_FAILED
    await eventually(lambda: open_calls() == 0, timeout=3)
