"""What a worker adds to a tool: a call that does nothing, a change that is recorded, one that is
asked for again; and who waits when there is more to do than slots."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import grpc.aio

from benchmarks.lab import Lab
from benchmarks.rows import Row, median, spread
from peregrine.api.tools.v1 import tools_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2_grpc as rpc

_ROUNDS = 8
_CALLS = 60
_CONCURRENT = 50
_RATED = 2_000
_WAITING = 150
_HIGH, _LOW = 50, -50


async def tools(lab: Lab) -> AsyncIterator[Row]:
    echo = await lab.echo()
    peregrine = await lab.peregrine()
    async with grpc.aio.insecure_channel(peregrine.address("tools")) as channel:
        stub = rpc.ToolServiceStub(channel)
        nothing, echoes, changes, again = [], [], [], []
        for _ in range(_ROUNDS):
            echoes.append(await echo.sample(_CALLS))
            nothing.append(await _median(stub, lambda: _call("noop")))
            changes.append(await _median(stub, lambda: _call("slow_write", seconds=0)))
            repeated = _call("slow_write", seconds=0)
            await stub.ExecuteTool(repeated, timeout=10)
            again.append(await _median(stub, _same(repeated)))
        yield Row(
            name="tools: a call that does nothing over a bare echo, p50",
            value=(median(nothing) - median(echoes)) * 1e3,
            unit="ms",
            detail={"call_ms": spread([each * 1e3 for each in nothing])},
        )
        yield Row(
            name="tools: what the ledger adds to a WRITE, p50",
            value=(median(changes) - median(nothing)) * 1e3,
            unit="ms",
            detail={"write_ms": spread([each * 1e3 for each in changes])},
        )
        yield Row(
            name="tools: a WRITE that is asked for again, p50", value=median(again) * 1e3, unit="ms"
        )
        yield Row(
            name=f"tools: calls that do nothing, {_CONCURRENT} at a time",
            value=await _rate(stub),
            unit="calls/s",
        )
        waits = await _waits(stub)
        yield Row(
            name=f"tools: wait of important calls over that of all, {_WAITING} at once, p50",
            value=waits[_HIGH] / max((waits[_HIGH] + waits[_LOW]) / 2, 1e-9),
            unit="times",
            detail={"important_ms": waits[_HIGH] * 1e3, "others_ms": waits[_LOW] * 1e3},
        )


def _call(tool: str, *, priority: int = 0, **arguments: object) -> pb.ExecuteToolRequest:
    given = ",".join(f'"{name}":{_json(value)}' for name, value in arguments.items())
    call = pb.ToolCall(tool=tool, priority=priority, idempotency_key=uuid.uuid4().hex)
    call.arguments.utf8 = f"{{{given}}}".encode()
    return pb.ExecuteToolRequest(call=call)


def _same(request: pb.ExecuteToolRequest) -> Callable[[], pb.ExecuteToolRequest]:
    return lambda: request


def _json(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


async def _median(stub: rpc.ToolServiceStub, request: Callable[[], pb.ExecuteToolRequest]) -> float:
    taken = []
    for _ in range(_CALLS):
        made = request()
        begun = time.perf_counter()
        response = await stub.ExecuteTool(made, timeout=10)
        taken.append(time.perf_counter() - begun)
        if response.result.status != pb.TOOL_STATUS_SUCCEEDED:
            raise RuntimeError(response.result.error.message)
    return median(taken)


async def _rate(stub: rpc.ToolServiceStub) -> float:
    left = iter(range(_RATED))

    async def work() -> None:
        for _ in left:
            await stub.ExecuteTool(_call("noop"), timeout=30)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CONCURRENT):
            group.create_task(work())
    return _RATED / (time.perf_counter() - begun)


async def _waits(stub: rpc.ToolServiceStub) -> dict[int, float]:
    """The median wait by priority, of calls that come at once and take 50 ms each."""

    async def one(priority: int) -> tuple[int, float]:
        call = _call("sleep", priority=priority, seconds=0.05)
        response = await stub.ExecuteTool(call, timeout=30)
        return priority, response.result.queue_time.ToNanoseconds() / 1e9

    for _ in range(6):  # until the worker knows how long they take
        await asyncio.gather(*(one(0) for _ in range(10)))
    done = await asyncio.gather(*(one(_LOW if n % 2 else _HIGH) for n in range(_WAITING)))
    return {
        priority: median([wait for each, wait in done if each == priority])
        for priority in (_HIGH, _LOW)
    }
