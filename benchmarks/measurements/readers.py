"""One edge with many readers: 300 that wait, 50 to whom events come, and one who stops reading.

A reader is a bare connection that looks for `data:` lines. An event's latency is the time from its
creation, which it carries, to its arrival; all processes are on this machine and share its clock.
The stalled reader's rounds and the others alternate, so that what else the machine does is in both.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from statistics import median

import httpx
import psutil

from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, percentile
from benchmarks.stack import AGENT
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.local.places import free_port
from peregrine.local.plan import HOST

_IDLE = 300
_ACTIVE = 50
_ROUNDS = 6
_START_SECONDS = 20.0
_ANSWER = {"blocks": [{"type": "text", "tokens": 60}]}
_STEADY = {"first_token": 0.5, "tokens_per_second": 30.0}
_SILENT = {"first_token": 60.0, "tokens_per_second": 1.0}
_TALKER = "bench-talker"
_LONG = {"blocks": [{"type": "text", "tokens": 200_000}]}
# More than all buffers on the way to a reader take, so that it does stall.
_LONG_BYTES = 1_000_000
_AT_ONCE = {"first_token": 0.0, "tokens_per_second": 0.0}


async def readers(lab: Lab) -> AsyncIterator[Row]:
    peregrine = await lab.peregrine()
    port = free_port()
    service = peregrine.services["edge"]
    edge = lab.children.spawn(
        "edge of readers",
        [sys.executable, "-m", "peregrine", "edge"],
        env={**service.environ, "PEREGRINE_LISTEN": f"{HOST}:{port}"},
        log_path=lab.directory / "edge-readers.log",
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=20) as http:
            await _ready(http)
            process = psutil.Process(edge.pid)
            bare = _mebibytes(process)
            await peregrine.first.agents.ApplyAgent(_talker(), timeout=10)
            await peregrine.simulator.play(_ANSWER, latency=_SILENT)
            silent = await _start(http)
            async with contextlib.AsyncExitStack() as idle:
                for _ in range(_IDLE):
                    await idle.enter_async_context(_reader(port, silent))
                waiting = _mebibytes(process)
                alone: list[list[float]] = []
                beside: list[list[float]] = []
                for number in range(_ROUNDS):
                    stalled = number % 2 == 1
                    async with contextlib.AsyncExitStack() as round_:
                        if stalled:
                            await peregrine.simulator.play(_LONG, latency=_AT_ONCE)
                            long = await _start(http, _TALKER)
                            await _ended(http, long)
                            round_.enter_context(_stalled(port, long))
                        await peregrine.simulator.play(_ANSWER, latency=_STEADY)
                        (beside if stalled else alone).append(await _round(http, port))
                busy = _mebibytes(process)
            await http.post(f"/v1/runs/{silent}/cancel")
    finally:
        await edge.stop(grace=5.0)
    everything = [seconds for each in alone for seconds in each]
    quiet = median(percentile(each, 95) for each in alone)
    loud = median(percentile(each, 95) for each in beside)
    name = f"edge, {_IDLE} idle and {_ACTIVE} active readers"
    yield Row(
        name=f"{name}, memory",
        value=busy,
        unit="MiB",
        detail={"without_readers": bare, "idle": waiting},
    )
    yield Row(name=f"{name}, event latency p50", value=percentile(everything, 50) * 1e3, unit="ms")
    yield Row(name=f"{name}, event latency p95", value=quiet * 1e3, unit="ms")
    yield Row(
        name="edge, p95 with a stalled reader over p95 without",
        value=loud / quiet,
        unit="times",
        bound=Bound(at_most=1.1),
        detail={
            "alone_ms": [percentile(each, 95) * 1e3 for each in alone],
            "beside_ms": [percentile(each, 95) * 1e3 for each in beside],
        },
    )


async def _round(http: httpx.AsyncClient, port: int) -> list[float]:
    """Latencies of all events that the active readers of one run get while it is made."""
    run_id = await _start(http)

    async def one() -> list[float]:
        found: list[float] = []
        async with _reader(port, run_id) as reader:
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                arrived = time.time()
                event = json.loads(line[6:])
                # Up to microseconds, all that Python 3.11 reads.
                created = event["create_time"].rstrip("Z")[:26]
                if "text_delta" in event:
                    found.append(arrived - datetime.fromisoformat(f"{created}+00:00").timestamp())
                if "run_finished" in event:
                    break
        return found

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(_ACTIVE)]
    return [seconds for task in tasks for seconds in task.result()]


@contextlib.asynccontextmanager
async def _reader(port: int, run_id: str) -> AsyncIterator[asyncio.StreamReader]:
    """A reader that has seen the run's first event."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(_request(run_id))
        await asyncio.wait_for(reader.readuntil(b"id: 1\n"), 10)
        yield reader
    finally:
        writer.close()


@contextlib.contextmanager
def _stalled(port: int, run_id: str) -> Iterator[None]:
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(_request(run_id))
        yield


def _request(run_id: str) -> bytes:
    return f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def _start(http: httpx.AsyncClient, agent: str = AGENT) -> str:
    answer = await http.post("/v1/runs", json={"agent": agent, "message": "What is it?"})
    answer.raise_for_status()
    run_id: str = answer.json()["run_id"]
    return run_id


async def _ended(http: httpx.AsyncClient, run_id: str) -> None:
    length = 0
    async with asyncio.timeout(_START_SECONDS):
        async with http.stream("GET", f"/v1/runs/{run_id}/events") as response:
            async for chunk in response.aiter_bytes():
                length += len(chunk)
    if length < _LONG_BYTES:
        raise RuntimeError(f"a run of {length} bytes stalls nobody")


def _talker() -> pb.ApplyAgentRequest:
    limits = pb.AgentLimits(max_output_tokens=1_000_000)
    spec = pb.AgentSpec(model="claude-sonnet-5-5", limits=limits)
    return pb.ApplyAgentRequest(agent=pb.Agent(name=_TALKER, spec=spec))


async def _ready(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


def _mebibytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20
