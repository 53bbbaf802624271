"""Cancel ends the run, the tool and the upstream request, wherever they are."""

import asyncio

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.stack import Stack

STALLED = {"type": "text", "tokens": 50}


async def cancel_once(running: Stack, message: str, seen: str, *, at: int = 0) -> list[pb.RunEvent]:
    """Starts a run, cancels it (through orchestrator `at`) when an event of a kind was seen."""
    run = await running.start(message)
    events: list[pb.RunEvent] = []
    call = running.first.runs.WatchRun(pb.WatchRunRequest(run_id=run.run_id), timeout=30)
    asked = False
    async for response in call:
        events += response.events
        if not asked and seen in stack.kinds(events):
            asked = True
            await running.orchestrators[at].runs.CancelRun(
                pb.CancelRunRequest(run_id=run.run_id), timeout=10
            )
    assert asked
    return events


@pytest.mark.parametrize("at", [0, 1], ids=["at its owner", "at another orchestrator"])
async def test_a_cancelled_run_ends_so_and_its_upstream_request_is_ended(
    pair: Stack, at: int
) -> None:
    pair.simulator.state.scripts.add(
        {
            "match": {"contains": "stall"},
            "turns": [{"blocks": [STALLED], "stalls": [{"after_tokens": 5, "seconds": 60}]}],
        }
    )
    events = await cancel_once(pair, "stall", "text_delta", at=at)
    stack.check_log(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_CANCELLED
    (record,) = pair.simulator.state.records
    await eventually(lambda: record.ended == "client_closed")


async def test_a_run_can_be_cancelled_before_the_models_first_token(pair: Stack) -> None:
    pair.simulator.state.scripts.add(
        {
            "match": {"contains": "silence"},
            "latency": {"first_token": 60},
            "turns": [{"blocks": [STALLED]}],
        }
    )
    events = await cancel_once(pair, "silence", "context_loaded")
    stack.check_log(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_CANCELLED
    for record in pair.simulator.state.records:
        await eventually(lambda record=record: record.ended == "client_closed")


async def test_a_run_can_be_cancelled_in_a_tool(pair: Stack) -> None:
    await pair.apply(stack.agent(tools=["sleep"]))
    pair.simulator.state.scripts.add(
        {
            "match": {"contains": "nap"},
            "turns": [
                {"blocks": [{"type": "tool_use", "name": "sleep", "input": {"seconds": 25}}]}
            ],
        }
    )
    events = await cancel_once(pair, "nap", "step_finished")
    stack.check_log(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_CANCELLED


async def test_a_finished_run_stays_as_it_is(peregrine: Stack) -> None:
    events = await peregrine.chat("Hello")
    run_id = stack.of(events, "run_started")[0].run_id
    response = await peregrine.first.runs.CancelRun(pb.CancelRunRequest(run_id=run_id), timeout=10)
    assert response.state == pb.RUN_STATE_SUCCEEDED
    assert await peregrine.watch(run_id) == events


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (pb.DISCONNECT_POLICY_CANCEL, pb.RUN_STATE_CANCELLED),
        (pb.DISCONNECT_POLICY_UNSPECIFIED, pb.RUN_STATE_SUCCEEDED),
    ],
)
async def test_a_lost_connection_follows_the_policy_of_the_run(
    peregrine: Stack, policy: "pb.DisconnectPolicy", state: "pb.RunState"
) -> None:
    peregrine.simulator.state.scripts.add(
        {
            "match": {"contains": "pause"},
            "turns": [{"blocks": [STALLED], "stalls": [{"after_tokens": 5, "seconds": 0.5}]}],
        }
    )
    given = pb.RunInput(agent=stack.AGENT, message="pause", disconnect_policy=policy)
    call = peregrine.first.runs.Chat(pb.ChatRequest(input=given), timeout=30)
    first = await call.read()
    call.cancel()
    run_id = first.events[0].run_started.run_id
    events = await asyncio.wait_for(peregrine.watch(run_id), 20)
    stack.check_log(events)
    assert events[-1].run_finished.state == state
