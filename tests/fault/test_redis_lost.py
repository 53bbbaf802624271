"""Redis dies while runs stream, and comes back empty: latency is lost, nothing else."""

import asyncio
import signal
from pathlib import Path

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.local.processes import Children
from peregrine.local.servers import RedisServer
from tests.fault.history import History, problems
from tests.fault.reader import Reader
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.stack import Stack

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

RUNS = 20


async def start_runs(running: Stack) -> list[pb.Run]:
    running.simulator.state.scripts.add(
        {
            "match": {"contains": "stream"},
            "latency": {"tokens_per_second": 60},
            "turns": [{"blocks": [{"type": "text", "tokens": 200}]}],
        }
    )
    orchestrators = len(running.orchestrators)
    return [await running.start(f"stream {n}", at=n % orchestrators) for n in range(RUNS)]


async def read_everywhere(running: Stack, run: pb.Run) -> History:
    """One reader at each orchestrator, from the beginning, while it happens."""
    one, other = await asyncio.gather(
        running.watch(run.run_id, at=0, timeout=120), running.watch(run.run_id, at=1, timeout=120)
    )
    return History(readings={"at the one": one, "at the other": other})


async def some_text(running: Stack, run: pb.Run) -> None:
    call = running.first.runs.WatchRun(pb.WatchRunRequest(run_id=run.run_id), timeout=60)
    async for response in call:
        if any(event.HasField("text_delta") for event in response.events):
            return


@pytest.mark.parametrize("comes_back", [False, True], ids=["stays away", "comes back empty"])
async def test_runs_go_on_without_redis_and_their_logs_have_no_gaps(
    migrated_dsn: str, redis_server: RedisServer, comes_back: bool
) -> None:
    async with stack.in_process(
        dsn=migrated_dsn, redis_url=redis_server.url(), orchestrators=2
    ) as running:
        before = await running.chat("Hello")
        runs = await start_runs(running)
        reading = [asyncio.create_task(read_everywhere(running, run)) for run in runs]
        await asyncio.gather(*(some_text(running, run) for run in runs))
        await redis_server.kill()
        if comes_back:
            await asyncio.gather(*(some_text(running, run) for run in runs[:3]))
            await redis_server.restart(empty=True)
        for run, history in zip(runs, await asyncio.gather(*reading), strict=True):
            history.readings["a late reader"] = await running.watch(run.run_id, at=1)
            assert problems(history) == []
            log = history.readings["a late reader"]
            assert log[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
            assert stack.text(log) == log[-1].run_finished.text
        run_id = stack.of(before, "run_started")[0].run_id
        for at in (0, 1):
            assert await running.watch(run_id, at=at) == before
        assert (await running.chat("Hello again"))[-1].HasField("run_finished")


async def test_redis_and_the_owner_lost_together_cost_what_was_not_yet_durable(
    migrated_dsn: str, redis_server: RedisServer, children: Children, tmp_path: Path
) -> None:
    async with stack.processes(
        children, dsn=migrated_dsn, redis_url=redis_server.url(), log_directory=tmp_path
    ) as running:
        runs = await start_runs(running)
        readers = [Reader(running, run.run_id, at) for run in runs for at in (0, 1)]
        reading = [asyncio.create_task(reader.read()) for reader in readers]
        await asyncio.gather(*(some_text(running, run) for run in runs))
        owner = running.first.child
        assert owner is not None
        await redis_server.kill()
        owner.send(signal.SIGKILL)
        await asyncio.gather(*reading)
        taken_over = 0
        for index, run in enumerate(runs):
            log = await running.watch(run.run_id, at=1)
            readings = {
                "its reader": readers[2 * index].events,
                "the other's reader": readers[2 * index + 1].events,
                "a late reader": log,
            }
            assert problems(History(readings=readings)) == []
            assert log[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
            assert stack.text(log) == log[-1].run_finished.text
            if stack.of(log, "run_taken_over"):
                taken_over += 1
                assert stack.of(log, "log_truncated"), "nobody can know what the tail held"
        # The killed one owned every second run, of which some may have ended by then.
        assert 0 < taken_over <= RUNS // 2


async def test_a_frozen_redis_holds_nothing_up_for_long(
    migrated_dsn: str, redis_server: RedisServer
) -> None:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_server.url()) as running:
        runs = await start_runs(running)
        reading = [asyncio.create_task(running.watch(run.run_id)) for run in runs]
        await some_text(running, runs[0])
        redis_server.child.send(signal.SIGSTOP)
        try:
            logs = await asyncio.gather(*reading)
        finally:
            redis_server.child.send(signal.SIGCONT)
        for log in logs:
            assert problems(History(readings={"its reader": log})) == []
            assert log[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
        again = await eventually(lambda: running.chat("Hello"))
        stack.check_log(again)
