"""A tool worker is lost or stopped in the middle of a WRITE, and another one is asked: the change
happens once, and the run is told what became of it, or that nobody knows."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.local.processes import Child, Children
from tests.support import stack, tools_module
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.stack import Stack

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@dataclass(kw_only=True)
class Worker:
    child: Child
    proxy: FaultProxy
    stub: tools_pb2_grpc.ToolServiceStub


@dataclass(kw_only=True)
class Scene:
    """One orchestrator that calls the first worker, and the second when the first is lost."""

    running: Stack
    workers: list[Worker]
    folder: Path

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    @property
    def lines(self) -> list[str]:
        return tools_module.executions(self.folder / "executions")

    async def changing(self, tool: str = "gated_write") -> pb.Run:
        """A run whose change has begun, and ends when the gate is there."""
        await self.running.apply(stack.agent(tools=[tool]))
        call = {"type": "tool_use", "name": tool, "input": {"text": "x", "gate": str(self.gate)}}
        self.running.simulator.state.scripts.add(
            {
                "match": {"contains": "change"},
                "turns": [{"blocks": [call]}, {"blocks": [{"type": "text", "text": "Done."}]}],
            }
        )
        run = await self.running.start("change it")
        await eventually(lambda: self.lines == ["x"], timeout=30)
        return run

    async def state(self, run: pb.Run) -> int:
        request = pb.GetRunRequest(run_id=run.run_id)
        response = await self.running.first.runs.GetRun(request, timeout=20)
        return int(response.run.state)

    async def ends(self, run: pb.Run) -> list[pb.RunEvent]:
        events = await self.running.watch(run.run_id, timeout=90)
        stack.check_log(events)
        return events

    async def in_doubt(self, run: pb.Run) -> None:
        async def so() -> bool:
            return await self.state(run) == pb.RUN_STATE_IN_DOUBT

        await eventually(so, timeout=60)


async def spawned(
    running: Stack, children: Children, folder: Path, number: int, opened: AsyncExitStack
) -> Worker:
    port = free_port()
    child = children.spawn(
        "tools",
        [sys.executable, "-m", "peregrine", "tools"],
        env=running.environ
        | {
            "PEREGRINE_LISTEN": f"127.0.0.1:{port}",
            "PEREGRINE_DRAIN_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join((str(stack.SERVICES), str(stack.REPOSITORY))),
        },
        log_path=folder / f"tools-{number}.log",
    )
    proxy = await opened.enter_async_context(fault_proxy(f"127.0.0.1:{port}"))
    channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
    worker = Worker(child=child, proxy=proxy, stub=tools_pb2_grpc.ToolServiceStub(channel))

    async def serves() -> bool:
        try:
            await worker.stub.ListTools(
                tools_pb2.ListToolsRequest(), timeout=1, metadata=running.on_behalf_of()
            )
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(serves, timeout=60, what="the worker serves")
    return worker


@pytest.fixture
async def scene(
    migrated_dsn: str,
    redis_url: str,
    children: Children,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(tmp_path / "executions"))
    async with AsyncExitStack() as opened:
        running = await opened.enter_async_context(
            stack.neighbours(dsn=migrated_dsn, redis_url=redis_url)
        )
        workers = [
            await spawned(running, children, tmp_path, number, opened) for number in range(2)
        ]
        # Both addresses of one service; gRPC stays with the first for as long as it is there.
        addresses = ",".join(worker.proxy.address for worker in workers)
        environ = running.environ | {"PEREGRINE_TOOLS_TARGET": f"ipv4:{addresses}"}
        await opened.enter_async_context(stack.orchestrator_in_process(running, environ))
        yield Scene(running=running, workers=workers, folder=tmp_path)


async def test_a_change_whose_worker_is_killed_is_in_doubt_and_never_run_again(
    scene: Scene,
) -> None:
    run = await scene.changing()
    scene.workers[0].child.send(signal.SIGKILL)
    await scene.in_doubt(run)
    scene.gate.touch()
    assert scene.lines == ["x"]


async def test_one_that_may_be_run_again_is_run_by_the_next_worker(scene: Scene) -> None:
    run = await scene.changing("gated_repeatable")
    scene.workers[0].child.send(signal.SIGKILL)
    await eventually(lambda: scene.lines == ["x", "x"], timeout=60)
    scene.gate.touch()
    events = await scene.ends(run)
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    assert scene.lines == ["x", "x"]


async def test_a_worker_that_only_cannot_be_reached_ends_the_change_and_another_one_tells_of_it(
    scene: Scene,
) -> None:
    run = await scene.changing()
    scene.workers[0].proxy.cut()
    scene.gate.touch()
    events = await scene.ends(run)
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    (result,) = stack.of(events, "tool_call_finished")
    assert result.content[0].text == "written x"
    assert scene.lines == ["x"]


async def test_a_worker_that_is_asked_to_stop_ends_the_change_first(scene: Scene) -> None:
    run = await scene.changing()
    scene.workers[0].child.send(signal.SIGTERM)
    await eventually(lambda: "not_serving" in scene.workers[0].child.log_path.read_text())
    scene.gate.touch()
    events = await scene.ends(run)
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    (result,) = stack.of(events, "tool_call_finished")
    assert result.content[0].text == "written x"
    assert scene.lines == ["x"]
    assert await scene.workers[0].child.wait(30) == 0


async def test_a_change_that_outlasts_the_stop_of_its_worker_is_in_doubt(scene: Scene) -> None:
    run = await scene.changing()
    scene.workers[0].child.send(signal.SIGTERM)
    assert await scene.workers[0].child.wait(60) == 0
    await scene.in_doubt(run)
    scene.gate.touch()
    assert scene.lines == ["x"]
