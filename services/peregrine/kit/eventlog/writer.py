"""The owner's end of one log.

`append` gives an entry its position at once and hands it to two tasks of the process: the appender
(Redis) and the flusher (PostgreSQL). Whichever store has an entry first makes it visible. The
writer keeps what is not durable, so either store can be away, and the other one can be filled
again from here. All state changes happen between two awaits of the one event loop: no locks, but
`own`, which gives one transaction at a time the right to move the durable position.
"""

import asyncio
import enum
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

from peregrine.kit.errors import PeregrineError
from peregrine.kit.eventlog.entry import Address, Entry
from peregrine.kit.eventlog.failures import Fenced, LogFinished, unavailable
from peregrine.kit.eventlog.store import Also, Ready, Write
from peregrine.kit.eventlog.tail import pack_keys
from peregrine.kit.eventlog.window import Window

# With less of the lease left, what is on its way could arrive after it is over.
_LEASE_MARGIN = 1.0


class TailState(enum.Enum):
    """How this writer stands with the log's tail in Redis."""

    LIVE = "appends continue what is there"
    OPEN = "the tail has to be opened at the durable position"
    UNVERIFIED = "PostgreSQL must confirm the epoch before the tail may be opened"


class Reached(enum.Enum):
    """How far an entry has come."""

    SENT = "on its way to Redis"
    VISIBLE = "in Redis or in PostgreSQL, so readers may see it"
    DURABLE = "in PostgreSQL"


class Backlog:
    """Bytes that are not durable yet, over all writers of the process.

    Up to `limit` everything is normal; `room` waits while it is exceeded. At twice the limit
    appends are refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        return self.bytes > 2 * self.limit

    @property
    def crowded(self) -> bool:
        return self.bytes > self.limit

    def add(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.limit:
            self._room.clear()

    def remove(self, size: int) -> None:
        self.bytes -= size
        if self.bytes <= self.limit:
            self._room.set()

    async def room(self) -> None:
        await self._room.wait()


class Engine(Protocol):
    """What the process does for its writers (see `log`)."""

    def appended(self, writer: "Writer") -> None: ...
    def hurry(self) -> None: ...
    def hurry_tail(self) -> None: ...
    async def finish(
        self, writer: "Writer", entry: Entry, also: Also | None, ready: Ready | None
    ) -> None: ...
    async def release(self, writer: "Writer") -> None: ...
    def discard(self, writer: "Writer") -> None: ...


class Writer:
    """One owned log. Made by `EventLog.create` and `EventLog.recover`.

    Attributes:
      epoch: of this ownership; entries appended here carry it.
      lost: set once this writer can append no more without having finished or released: another
        owner has the log, or PostgreSQL was away for longer than can be buffered. `failure` says
        why; the owner of the work cancels it.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        backlog: Backlog,
        address: Address,
        epoch: int,
        window: Window,
        lease_until: float,
    ) -> None:
        self.address = address
        self.packed_keys = pack_keys(address)
        self.epoch = epoch
        self.lost = asyncio.Event()
        self.failure: PeregrineError | None = None
        self.window = window
        self.durable_sequence = window.visible
        self.lease_until = lease_until
        self.behind_since: float | None = None
        self.finished_at: float | None = None
        self.tail = TailState.OPEN
        self.acked = window.visible
        self.opens = 0
        self._engine = engine
        self._backlog = backlog
        self._finishing = False
        self._owned = False
        self._turns: list[asyncio.Future[None]] = []
        self._sent = window.visible
        self._waiting: list[tuple[int, Reached, asyncio.Future[None]]] = []

    @property
    def tenant(self) -> str:
        return self.address.tenant

    @property
    def log_id(self) -> UUID:
        return self.address.log_id

    @property
    def next_sequence(self) -> int:
        """The position that the next append gets."""
        return self.window.next_sequence

    @property
    def last_sequence(self) -> int:
        return self.window.next_sequence - 1

    @property
    def active(self) -> bool:
        """Neither finished nor lost nor released."""
        return self.failure is None and self.finished_at is None

    def append(self, payload: bytes) -> int:
        """Appends one entry and returns its position. Does no I/O and never waits.

        Raises:
          Fenced: the log is known to be lost or was released.
          LogFinished: `finish` was called.
          Unavailable: LOG_BUFFER_FULL, when PostgreSQL is away and `room` was not waited for.
        """
        if self.failure is not None:
            raise self.failure
        if self._finishing or self.finished_at is not None:
            raise LogFinished(self.log_id)
        if self._backlog.full:
            raise unavailable("too much is waiting to be stored", reason="LOG_BUFFER_FULL")
        sequence = self.window.next_sequence
        self.window.append(Entry(sequence, self.epoch, payload))
        self._backlog.add(len(payload))
        if self.behind_since is None:
            self.behind_since = time.monotonic()
        self._engine.appended(self)
        return sequence

    async def room(self) -> None:
        """Waits while more is buffered in this process than should be.

        Raises: what `append` would, if the log is lost meanwhile.
        """
        if self._backlog.crowded:
            room = asyncio.ensure_future(self._backlog.room())
            lost = asyncio.ensure_future(self.lost.wait())
            try:
                await asyncio.wait((room, lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                room.cancel()
                lost.cancel()
        if self.failure is not None:
            raise self.failure

    async def sent(self, sequence: int) -> None:
        """Returns when the loss of this process alone can no longer take the entry back: it is on
        its way to Redis, and nobody else can have the log. Raises as `visible`."""
        self._engine.hurry_tail()
        await self._until(sequence, Reached.SENT)

    async def visible(self, sequence: int) -> None:
        """Returns when readers may see the entry. Raises Fenced/Unavailable when they never will
        from here."""
        await self._until(sequence, Reached.VISIBLE)

    async def durable(self, sequence: int) -> None:
        """Returns when the entry is committed in PostgreSQL; has it flushed now. Raises as
        `visible`."""
        if self.durable_sequence < sequence:
            self._engine.hurry()
        await self._until(sequence, Reached.DURABLE)

    async def finish(
        self, payload: bytes, *, also: Also | None = None, ready: Ready | None = None
    ) -> int:
        """Appends the terminal entry and returns its position.

        It is committed together with everything before it, the end of the lease, and what `also`
        writes: all or nothing, and nothing if the log is no longer ours. Only then do readers see
        the entry. Once begun it runs to its end even if the caller is cancelled.

        Args:
          ready: awaited between the writing and the commit, again at each try. It is to be quick:
            the log's row is locked meanwhile.

        Raises:
          Fenced: another owner has the log; nothing was written.
          Unavailable: PostgreSQL stayed away; the writer is lost, another owner will take over.
          What `ready` raised, or `also` in the database: nothing was written and the log is still
            open.
        """
        if self.failure is not None:
            raise self.failure
        if self._finishing or self.finished_at is not None:
            raise LogFinished(self.log_id)
        self._finishing = True
        entry = Entry(self.window.next_sequence, self.epoch, payload, terminal=True)
        await self._engine.finish(self, entry, also, ready)
        return entry.sequence

    async def release(self) -> None:
        """Hands the log over: all of it durable, nobody its owner, to be claimed at once. Runs to
        its end even if the caller is cancelled. Afterwards `append` raises Fenced.

        Raises: Fenced, Unavailable (then the lease simply runs out).
        """
        if self.failure is not None:
            raise self.failure
        if self._finishing or self.finished_at is not None:
            raise LogFinished(self.log_id)
        self._finishing = True
        await self._engine.release(self)

    def discard(self) -> None:
        """Forgets a log whose creating transaction was rolled back."""
        self._engine.discard(self)

    # What follows is for the tasks of the process.

    @property
    def crowded(self) -> bool:
        """The process holds more than it should."""
        return self._backlog.crowded

    def pending(self) -> Sequence[Entry]:
        """All that is not durable."""
        return self.window.slice(self.durable_sequence + 1, self.last_sequence)

    def write(self, *more: Entry) -> Write:
        return Write(self.address, self.epoch, self.durable_sequence, [*self.pending(), *more])

    def made_sent(self, upto: int) -> None:
        """Everything up to this position was written to the connection with Redis."""
        if self.lease_until - _LEASE_MARGIN > time.monotonic():
            self._sent = max(self._sent, upto)
            self._wake()

    def made_visible(self, upto: int) -> None:
        """Redis has everything up to this position."""
        self.acked = max(self.acked, upto)
        self._advance()

    def made_durable(self, upto: int) -> None:
        """PostgreSQL has everything up to this position."""
        if upto <= self.durable_sequence or self.failure is not None:
            return
        gone = self.window.slice(self.durable_sequence + 1, upto)
        self._backlog.remove(sum(len(entry.payload) for entry in gone))
        self.durable_sequence = upto
        self.behind_since = time.monotonic() if upto < self.last_sequence else None
        self._advance()
        self.window.trim(upto)

    def made_final(self, entry: Entry) -> None:
        """The terminal entry is committed."""
        self.window.append(entry)
        self._backlog.add(len(entry.payload))
        self.finished_at = time.monotonic()
        self.made_durable(entry.sequence)

    def reopened(self) -> None:
        """A finish or release came to nothing; the log goes on."""
        self._finishing = False

    def fail(self, error: PeregrineError, *, quiet: bool = False) -> None:
        """No append of this writer will succeed any more."""
        if not self.active:
            return
        self.failure = error
        self._backlog.remove(sum(len(entry.payload) for entry in self.pending()))
        self.behind_since = None
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(error)
        if not quiet:
            self.lost.set()
        self.window.close()

    def fenced(self, why: str) -> Fenced:
        error = Fenced(self.log_id, self.epoch, why)
        self.fail(error)
        return error

    @property
    def owned(self) -> bool:
        return self._owned

    @asynccontextmanager
    async def own(self) -> AsyncIterator[None]:
        """The right to move the durable position: one transaction at a time."""
        while self._owned:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            await turn
        self.take_turn()
        try:
            yield
        finally:
            self.end_turn()

    def take_turn(self) -> None:
        self._owned = True

    def end_turn(self) -> None:
        self._owned = False
        turns, self._turns = self._turns, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)

    def _advance(self) -> None:
        self.window.reveal(max(self.acked, self.durable_sequence))
        self._wake()

    def _position(self, reached: Reached) -> int:
        """The last entry that has come so far."""
        if reached is Reached.DURABLE:
            return self.durable_sequence
        if reached is Reached.VISIBLE:
            return self.window.visible
        return max(self._sent, self.window.visible)

    def _wake(self) -> None:
        if not self._waiting:
            return
        left = []
        for sequence, reached, future in self._waiting:
            if future.done():
                continue
            if sequence <= self._position(reached):
                future.set_result(None)
            else:
                left.append((sequence, reached, future))
        self._waiting = left

    async def _until(self, sequence: int, reached: Reached) -> None:
        if sequence <= self._position(reached):
            return
        if self.failure is not None:
            raise self.failure
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sequence, reached, future))
        await future
