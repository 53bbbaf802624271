"""Work in the background that comes round: it may fail, and the next time it is tried again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog
from prometheus_client import Counter

from peregrine.kit.errors import PeregrineError

log = structlog.get_logger(__name__)


async def repeat(
    work: Callable[[], Awaitable[object]], *, every: float, failures: Counter, failed: str
) -> NoReturn:
    """Until cancelled, does it every `every` seconds, ± 20 %, so that replicas do not meet.

    `failed` is the event that is logged when it fails.
    """
    while True:
        await asyncio.sleep(every * random.uniform(0.8, 1.2))
        try:
            await work()
        except PeregrineError as error:
            failures.inc()
            log.warning(failed, reason=error.reason)
        except Exception as error:
            # The top of a background task: the next time may go better.
            failures.inc()
            log.error(failed, error=type(error).__name__, exc_info=error)
