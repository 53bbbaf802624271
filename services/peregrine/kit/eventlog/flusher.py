"""One task that makes durable, in batches, what all writers of the process have appended.

Entries reach PostgreSQL within the flush interval; at once when somebody waits for it; and every
few tens of milliseconds while Redis is away, because then PostgreSQL is what makes them visible.
PostgreSQL away: what is not durable stays in the writers, for a bounded time.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog.failures import unavailable
from peregrine.kit.eventlog.metrics import Metrics
from peregrine.kit.eventlog.store import Standing, Store
from peregrine.kit.eventlog.writer import Writer
from peregrine.kit.postgres import DatabaseError

AWAY_FLUSH_SECONDS = 0.03
RETRY_SECONDS = 0.25
# One transaction carries at most about this much.
_MOST_BYTES = 4 * 1024 * 1024

log = structlog.get_logger(__name__)


class Flusher:
    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        tail_is_well: Callable[[], bool],
        flush_seconds: float,
        lease_seconds: float,
        buffer_seconds: float,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tail_is_well = tail_is_well
        self._flush_seconds = flush_seconds
        self._lease_seconds = lease_seconds
        self._buffer_seconds = buffer_seconds
        self._dirty: dict[Writer, None] = {}
        self._pending = asyncio.Event()
        self._urgent = asyncio.Event()

    def note(self, writer: Writer) -> None:
        self._dirty[writer] = None
        self._pending.set()

    def hurry(self) -> None:
        self._urgent.set()

    async def run(self) -> None:
        while True:
            await self._pending.wait()
            await self._gather()
            try:
                await self.flush()
            except (Unavailable, DatabaseError) as error:
                log.warning("log_flush_failed", error=repr(error))
                self._give_up_on_old()
                await asyncio.sleep(RETRY_SECONDS)
                # Whoever was in a hurry still is.
                self.hurry()

    async def _gather(self) -> None:
        wait = self._flush_seconds if self._tail_is_well() else AWAY_FLUSH_SECONDS
        try:
            async with asyncio.timeout(wait):
                await self._urgent.wait()
        except TimeoutError:
            pass
        self._urgent.clear()

    async def flush(self) -> None:
        """Flushes what there is, in as many transactions as it takes.

        Raises: Unavailable, DatabaseError; everything is still there to be tried again.
        """
        self._pending.clear()
        again: list[Writer] = []
        try:
            while self._dirty:
                batch: list[Writer] = []
                size = 0
                while self._dirty and size < _MOST_BYTES:
                    writer = next(iter(self._dirty))
                    del self._dirty[writer]
                    if not writer.active or writer.durable_sequence == writer.last_sequence:
                        continue
                    if writer.owned:
                        # It is finishing or being released, which flushes it as well.
                        again.append(writer)
                        continue
                    writer.take_turn()
                    batch.append(writer)
                    size += sum(len(entry.payload) for entry in writer.pending())
                if batch:
                    await self._flush(batch)
        finally:
            for writer in again:
                self.note(writer)

    async def _flush(self, batch: list[Writer]) -> None:
        started = time.monotonic()
        writes = {writer: writer.write() for writer in batch}
        try:
            moved = await self._store.flush(list(writes.values()))
            for writer, write in writes.items():
                if writer.log_id in moved:
                    writer.made_durable(write.last)
                    writer.lease_until = started + self._lease_seconds
            stuck = [writer for writer in batch if writer.log_id not in moved]
            if stuck:
                await self._look_at(stuck)
        finally:
            for writer in batch:
                writer.end_turn()
                if writer.active and writer.durable_sequence < writer.last_sequence:
                    self.note(writer)
        self._metrics.flush_seconds.observe(time.monotonic() - started)

    async def _look_at(self, stuck: list[Writer]) -> None:
        standings = await self._store.standing([writer.log_id for writer in stuck])
        for writer in stuck:
            if not still_ours(writer, standings.get(writer.log_id)):
                self._metrics.fenced.inc()
                writer.fenced("PostgreSQL has a newer owner")

    def _give_up_on_old(self) -> None:
        """PostgreSQL has been away: what waited too long fails, and so does everything when there
        is more than may be held."""
        now = time.monotonic()
        for writer in list(self._dirty):
            since = writer.behind_since
            if since is None:
                continue
            if writer.crowded or now - since > self._buffer_seconds:
                writer.fail(
                    unavailable(
                        "PostgreSQL was away for longer than can be buffered",
                        reason="LOG_NOT_STORED",
                    )
                )


def still_ours(writer: Writer, standing: Standing | None) -> bool:
    """Whether a write that matched nothing left the log ours: then it had been committed before,
    and only the reply was lost."""
    if standing is None or standing.epoch != writer.epoch or standing.finished:
        return False
    writer.made_durable(min(standing.durable, writer.last_sequence))
    return True
