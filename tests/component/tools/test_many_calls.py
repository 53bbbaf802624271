"""A thousand calls of mixed priority on four workers: who starts when, and never too many at once.

Each execution says when it began and ended; when the call came to its worker's queue follows from
the waiting time that its result tells. All on one machine, so on one clock. An admitted call begins
a few turns of the event loop later; what a pulse of the loop shows to have been lost meanwhile (the
machine had other things to do) does not count as having waited.
"""

import asyncio
import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc.aio

from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.tools import main
from tests.component.tools.conftest import call

SEED = 20261122
CALLS, WORKERS, SLOTS = 1_000, 4, 10
PLACES = {"timed_wide": 10, "timed_narrow": 3}
PRIORITIES = (-100, -5, 0, 0, 0, 5, 100)
# Between the moment a call is admitted and the first line of its tool, and in reading clocks.
NOISE_SECONDS = 0.003


class Pulse:
    """Notes when the event loop, or this process, was away."""

    def __init__(self) -> None:
        self._gaps: list[tuple[float, float]] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        last = time.monotonic()
        while not self._over.is_set():
            await asyncio.sleep(0.001)
            now = time.monotonic()
            if now - last > NOISE_SECONDS:
                self._gaps.append((last, now))
            last = now

    def stop(self) -> None:
        self._over.set()

    def lost(self, begin: float, end: float) -> float:
        """Seconds between two moments that were lost."""
        return sum(max(min(end, b) - max(begin, a), 0.0) for a, b in self._gaps)


@dataclass(frozen=True, slots=True)
class Seen:
    tool: str
    priority: int
    arrived: float
    began: float
    ended: float


async def test_no_call_starts_before_a_more_important_one_that_waits_longer(
    settings: main.Settings,
) -> None:
    chance = random.Random(SEED)
    patient = dataclasses.replace(
        settings, max_wait_seconds=110, max_queue=CALLS, concurrency=SLOTS, aging_seconds=0.1
    )
    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(WORKERS):
            worker = await stack.enter_async_context(main.build(patient))
            await stack.enter_async_context(worker)
            await worker.serving()
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(worker.address))
            stubs.append(tools_pb2_grpc.ToolServiceStub(channel))
        batches = [
            [
                call(
                    "timed_narrow" if chance.random() < 0.25 else "timed_wide",
                    {"seconds": chance.uniform(0.002, 0.02)},
                    call_id=str(number),
                    priority=chance.choice(PRIORITIES),
                )
                for number in range(25)
            ]
            for _ in range(CALLS // 25)
        ]
        pulse = Pulse()
        beating = asyncio.create_task(pulse.run())
        async with asyncio.TaskGroup() as group:
            running = [
                (number % WORKERS, group.create_task(batch_on(stubs[number % WORKERS], batch)))
                for number, batch in enumerate(batches)
            ]
        pulse.stop()
        await beating
    by_worker = [
        [seen for where, task in running if where == worker for seen in task.result()]
        for worker in range(WORKERS)
    ]
    assert sum(map(len, by_worker)) == CALLS, "every call succeeded: nobody starved"
    overtaken = 0
    for seen in by_worker:
        assert most_at_once(seen) <= SLOTS
        for tool, places in PLACES.items():
            assert most_at_once([each for each in seen if each.tool == tool]) <= places
        overtaken += sum(count_overtakings(seen).values())
        check_order(seen, pulse)
    assert overtaken > CALLS, "priorities mattered, or this shows nothing"


async def batch_on(
    stub: tools_pb2_grpc.ToolServiceStub, batch: Sequence[tools_pb2.ToolCall]
) -> list[Seen]:
    by_id = {each.call_id: each for each in batch}
    seen = []
    request = tools_pb2.ExecuteToolsRequest(calls=batch)
    async for response in stub.ExecuteTools(request, timeout=110):
        for result in response.results:
            assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED, result
            asked = by_id[result.call_id]
            began, ended = json.loads(result.structured_content.utf8)
            arrived = began - result.queue_time.ToNanoseconds() / 1e9
            seen.append(Seen(asked.tool, asked.priority, arrived, began, ended))
    return seen


def check_order(seen: Sequence[Seen], pulse: Pulse) -> None:
    """No call began while one of higher priority, which had a place, had waited longer."""
    for one in seen:
        for other in seen:
            if (
                other.priority > one.priority
                and other.arrived < one.arrived - NOISE_SECONDS
                and other.began > one.began + NOISE_SECONDS
                and other.began - one.began - pulse.lost(one.began, other.began) > NOISE_SECONDS
            ):
                beside = sum(
                    each.tool == other.tool
                    and each is not one
                    and each.began <= one.began + NOISE_SECONDS
                    and each.ended >= one.began - NOISE_SECONDS
                    for each in seen
                )
                full = beside >= PLACES[other.tool]
                assert full, f"{one} began although {other} waited longer"


def count_overtakings(seen: Sequence[Seen]) -> Counter[int]:
    """How often a call of a priority began before one of lower priority that came earlier."""
    return Counter(
        one.priority
        for one in seen
        for other in seen
        if one.priority > other.priority and other.arrived < one.arrived and one.began < other.began
    )


def most_at_once(seen: Sequence[Seen]) -> int:
    changes = sorted([(each.began, 1) for each in seen] + [(each.ended, -1) for each in seen])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
