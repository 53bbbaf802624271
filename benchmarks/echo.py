"""The measure of all measures: a bare grpc.aio unary echo between two processes.

No interceptors, no metadata, no protobuf: the least that a call costs here. `python -m
benchmarks.echo PORT` is the server; `Echo` is its client.
"""

import asyncio
import sys
import time
from typing import Any

import grpc
import grpc.aio

from benchmarks.rows import median

_METHOD = "/echo.Echo/Say"
_PAYLOAD = b"x" * 100
_SECONDS = 5.0


class Echo:
    """Samples are kept, so that all rows of a run are compared with the same median."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._say: Any = channel.unary_unary(_METHOD)
        self._medians: list[float] = []

    @property
    def p50(self) -> float:
        """Seconds: the median over all samples so far."""
        return median(self._medians)

    @property
    def medians(self) -> list[float]:
        return list(self._medians)

    async def warm(self) -> None:
        for _ in range(200):
            await self._say(_PAYLOAD, timeout=_SECONDS, wait_for_ready=True)

    async def sample(self, calls: int = 150) -> float:
        """The median of calls made one after the other, in seconds."""
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            await self._say(_PAYLOAD, timeout=_SECONDS)
            taken.append(time.perf_counter() - begun)
        self._medians.append(median(taken))
        return self._medians[-1]

    async def after_silence(self, calls: int = 12, *, seconds: float = 0.04) -> float:
        """The median of calls each made after a silence as long as a model's first token takes.

        Processes that have slept come back to cold caches: a call then costs about twice as much,
        and a run, which mostly waits for the model, meets hardly any other.
        """
        taken = []
        for _ in range(calls):
            await asyncio.sleep(seconds)
            begun = time.perf_counter()
            await self._say(_PAYLOAD, timeout=_SECONDS)
            taken.append(time.perf_counter() - begun)
        return median(taken)

    async def rate(self, *, concurrent: int, calls: int) -> float:
        """Calls per second when `concurrent` are always under way."""
        left = iter(range(calls))

        async def caller() -> None:
            for _ in left:
                await self._say(_PAYLOAD, timeout=_SECONDS)

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrent):
                group.create_task(caller())
        return calls / (time.perf_counter() - begun)


async def _serve(port: int) -> None:
    async def say(request: bytes, _: object) -> bytes:
        return request

    server = grpc.aio.server()
    make: Any = grpc  # which declares no types for these two
    handler = make.method_handlers_generic_handler(
        "echo.Echo", {"Say": make.unary_unary_rpc_method_handler(say)}
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
