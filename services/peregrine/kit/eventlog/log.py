"""`EventLog`: all logs of one process, and the tasks that serve them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry

from peregrine.kit import context
from peregrine.kit.errors import PeregrineError, Unavailable
from peregrine.kit.eventlog import ending
from peregrine.kit.eventlog import tail as tails
from peregrine.kit.eventlog.appender import Appender
from peregrine.kit.eventlog.entry import Address, Entry, continuing
from peregrine.kit.eventlog.failures import Fenced, unavailable
from peregrine.kit.eventlog.flusher import Flusher
from peregrine.kit.eventlog.folder import Folder
from peregrine.kit.eventlog.hub import Hub
from peregrine.kit.eventlog.leases import Leases
from peregrine.kit.eventlog.metrics import Metrics
from peregrine.kit.eventlog.reader import Cursor
from peregrine.kit.eventlog.readers import Readers
from peregrine.kit.eventlog.store import Also, Claim, Ready, Store, Write
from peregrine.kit.eventlog.tail import Tail
from peregrine.kit.eventlog.window import Window
from peregrine.kit.eventlog.writer import Backlog, Writer
from peregrine.kit.postgres import Database, DatabaseError
from peregrine.kit.redis import Redis

# How long a finished log stays in memory, for those who are reading it.
LINGER_SECONDS = 3.0
# How long a claim is kept alive for a caller that has not come to recover it.
CLAIM_SECONDS = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """A log that was taken over.

    Attributes:
      entries: the whole log, as readers see it; the writer goes on behind it.
      truncated: entries beyond these may have been seen by readers and are void: the caller says
        so to readers with an entry of its own.
    """

    writer: Writer
    entries: Sequence[Entry]
    truncated: bool


class EventLog:
    """The logs that this process owns, and a reader for all others.

    Args:
      owner: a name for logs and debugging; the epoch is what protects.
      lease_seconds: how long after its last sign of life an owner loses its logs.
      renew_seconds: how often leases are renewed.
      flush_seconds: entries are durable this long after they were appended, at the latest.
      retention_seconds: how long a finished log can be read.
      buffer_bytes, buffer_seconds: how much is held, and for how long, while PostgreSQL is away.
    """

    def __init__(
        self,
        *,
        owner: str,
        db: Database,
        redis: Redis,
        registry: CollectorRegistry | None = None,
        lease_seconds: float = 3.0,
        renew_seconds: float = 1.0,
        flush_seconds: float = 0.05,
        retention_seconds: float = 86400.0,
        buffer_bytes: int = 10_000_000,
        buffer_seconds: float = 60.0,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._buffer_seconds = buffer_seconds
        self._metrics = Metrics(registry)
        self._backlog = Backlog(buffer_bytes)
        self._metrics.backlog.set_function(lambda: self._backlog.bytes)
        self._writers: dict[Address, Writer] = {}
        self._claims: dict[Address, tuple[Claim, float]] = {}
        self._store = Store(db=db, owner=owner, lease=lease_seconds, retention=retention_seconds)
        self._tail = Tail(redis)
        self.released = asyncio.Event()
        """Set when somebody released a log: `claim_expired` may find one. The caller clears it."""
        self._hub = Hub(redis=redis, store=self._store, released=self.released)
        self._appender = Appender(
            tail=self._tail,
            owner=owner,
            metrics=self._metrics,
            writers=self._all_writers,
            verify=self._verify,
        )
        self._leases = Leases(
            store=self._store,
            metrics=self._metrics,
            writers=self._all_writers,
            claims=self._live_claims,
            verified=self._appender.note,
            lease_seconds=lease_seconds,
            renew_seconds=renew_seconds,
        )
        self._flusher = Flusher(
            store=self._store,
            metrics=self._metrics,
            tail_is_well=lambda: self._appender.well,
            flush_seconds=flush_seconds,
            lease_seconds=lease_seconds,
            buffer_seconds=buffer_seconds,
        )
        self._folder = Folder(store=self._store)
        self._readers = Readers(
            store=self._store, tail=self._tail, hub=self._hub, writers=self._writers
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        with context.bind(detach=True):
            self._start_tasks()

    def _start_tasks(self) -> None:
        for name, run in (
            ("appender", self._appender.run),
            ("flusher", self._flusher.run),
            ("leases", self._leases.run),
            ("hub", self._hub.run),
            ("watch", self._hub.watch),
            ("folder", self._folder.run),
        ):
            task = asyncio.create_task(self._keep_running(name, run), name=f"eventlog-{name}")
            self._tasks.append(task)

    async def close(self, timeout: float = 5.0) -> None:
        """Makes everything durable, lets go of the logs still owned, and ends the tasks; within
        `timeout` seconds, after which what is not durable is left to the next owner."""
        self._closed = True
        self._readers.closing = True
        try:
            async with asyncio.timeout(timeout):
                if self._endings:
                    await asyncio.wait(self._endings)
                await self._flush_everything()
                await self._let_go()
        except (TimeoutError, Unavailable, DatabaseError) as error:
            log.warning("log_close_incomplete", error=repr(error))
        for writer in self._all_writers():
            writer.fail(unavailable("the process is ending", reason="LOG_CLOSED"))
        tasks = [*self._tasks, *self._endings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._writers.clear()

    async def __aenter__(self) -> "EventLog":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create(self, *, tenant: str, log_id: UUID) -> Writer:
        """Makes a log, leased to this process.

        Raises: postgres.UniqueViolation when there is such a log.
        """
        self._refuse_if_closed()
        asked = time.monotonic()
        await self._store.insert(Address(tenant, log_id))
        return self.created(tenant=tenant, log_id=log_id, asked=asked)

    def lease(self) -> tuple[str, float]:
        """Owner and seconds: the last arguments of `eventlog.open_log`, for a function of the
        database that makes a log together with other rows; then comes `created`.

        Raises: Unavailable, when this process is ending.
        """
        self._refuse_if_closed()
        return self._store.lease

    def created(self, *, tenant: str, log_id: UUID, asked: float) -> Writer:
        """The writer of a log that `eventlog.open_log` has made for this process.

        Args:
          asked: the reading of the monotonic clock before the function was called.
        """
        address = Address(tenant, log_id)
        return self._register(
            self._writer(
                address,
                epoch=1,
                window=Window(epoch=1, next_sequence=1),
                lease_until=asked + self._lease_seconds,
            )
        )

    async def claim_expired(self, limit: int) -> list[Claim]:
        """Takes logs whose lease is over or was given up, oldest first, and leases them to this
        process under the next epoch. Each is to be recovered within a few seconds.

        None for a moment after PostgreSQL was away, so that owners which went on meanwhile can
        renew first.

        Raises: Unavailable.
        """
        self._refuse_if_closed()
        if time.monotonic() - self._leases.failed_at < 1.5 * self._renew_seconds:
            # PostgreSQL was away, maybe for everybody: owners that live get time to renew.
            return []
        try:
            claims = await self._store.claim(limit)
        except Unavailable:
            self._leases.failed()
            raise
        for claim in claims:
            self._claims[claim.address] = (claim, time.monotonic() + CLAIM_SECONDS)
            self._metrics.claimed.inc()
            former = self._writers.pop(claim.address, None)
            if former is not None:
                former.fenced("this process claimed it anew")
        return claims

    async def recover(self, claim: Claim) -> Recovered:
        """Makes a claimed log whole: what its tail holds beyond PostgreSQL is adopted, that is
        made durable under the new epoch, before anything else is appended.

        Raises: Fenced when the claim was lost meanwhile; Unavailable (claim it again later).
        """
        self._refuse_if_closed()
        try:
            return await self._recover(claim)
        finally:
            self._claims.pop(claim.address, None)

    def read(
        self,
        *,
        tenant: str,
        log_id: UUID,
        after: int = 0,
        after_epoch: int | None = None,
        follow: bool = True,
    ) -> AsyncIterator[list[Entry]]:
        """The entries after a position, in order, in batches, through the terminal one.

        Args:
          after: the last position that the caller has; 0 for all.
          after_epoch: the epoch of that entry, if known. If what the caller has turns out to be
            void beyond some point, reading starts again there (positions then go back, with a
            higher epoch).
          follow: wait for entries to come; else end with what is there.

        Raises:
          LogNotFound, LogCompacted.
          Unavailable: PostgreSQL is away and nothing could be read yet.
        """
        return self._readers.read(Address(tenant, log_id), Cursor(after, after_epoch), follow)

    # The engine of the writers.

    def appended(self, writer: Writer) -> None:
        self._appender.note(writer)
        self._flusher.note(writer)

    def hurry(self) -> None:
        self._flusher.hurry()

    def hurry_tail(self) -> None:
        self._appender.hurry()

    async def finish(
        self, writer: Writer, entry: Entry, also: Also | None, ready: Ready | None
    ) -> None:
        patience = self._buffer_seconds
        await self._to_its_end(
            ending.finish(writer, entry, also, ready, store=self._store, patience=patience)
        )
        self._appender.note(writer)
        self._folder.soon()

    async def release(self, writer: Writer) -> None:
        await self._to_its_end(self._release(writer))

    def discard(self, writer: Writer) -> None:
        if self._writers.get(writer.address) is writer:
            del self._writers[writer.address]
        writer.fail(Fenced(writer.log_id, writer.epoch, "discarded"), quiet=True)

    async def _release(self, writer: Writer) -> None:
        await ending.release(writer, store=self._store)
        self._writers.pop(writer.address, None)
        try:
            await self._tail.announce_release()
        except tails.AWAY:
            pass  # claimers look every second anyway

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as our own task: a caller that is cancelled leaves it alone."""
        with context.bind(detach=True):
            task = asyncio.create_task(work)
        self._endings.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("log_ending_failed", error=repr(error))

    async def _recover(self, claim: Claim) -> Recovered:
        entries: Sequence[Entry] = ()
        intact = claim.released
        started = time.monotonic()
        try:
            taken = await self._tail.take(claim.address, claim.epoch, claim.durable)
        except tails.AWAY:
            pass
        else:
            if taken is None:
                raise Fenced(claim.log_id, claim.epoch, "the tail has a newer owner")
            intact = intact or taken.intact
            # An older epoch's entries beyond what is durable were void for the last writer: it
            # began before them, without the tail (it could not reach it).
            theirs = [each for each in taken.entries if each.epoch == claim.writer_epoch]
            entries = continuing(theirs, claim.durable)
        if claim.writer_epoch > 1 and not claim.released:
            # If the last writer had something to say about void entries, it was not heard.
            intact = intact and claim.durable + len(entries) >= claim.writer_start
        write = Write(claim.address, claim.epoch, claim.durable, entries)
        whole = await self._store.adopt(write)
        if whole is None:
            raise Fenced(claim.log_id, claim.epoch, "another owner claimed it")
        window = Window(epoch=claim.epoch, next_sequence=1)
        window.extend(whole)
        writer = self._writer(
            claim.address,
            epoch=claim.epoch,
            window=window,
            lease_until=started + self._lease_seconds,
        )
        return Recovered(self._register(writer), whole, not intact)

    def _writer(
        self,
        address: Address,
        *,
        epoch: int,
        window: Window,
        lease_until: float,
    ) -> Writer:
        return Writer(
            engine=self,
            backlog=self._backlog,
            address=address,
            epoch=epoch,
            window=window,
            lease_until=lease_until,
        )

    def _register(self, writer: Writer) -> Writer:
        self._writers[writer.address] = writer
        return writer

    def _all_writers(self) -> list[Writer]:
        """The writers, without those that ended a while ago."""
        now = time.monotonic()
        for address, writer in list(self._writers.items()):
            done = writer.finished_at is not None and now - writer.finished_at > LINGER_SECONDS
            if done or writer.failure is not None:
                del self._writers[address]
        return list(self._writers.values())

    def _live_claims(self) -> list[tuple[UUID, int]]:
        now = time.monotonic()
        for address, (_, until) in list(self._claims.items()):
            if until < now:
                del self._claims[address]
        return [(claim.log_id, claim.epoch) for claim, _ in self._claims.values()]

    def _verify(self) -> None:
        self._leases.soon()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise unavailable("the process is ending", reason="LOG_CLOSED")

    async def _flush_everything(self) -> None:
        while any(
            writer.active and writer.durable_sequence < writer.last_sequence
            for writer in self._all_writers()
        ):
            self._flusher.hurry()
            behind = [
                writer
                for writer in self._all_writers()
                if writer.active and writer.durable_sequence < writer.last_sequence
            ]
            for writer in behind:
                try:
                    await writer.durable(writer.last_sequence)
                except PeregrineError:
                    pass  # it is lost, so nothing of it is ours to store

    async def _let_go(self) -> None:
        idle = [writer for writer in self._all_writers() if writer.active]
        if idle:
            await self._store.release_all(
                [(writer.log_id, writer.epoch, writer.durable_sequence) for writer in idle]
            )
            for writer in idle:
                writer.fail(unavailable("the process is ending", reason="LOG_CLOSED"))
            try:
                await self._tail.announce_release()
            except tails.AWAY:
                pass

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
            except Exception:
                self._metrics.task_failures.labels(name).inc()
                log.exception("log_task_failed", task=name)
                await asyncio.sleep(1.0)
