"""Folding and expiry, in the background: a finished log becomes one compressed row.

Soon after a log is finished here, and once a while for what a dead process left behind.
"""

import asyncio
import random

import structlog

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog.store import Store
from peregrine.kit.postgres import DatabaseError

# Readers that are at the end of a log read it from its entries once more; then it may be folded.
SOON_SECONDS = 2.0
SWEEP_SECONDS = 30.0
_FOLDS = 20
_EXPIRED = 200

log = structlog.get_logger(__name__)


class Folder:
    def __init__(self, *, store: Store) -> None:
        self._store = store
        self._wanted = asyncio.Event()

    def soon(self) -> None:
        """Something was finished."""
        self._wanted.set()

    async def run(self) -> None:
        while True:
            try:
                # Spread, so that the processes of a service do not all sweep at once.
                async with asyncio.timeout(SWEEP_SECONDS * random.uniform(0.8, 1.2)):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await asyncio.sleep(SOON_SECONDS)
            try:
                await self.sweep()
            except (Unavailable, DatabaseError) as error:
                log.warning("log_fold_failed", error=repr(error))

    async def sweep(self) -> None:
        """Folds all that is finished and deletes all that is past its time."""
        while await self._store.fold(_FOLDS):
            pass
        while await self._store.expire(_EXPIRED):
            pass
