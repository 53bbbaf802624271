"""Starting in any order: an attempt that is made again while what it needs is not there yet.

In a cluster everything starts at once: a service before its database answers, and before the tables
have been migrated. A process that ends for that reason is started again after a growing delay, and
looks as if it were broken. So it waits by itself, for as long as its setting says. On a developer's
machine that is 0 seconds: whatever is missing there will not come.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from peregrine.kit.errors import Unavailable
from peregrine.kit.migrations import SchemaBehind

_AGAIN_SECONDS = 0.5

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def patiently(attempt: Callable[[], Awaitable[T]], *, seconds: float) -> T:
    """The result of the first `attempt` that finds its backends there and its tables migrated.

    Any other error passes at once, and the last one when `seconds` are over.
    """
    end = time.monotonic() + seconds
    said = ""
    while True:
        try:
            return await attempt()
        except (Unavailable, SchemaBehind) as error:
            if time.monotonic() >= end:
                raise
            if said != error.message:
                said = error.message
                log.warning("waiting_to_start", reason=error.reason, error=error.message)
            await asyncio.sleep(_AGAIN_SECONDS)
