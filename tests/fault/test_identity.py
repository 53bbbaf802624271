"""With identity on: a run whose owner dies goes on as its own user's, to whoever takes it over.

The rest of the fault tests run so, too, with PEREGRINE_TEST_IDENTITY=on.
"""

import signal
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.memory.v1 import memory_pb2, memory_pb2_grpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.kit.context import Identity
from peregrine.kit.errors import NotFound, from_rpc_error
from peregrine.local.processes import Children
from tests.fault.history import History, problems
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.identity import signed

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]

SUM = {"type": "tool_use", "name": "calculator", "input": {"expression": "2+2"}}
SCRIPT = {
    "match": {"contains": "survive"},
    "latency": {"tokens_per_second": 40},
    "turns": [
        {"blocks": [{"type": "text", "tokens": 60}, SUM]},
        {"blocks": [{"type": "text", "tokens": 40}]},
    ],
}
ADA, EVE = Identity("acme", "ada"), Identity("umbrella", "ada")


async def test_a_run_that_is_taken_over_stays_its_users(
    migrated_dsn: str, redis_url: str, children: Children, tmp_path: Path
) -> None:
    async with stack.processes(
        children, dsn=migrated_dsn, redis_url=redis_url, log_directory=tmp_path, identity=True
    ) as running:
        key = await stack.new_key(migrated_dsn, ADA)
        running.simulator.state.scripts.add(SCRIPT)
        first, second = running.orchestrators
        async with (
            stack.channel_to(first.address, key) as before,
            stack.channel_to(second.address, key) as after,
        ):
            await rpc.AgentServiceStub(before).ApplyAgent(
                pb.ApplyAgentRequest(agent=stack.agent()), timeout=10
            )
            given = pb.RunInput(agent=stack.AGENT, message="survive", request_id="once")
            call = rpc.OrchestratorServiceStub(before).Chat(pb.ChatRequest(input=given), timeout=60)
            begun: list[pb.RunEvent] = []
            while not stack.of(begun, "text_delta"):
                begun += (await call.read()).events
            run_id = stack.of(begun, "run_started")[0].run_id
            assert first.child is not None
            first.child.send(signal.SIGKILL)
            runs = rpc.OrchestratorServiceStub(after)
            watch = runs.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=60)
            events = [event async for response in watch for event in response.events]

            assert stack.kinds(events).count("run_taken_over") == 1
            assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
            assert stack.of(events, "tool_call_finished"), "tools were called after the take-over"
            assert not list(events[-1].run_finished.degradations), "it was remembered"
            assert problems(History(readings={"Ada": events})) == []

            # The same user's, in every service; nobody else's.
            conversation = stack.of(events, "run_started")[0].conversation_id
            request = memory_pb2.ListMessagesRequest(conversation_id=conversation)
            async with stack.channel_to(running.environ["PEREGRINE_MEMORY_TARGET"], "") as channel:
                memory = memory_pb2_grpc.MemoryServiceStub(channel)

                async def remembered() -> bool:
                    kept = await memory.ListMessages(request, metadata=signed(ADA), timeout=10)
                    return len(kept.messages) >= 2

                await eventually(remembered)
                for who in (Identity("acme", "bob"), EVE, Identity("local", "local")):
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await memory.ListMessages(request, metadata=signed(who), timeout=10)
                    assert isinstance(from_rpc_error(refused.value), NotFound)
            for who in (Identity("acme", "bob"), EVE):
                other = await stack.new_key(migrated_dsn, who)
                async with stack.channel_to(second.address, other) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await rpc.OrchestratorServiceStub(channel).GetRun(
                            pb.GetRunRequest(run_id=run_id), timeout=10
                        )
                    assert isinstance(from_rpc_error(refused.value), NotFound)
    said = logs(tmp_path)
    for secret in (key, running.credential, "eyJ"):
        assert secret not in said, "no credential is in a log"
    assert '"tenant":"acme","user":"ada"' in said


def logs(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.glob("*.log"))
