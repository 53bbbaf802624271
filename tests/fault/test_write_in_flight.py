"""The owner of a run is killed while a WRITE tool is at work: it happens once, and what became of
it is known, or visibly not known."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.local.processes import Children
from tests.support import stack, tools_module
from tests.support.eventually import eventually
from tests.support.stack import Stack

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

TOOL = "gated_write"


@pytest.fixture
async def running(
    migrated_dsn: str,
    redis_url: str,
    children: Children,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stack]:
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(tmp_path / "executions"))
    async with stack.processes(
        children, dsn=migrated_dsn, redis_url=redis_url, log_directory=tmp_path
    ) as running:
        await running.apply(stack.agent(tools=[TOOL]))
        yield running


async def killed_in_the_middle(running: Stack, tmp_path: Path) -> tuple[pb.Run, Path]:
    """A run whose model asked for two changes; its owner dies while the second is at work."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    calls = [
        {"type": "tool_use", "name": TOOL, "input": {"text": "x", "gate": str(gate)}}
        for gate in (first, second)
    ]
    running.simulator.state.scripts.add(
        {
            "match": {"contains": "change"},
            "turns": [{"blocks": calls}, {"blocks": [{"type": "text", "text": "Done."}]}],
        }
    )
    run = await running.start("change it", at=0)
    await eventually(lambda: lines(tmp_path)() == ["x", "x"])
    owner = running.orchestrators[0].child
    assert owner is not None
    owner.send(signal.SIGKILL)
    return run, second


def lines(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: tools_module.executions(tmp_path / "executions")


async def test_the_next_owner_is_told_what_became_of_it(running: Stack, tmp_path: Path) -> None:
    run, gate = await killed_in_the_middle(running, tmp_path)
    gate.touch()
    async with asyncio.timeout(60):
        events = await running.watch(run.run_id, at=1)
    stack.check_log(events)
    assert stack.of(events, "run_taken_over")
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    results = stack.of(events, "tool_call_finished")
    assert [result.content[0].text for result in results] == ["written x", "written x"]
    assert lines(tmp_path)() == ["x", "x"]


async def test_or_the_run_says_that_nobody_knows(running: Stack, tmp_path: Path) -> None:
    run, _ = await killed_in_the_middle(running, tmp_path)

    async def in_doubt() -> bool:
        response = await running.orchestrators[1].runs.GetRun(
            pb.GetRunRequest(run_id=run.run_id), timeout=20
        )
        return bool(response.run.state == pb.RUN_STATE_IN_DOUBT)

    await eventually(in_doubt, timeout=60)
    assert lines(tmp_path)() == ["x", "x"]
