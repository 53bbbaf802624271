"""PostgreSQL is away: new runs are refused with a delay, running ones go on and are not lost."""

import asyncio

import grpc
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.errors import from_rpc_error
from tests.fault.history import History, problems
from tests.support import stack
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]


async def test_a_run_streams_on_without_postgresql_and_ends_when_it_is_back(
    migrated_dsn: str, redis_url: str
) -> None:
    async with (
        fault_proxy(socket_path(migrated_dsn)) as proxy,
        stack.in_process(
            dsn=migrated_dsn,
            redis_url=redis_url,
            orchestrator_dsn=through(migrated_dsn, proxy.address),
        ) as running,
    ):
        running.simulator.state.scripts.add(
            {
                "match": {"contains": "stream"},
                "latency": {"tokens_per_second": 50},
                "turns": [{"blocks": [{"type": "text", "tokens": 100}]}],
            }
        )
        given = pb.RunInput(agent=stack.AGENT, message="stream on")
        call = running.first.runs.Chat(pb.ChatRequest(input=given), timeout=60)
        events: list[pb.RunEvent] = []
        while not stack.of(events, "text_delta"):
            events += (await call.read()).events
        proxy.cut()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.start("another")
        error = from_rpc_error(refused.value)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error.reason.startswith("POSTGRES_")
        assert error.retry_after is not None
        while "step_finished" not in stack.kinds(events):
            events += (await call.read()).events
        assert len(stack.text(events).split()) >= 100, "all of it was streamed meanwhile"
        proxy.resume()
        while not events[-1].HasField("run_finished"):
            events += (await call.read()).events
        assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
        run_id = stack.of(events, "run_started")[0].run_id
        history = History(
            readings={"its reader": events, "a late reader": await running.watch(run_id)},
            expected_text=events[-1].run_finished.text,
        )
        assert problems(history) == []
        again = await eventually(lambda: asyncio.wait_for(running.chat("hello"), 30))
        assert again[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
