"""One task that keeps the leases of all logs of the process, and notices those that are lost.

A renewal is also the proof that the epochs still hold: whoever wants to open a tail after Redis
lost its state asks for one first (`soon`). PostgreSQL's clock decides when a lease is over; the
local monotonic clock only ever makes this process more careful.
"""

import asyncio
import math
import time
from collections.abc import Callable
from uuid import UUID

import structlog

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog.flusher import still_ours
from peregrine.kit.eventlog.metrics import Metrics
from peregrine.kit.eventlog.store import Store
from peregrine.kit.eventlog.writer import TailState, Writer
from peregrine.kit.postgres import DatabaseError

# The longest that a transaction may take that creates a log.

log = structlog.get_logger(__name__)


class Leases:
    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        writers: Callable[[], list[Writer]],
        claims: Callable[[], list[tuple[UUID, int]]],
        verified: Callable[[Writer], None],
        lease_seconds: float,
        renew_seconds: float,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._writers = writers
        self._claims = claims
        self._verified = verified
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._wanted = asyncio.Event()
        self.failed_at = -math.inf

    def soon(self) -> None:
        """Renews now rather than at the next second."""
        self._wanted.set()

    def failed(self) -> None:
        """PostgreSQL could not be reached."""
        self.failed_at = time.monotonic()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._renew_seconds):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            try:
                await self.renew()
            except (Unavailable, DatabaseError) as error:
                self.failed()
                log.warning("log_renewal_failed", error=repr(error))

    async def renew(self) -> None:
        owned = [writer for writer in self._writers() if writer.active]
        self._metrics.owned.set(len(owned))
        pairs = [(writer.log_id, writer.epoch) for writer in owned] + self._claims()
        if not pairs:
            return
        started = time.monotonic()
        renewed = await self._store.renew(pairs)
        missing = []
        for writer in owned:
            if writer.log_id not in renewed:
                missing.append(writer)
                continue
            writer.lease_until = started + self._lease_seconds
            if writer.tail is TailState.UNVERIFIED:
                writer.tail = TailState.OPEN
                self._verified(writer)
        if missing:
            await self._look_at(missing)

    async def _look_at(self, missing: list[Writer]) -> None:
        """Not renewed: lost, or only held by a transaction at that moment."""
        standings = await self._store.standing([writer.log_id for writer in missing])
        for writer in missing:
            standing = standings.get(writer.log_id)
            if writer.active and not writer.owned and not still_ours(writer, standing):
                self._metrics.fenced.inc()
                writer.fenced("the lease went to a newer owner")
