"""Many runs at once: all of them end, and how long that takes."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc.aio

from benchmarks.lab import Lab
from benchmarks.measurements.overhead import ANSWER, LATENCY, THREE_TOOLS, milliseconds
from benchmarks.rows import Bound, Row, percentile
from benchmarks.stack import Seen

_RUNS = 200
_CONNECTIONS = 4


async def crowd(lab: Lab) -> AsyncIterator[Row]:
    peregrine = await lab.peregrine()
    await peregrine.simulator.play(THREE_TOOLS, ANSWER, latency=LATENCY)
    address = peregrine.address("orchestrator")
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(_CONNECTIONS)
    ]
    clients = [peregrine.first.over(channel) for channel in channels]
    lost: list[str] = []
    seen: list[Seen] = []

    async def one(number: int) -> None:
        try:
            run = await clients[number % _CONNECTIONS].chat(f"What is number {number}?")
        except grpc.aio.AioRpcError as error:
            lost.append(f"{error.code().name}: {error.details()}")
            return
        if run.whole and text(run) == text(seen[0] if seen else run):
            seen.append(run)
        else:
            lost.append(f"{len(run.events)} events, not whole")

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(_RUNS):
            group.create_task(one(number))
    wall = time.monotonic() - begun
    for channel in channels:
        await channel.close()
    walls = [each.wall for each in seen]
    detail = {"wall_s": wall, "latency_ms": milliseconds(walls), "lost": lost[:10]}
    name = f"{_RUNS} runs at once, 2 model calls and 3 tools each"
    yield Row(
        name=f"{name}, lost", value=len(lost), unit="runs", bound=Bound(at_most=0), detail=detail
    )
    yield Row(name=f"{name}, rate", value=len(seen) / wall, unit="runs/s")
    yield Row(name=f"{name}, p50", value=percentile(walls, 50), unit="s")
    yield Row(name=f"{name}, p99", value=percentile(walls, 99), unit="s")


def text(run: Seen) -> str:
    return "".join(event.text_delta.text for event in run.events)
