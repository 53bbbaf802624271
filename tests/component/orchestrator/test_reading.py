"""Any reader, from any position, on any orchestrator, gets exactly the rest."""

import asyncio

import grpc
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.errors import from_rpc_error
from tests.support import stack
from tests.support.stack import Stack


def bytes_of(events: list[pb.RunEvent]) -> list[bytes]:
    return [event.SerializeToString() for event in events]


async def test_a_finished_run_reads_the_same_from_every_position_everywhere(pair: Stack) -> None:
    run = await pair.start("What is 25 * 17?")
    whole = await pair.watch(run.run_id)
    stack.check_log(whole)
    for at in (0, 1):
        for after in range(len(whole) + 1):
            rest = await pair.watch(run.run_id, at=at, after=after)
            assert bytes_of(rest) == bytes_of(whole[after:])


async def test_readers_that_join_while_it_runs_get_the_same_log(pair: Stack) -> None:
    pair.simulator.state.scripts.add(
        {
            "match": {"contains": "long"},
            "latency": {"tokens_per_second": 200},
            "turns": [{"blocks": [{"type": "text", "tokens": 100}]}],
        }
    )
    run = await pair.start("a long one")
    first = asyncio.create_task(pair.watch(run.run_id))
    joined: list[tuple[int, asyncio.Task[list[pb.RunEvent]]]] = []
    seen = 0
    call = pair.orchestrators[1].runs.WatchRun(pb.WatchRunRequest(run_id=run.run_id), timeout=30)
    async for response in call:
        seen = response.events[-1].sequence
        at = len(joined) % 2
        if len(joined) < 40:
            task = asyncio.create_task(pair.watch(run.run_id, at=at, after=seen // 2))
            joined.append((seen // 2, task))
    whole = await first
    stack.check_log(whole)
    assert seen == len(whole)
    assert len(joined) > 10
    for after, task in joined:
        assert bytes_of(await task) == bytes_of(whole[after:])


async def test_two_hundred_chats_at_once_all_complete_with_nothing_lost(pair: Stack) -> None:
    async def chat(number: int) -> None:
        events = await pair.chat(f"What is {number} * 17?", at=number % 2, timeout=100)
        stack.check_log(events)
        assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
        assert f"{number * 17}" in stack.text(events).replace(",", "")

    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(chat(number))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.WatchRunRequest(run_id="17"), "REQUEST_INVALID"),
        (pb.WatchRunRequest(run_id="00000000-0000-4000-8000-000000000000"), "RUN_NOT_FOUND"),
        (
            pb.WatchRunRequest(run_id="00000000-0000-4000-8000-000000000000", after_sequence=-1),
            "REQUEST_INVALID",
        ),
    ],
)
async def test_what_cannot_be_read_is_refused_with_a_reason(
    peregrine: Stack, request_: pb.WatchRunRequest, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peregrine.first.runs.WatchRun(request_, timeout=10).read()
    assert from_rpc_error(refused.value).reason == reason
