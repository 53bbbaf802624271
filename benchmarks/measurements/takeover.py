"""How long a run stands still when its orchestrator is killed: from SIGKILL until a reader at
another orchestrator sees that the run has a new owner."""

import asyncio
import time
from collections.abc import AsyncIterator

from benchmarks.lab import Lab
from benchmarks.measurements.overhead import THREE_TOOLS
from benchmarks.rows import Bound, Row, median, spread
from benchmarks.stack import Orchestrator
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

_KILLS = 5
_RUNS = 4
_SECONDS = 30.0
# Long enough to be at work whenever it is killed, over soon after it was taken over.
_LONG = {"blocks": [{"type": "text", "tokens": 200}]}
_LATENCY = {"first_token": 0.04, "tokens_per_second": 100.0}


async def takeover(lab: Lab) -> AsyncIterator[Row]:
    peregrine = await lab.peregrine()
    await peregrine.simulator.play(THREE_TOOLS, _LONG, latency=_LATENCY)
    survivor = peregrine.first
    victim = await peregrine.orchestrator()
    taken: list[float] = []
    for kill in range(_KILLS):
        taken += await _kill(victim, survivor, kill)
        if kill + 1 < _KILLS:
            victim = await peregrine.orchestrator(at=victim.service.address)
    name = "take-over after SIGKILL of the owner"
    yield Row(name=f"{name}, p50", value=median(taken), unit="s", detail={"s": spread(taken)})
    yield Row(name=f"{name}, longest", value=max(taken), unit="s", bound=Bound(at_most=6.0))


async def _kill(victim: Orchestrator, survivor: Orchestrator, kill: int) -> list[float]:
    """The seconds that each of the victim's runs stood still."""
    runs = [await victim.start(f"Tell story {kill}/{number}.") for number in range(_RUNS)]
    ready = [asyncio.Event() for _ in runs]
    async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as group:
        watched = [
            group.create_task(_watch(survivor, run_id, event))
            for run_id, event in zip(runs, ready, strict=True)
        ]
        for event in ready:
            await event.wait()
        killed = time.monotonic()
        await victim.child.kill()
    return [task.result() - killed for task in watched]


async def _watch(survivor: Orchestrator, run_id: str, at_work: asyncio.Event) -> float:
    """When the run had a new owner, by the clock of this process. Reads it to its end."""
    taken: float | None = None
    state = pb.RUN_STATE_UNSPECIFIED
    call = survivor.runs.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=_SECONDS)
    async for response in call:
        for event in response.events:
            if event.HasField("text_delta") and event.text_delta.step == 2:
                at_work.set()
            elif event.HasField("run_taken_over") and taken is None:
                taken = time.monotonic()
            elif event.HasField("run_finished"):
                state = event.run_finished.state
    if taken is None or state != pb.RUN_STATE_SUCCEEDED:
        raise RuntimeError(f"run {run_id} ended {pb.RunState.Name(state)}, taken over: {taken}")
    return taken
