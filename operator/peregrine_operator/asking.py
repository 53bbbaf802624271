"""What runs on each worker at this moment, asked of the workers themselves.

What Prometheus knows is seconds old, and who goes when a pool shrinks is decided by what runs now.
So every worker is asked, at its own address, many at once and all within one deadline. Who does not
answer in time is not in the result, and counts as busy: no scale-in waits for a worker that hangs.
"""

import asyncio
from collections.abc import Mapping

import structlog

from peregrine.client import ToolsClient
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError

SECONDS = 2.0
"""For all of them together."""
_AT_ONCE = 64

log = structlog.get_logger(__name__)


async def inflight(targets: Mapping[str, str], *, seconds: float = SECONDS) -> dict[str, int]:
    """Executions and waiting calls, by the names of `targets` (gRPC targets); of who answered."""
    found: dict[str, int] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(name: str, target: str) -> None:
        async with gate:
            try:
                async with ToolsClient(target, connections=1, timeout=seconds) as worker:
                    stats = await worker.get_execution_stats()
            except PeregrineError as error:
                log.info("worker_not_asked", worker=name, reason=error.reason)
            else:
                found[name] = stats.in_flight + stats.queued

    try:
        with context.bind(retries=0):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for name, target in targets.items():
                    group.create_task(ask(name, target))
    except TimeoutError:
        log.info("workers_silent", asked=len(targets), answered=len(found))
    return found
