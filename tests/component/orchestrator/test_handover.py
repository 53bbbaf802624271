"""A draining orchestrator hands its runs over; a reader goes on elsewhere."""

import grpc
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.errors import from_rpc_error
from tests.support import stack
from tests.support.stack import Stack


async def test_a_drain_hands_runs_over_and_sends_readers_elsewhere(pair: Stack) -> None:
    pair.simulator.state.scripts.add(
        {
            "match": {"contains": "long"},
            "latency": {"tokens_per_second": 100},
            "turns": [{"blocks": [{"type": "text", "tokens": 150}]}],
        }
    )
    given = pb.RunInput(agent=stack.AGENT, message="a long one")
    call = pair.first.runs.Chat(pb.ChatRequest(input=given), timeout=60)
    events: list[pb.RunEvent] = []
    while "text_delta" not in stack.kinds(events):
        events += (await call.read()).events
    assert pair.first.server is not None
    await pair.first.server.stop(10.0)
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        while True:
            response = await call.read()
            assert response is not grpc.aio.EOF, "the run cannot have ended yet"
            events += response.events
    assert from_rpc_error(cut.value).code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    )
    run_id = stack.of(events, "run_started")[0].run_id
    events += await pair.watch(run_id, at=1, after=events[-1].sequence)
    stack.check_log(events)
    (taken,) = stack.of(events, "run_taken_over")
    assert taken.reason == pb.TAKEOVER_REASON_HANDED_OVER
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    assert stack.text(events) == events[-1].run_finished.text
    waterfall = events[-1].run_finished.waterfall
    assert waterfall.critical_path_ms == pytest.approx(waterfall.wall_ms, rel=0.02, abs=2)


async def test_a_draining_orchestrator_takes_nothing_new(pair: Stack) -> None:
    assert pair.first.server is not None
    await pair.first.server.stop(1.0)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pair.start("hello")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await pair.chat("hello", at=1))[-1].HasField("run_finished")
