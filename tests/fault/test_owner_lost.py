"""The owner of a run is killed or frozen at a random moment; another orchestrator goes on.

PEREGRINE_FAULT_ROUNDS (default 3) kills, PEREGRINE_FAULT_SEED (default 1) chooses the moments.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.postgres import ALL_TENANTS, Database
from peregrine.local.processes import Children
from tests.fault.history import History, problems
from tests.fault.reader import Reader
from tests.support import stack, tools_module
from tests.support.eventually import eventually
from tests.support.stack import Orchestrator, Stack

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1500)]

ROUNDS = int(os.environ.get("PEREGRINE_FAULT_ROUNDS", "3"))
SEED = int(os.environ.get("PEREGRINE_FAULT_SEED", "1"))
RUNS = 3
TOKENS = 200
TAKE_OVER_SECONDS = 6.0

LEAD = "Let me count. "


def script(number: int) -> dict[str, object]:
    """A lead-in, three tools as blocks come, then 200 tokens; about two seconds in all."""
    calls = [
        {
            "type": "tool_use",
            "name": "count",
            "input": {"text": f"{number}-{letter}"},
            "delay_before": 0.1,
        }
        for letter in "abc"
    ]
    return {
        "match": {"contains": f"fault {number} "},
        "latency": {"first_token": 0.1, "tokens_per_second": 150},
        "turns": [
            {"blocks": [{"type": "text", "text": LEAD}, *calls]},
            {"blocks": [{"type": "text", "tokens": TOKENS}]},
        ],
    }


async def expected_text(running: Stack, number: int) -> str:
    """What the simulator says to this message when nothing happens."""
    running.simulator.state.scripts.add(script(number))
    events = await running.chat(f"fault {number} please", at=1)
    stack.check_log(events)
    return stack.text(events)


async def test_runs_survive_the_death_of_their_owner_at_any_moment(
    migrated_dsn: str,
    redis_url: str,
    children: Children,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executions = tmp_path / "executions"
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(executions))
    chance = random.Random(SEED)
    waits: list[float] = []
    async with (
        stack.processes(
            children, dsn=migrated_dsn, redis_url=redis_url, log_directory=tmp_path
        ) as running,
        contextlib.AsyncExitStack() as spawned,
    ):
        await running.apply(stack.agent(tools=["count"]))
        # The text of a run does not depend on its number: the tokens are numbered, not random.
        text = await expected_text(running, 0)
        assert text.startswith(LEAD) and len(text.split()) >= TOKENS
        for number in range(1, ROUNDS + 1):
            waits += await kill_once(running, number, chance, text, executions)
            another = stack.spawn(children, running, tmp_path / f"orchestrator-{number + 1}.log")
            running.orchestrators[0] = await spawned.enter_async_context(another)
        print(f"take-overs: {len(waits)}, longest {max(waits, default=0):.2f} s")  # noqa: T201
    assert max(waits, default=0) <= TAKE_OVER_SECONDS


async def kill_once(
    running: Stack, number: int, chance: random.Random, text: str, executions: Path
) -> list[float]:
    """Kills orchestrator 0 while it owns runs; returns how long each waited for a new owner."""
    numbers = [number * 100 + i for i in range(RUNS)]
    for each in numbers:
        running.simulator.state.scripts.add(script(each))
    runs = [await running.start(f"fault {each} please", at=0) for each in numbers]
    readers = [Reader(running, run.run_id, at) for run in runs for at in (0, 1)]
    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(reader.read()) for reader in readers]
        await asyncio.sleep(chance.uniform(0.0, 2.2))
        victim = running.orchestrators[0].child
        assert victim is not None
        victim.send(signal.SIGKILL)
        killed = time.time()
        async with asyncio.timeout(60):
            await asyncio.gather(*reading)
    ran = Counter(tools_module.executions(executions))
    waits = []
    for index, (each, run) in enumerate(zip(numbers, runs, strict=True)):
        history = History(
            readings={
                "its reader": readers[2 * index].events,
                "the other's reader": readers[2 * index + 1].events,
                "a late reader": await running.watch(run.run_id, at=1),
            },
            expected_text=text,
            executions={
                f'{{"text":"{each}-{letter}"}}': ran[f"{each}-{letter}"] for letter in "abc"
            },
        )
        assert problems(history) == []
        log = history.readings["a late reader"]
        assert log[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
        waits += [
            event.create_time.ToNanoseconds() / 1e9 - killed
            for event in log
            if event.HasField("run_taken_over")
        ]
    return waits


async def test_a_frozen_owner_appends_nothing_when_it_thaws(
    migrated_dsn: str, redis_url: str, children: Children, tmp_path: Path
) -> None:
    async with stack.processes(
        children, dsn=migrated_dsn, redis_url=redis_url, log_directory=tmp_path
    ) as running:
        await running.apply(stack.agent(tools=["count"]))
        frozen = running.orchestrators[0]
        running.simulator.state.scripts.add(
            {
                "match": {"contains": "freeze"},
                "latency": {"tokens_per_second": 40},
                "turns": [{"blocks": [{"type": "text", "tokens": 200}]}],
            }
        )
        runs = [await running.start("freeze please", at=0) for _ in range(5)]
        for run in runs:
            await eventually(lambda run=run: _has_text(running, run.run_id))
        assert frozen.child is not None
        frozen.child.send(signal.SIGSTOP)
        frozen_at = asyncio.get_running_loop().time()
        logs = await asyncio.gather(*(running.watch(run.run_id, at=1) for run in runs))
        # The others have finished; the freeze lasts ten seconds in all.
        await asyncio.sleep(max(0.0, frozen_at + 10 - asyncio.get_running_loop().time()))
        before = [await _stored(migrated_dsn), await _tail(redis_url)]
        frozen.child.send(signal.SIGCONT)
        await eventually(lambda: _forgot(frozen, len(runs)), timeout=30)
        assert [await _stored(migrated_dsn), await _tail(redis_url)] == before
        for run, log in zip(runs, logs, strict=True):
            again = await running.watch(run.run_id, at=0)
            history = History(readings={"before it thawed": log, "afterwards": again})
            assert problems(history) == []
            assert log[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
            assert any(event.HasField("run_taken_over") for event in log)


async def _has_text(running: Stack, run_id: str) -> bool:
    call = running.orchestrators[1].runs.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=10)
    async for response in call:
        if any(event.HasField("text_delta") for event in response.events):
            call.cancel()
            return True
    return False


def _forgot(frozen: Orchestrator, runs: int) -> bool:
    """The thawed owner has noticed that it lost all of its runs."""
    assert frozen.child is not None
    return frozen.child.log_path.read_text().count('"event":"run_lost"') >= runs


async def _stored(dsn: str) -> list[tuple[object, ...]]:
    """Everything PostgreSQL holds of the logs but what folding moves around."""
    async with (
        await Database.connect(dsn, size=1) as database,
        database.transaction(ALL_TENANTS) as conn,
    ):
        rows = await conn.fetch(
            "test_logs",
            "SELECT log_id, epoch, durable_sequence, finished FROM eventlog.logs ORDER BY log_id",
        )
    return [tuple(row) for row in rows]


async def _tail(redis_url: str) -> dict[bytes, object]:
    """Every key of the logs in Redis with its content."""
    from peregrine.kit import redis

    client = redis.connect(redis_url)
    found: dict[bytes, object] = {}
    try:
        async for key in client.scan_iter(match="peregrine:log:*"):
            found[key] = await client.dump(key)
    finally:
        await redis.close(client)
    return found
