"""The durable side: PostgreSQL. Every write is fenced by the epoch, under the log's row lock.

A batch that matched no row is not yet a lost log: its commit may have happened and only the reply
was lost. `standing` tells the two apart.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from peregrine.kit.eventlog import statements
from peregrine.kit.eventlog.entry import Address, Entry, decode, encode
from peregrine.kit.postgres import ALL_TENANTS, Database


@dataclass(frozen=True, slots=True)
class Also:
    """What is to be written in the transaction that finishes a log.

    Attributes:
      function: of the database, in the place of `eventlog.settle`, which it calls with the same
        arguments; it gets `args` after these. It returns what `settle` returned.
      user: whose rows it may see, beside the tenant of the log.
    """

    function: str
    args: tuple[Any, ...]
    user: str


Ready: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when what was written may be committed, or raises what is to undo it."""

_TO_THREAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Write:
    """Entries of one log that become durable: they follow `durable` without a gap."""

    address: Address
    epoch: int
    durable: int
    entries: Sequence[Entry]

    @property
    def last(self) -> int:
        return self.durable + len(self.entries)


@dataclass(frozen=True, slots=True)
class Standing:
    epoch: int
    durable: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A log that is now leased to this process, still to be recovered.

    Attributes:
      released: its former owner let go of it in order, with everything durable.
      writer_epoch: the newest epoch that may have written.
      writer_start: where that one began.
    """

    address: Address
    epoch: int
    durable: int
    released: bool
    writer_epoch: int
    writer_start: int

    @property
    def tenant(self) -> str:
        return self.address.tenant

    @property
    def log_id(self) -> UUID:
        return self.address.log_id


@dataclass(frozen=True, slots=True)
class Page:
    """What PostgreSQL knows of a log, and the entries after the position that was asked for."""

    starts: Sequence[int | None]
    durable: int
    finished: bool
    compacted: bool
    entries: Sequence[Entry]


class Store:
    def __init__(self, *, db: Database, owner: str, lease: float, retention: float) -> None:
        self._db = db
        self._owner = owner
        self._lease_seconds = lease
        self._retention = retention

    @property
    def lease(self) -> tuple[str, float]:
        """Who owns a new log, and for how many seconds."""
        return self._owner, self._lease_seconds

    async def insert(self, address: Address) -> None:
        await self._db.call(
            "eventlog_insert",
            "eventlog.open_log",
            address.log_id,
            *self.lease,
            tenant=address.tenant,
        )

    async def flush(self, writes: Sequence[Write]) -> set[UUID]:
        """Makes entries of many logs durable in one transaction; returns the logs that moved."""
        ids: list[UUID] = []
        sequences: list[int] = []
        epochs: list[int] = []
        payloads: list[bytes] = []
        for write in sorted(writes, key=lambda write: write.address.log_id):
            for entry in write.entries:
                ids.append(write.address.log_id)
                sequences.append(entry.sequence)
                epochs.append(entry.epoch)
                payloads.append(entry.payload)
        rows = await self._db.call(
            "eventlog_flush",
            "eventlog.flush",
            [write.address.log_id for write in writes],
            [write.epoch for write in writes],
            [write.durable + 1 for write in writes],
            [write.last for write in writes],
            ids,
            sequences,
            epochs,
            payloads,
            self._lease_seconds,
            tenant=ALL_TENANTS,
        )
        return {row["moved_log"] for row in rows}

    async def standing(self, log_ids: Sequence[UUID]) -> dict[UUID, Standing]:
        async with self._db.transaction(ALL_TENANTS) as conn:
            rows = await conn.fetch("eventlog_standing", statements.STANDING, log_ids)
        return {
            row["log_id"]: Standing(row["epoch"], row["durable_sequence"], row["finished"])
            for row in rows
        }

    async def finish(self, write: Write, also: Also | None, ready: Ready | None) -> bool:
        """The terminal entry, all before it, the end of the lease and `also`, or nothing."""
        return await self._settle(write, also, ready, finished=True)

    async def release(self, write: Write) -> bool:
        return await self._settle(write, None, None, finished=False)

    async def _settle(
        self, write: Write, also: Also | None, ready: Ready | None, *, finished: bool
    ) -> bool:
        rows = await self._db.call(
            "eventlog_finish" if finished else "eventlog_release",
            also.function if also is not None else "eventlog.settle",
            write.address.log_id,
            write.epoch,
            write.durable,
            write.last,
            finished,
            not finished,
            self._lease_seconds,
            self._retention,
            *_columns(write.entries),
            *(also.args if also is not None else ()),
            tenant=write.address.tenant,
            user=also.user if also is not None else None,
            ready=ready,
        )
        moved: bool = rows[0]["moved"]
        return moved

    async def release_all(self, standings: Sequence[tuple[UUID, int, int]]) -> None:
        """Lets go of (log, epoch, durable position), where nothing is beyond that position."""
        async with self._db.transaction(ALL_TENANTS, timeout=2.0) as conn:
            await conn.execute(
                "eventlog_release_all",
                statements.RELEASE_ALL,
                [log_id for log_id, _, _ in standings],
                [epoch for _, epoch, _ in standings],
                [durable for _, _, durable in standings],
            )

    async def renew(self, owned: Sequence[tuple[UUID, int]]) -> set[UUID]:
        """Renews the leases of (log, epoch) in one statement; returns those that it could."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "eventlog_renew",
                statements.RENEW,
                [log_id for log_id, _ in owned],
                [epoch for _, epoch in owned],
                self._lease_seconds,
            )
        return {row["log_id"] for row in rows}

    async def claim(self, limit: int) -> list[Claim]:
        async with self._db.transaction(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "eventlog_claim", statements.CLAIM, self._owner, limit, self._lease_seconds
            )
        return [
            Claim(
                Address(row["tenant"], row["log_id"]),
                row["epoch"],
                row["durable_sequence"],
                row["former"] is None,
                row["writer_epoch"],
                row["writer_start"],
            )
            for row in rows
        ]

    async def adopt(self, write: Write) -> list[Entry] | None:
        """Writes what the tail held under the new epoch; returns the whole log, None if fenced."""
        async with self._db.transaction(write.address.tenant) as conn:
            moved = await conn.fetchrow(
                "eventlog_adopt",
                statements.ADOPT,
                write.address.log_id,
                write.epoch,
                write.durable,
                write.last,
                self._lease_seconds,
                *_columns(write.entries),
            )
            if moved is None:
                return None
            rows = await conn.fetch("eventlog_entries", statements.ENTRIES, write.address.log_id)
        return [_entry(row) for row in rows]

    async def page(self, address: Address, after: int, limit: int) -> Page | None:
        """None when the tenant has no such log."""
        async with self._db.transaction(address.tenant) as conn:
            rows = await conn.fetch("eventlog_page", statements.PAGE, address.log_id, after, limit)
        if not rows:
            return None
        log = rows[0]
        entries: Sequence[Entry]
        if log["data"] is not None:
            entries = await _unfold(log["data"])
            # Positions begin at 1 and have no gaps, so a position is an index.
            entries = entries[after : after + limit]
        else:
            last = log["durable_sequence"] if log["finished"] else 0
            entries = [_entry(row, last) for row in rows if row["sequence"] is not None]
        return Page(
            starts=log["starts"],
            durable=log["durable_sequence"],
            finished=log["finished"],
            compacted=log["folded"] and log["data"] is None,
            entries=entries,
        )

    async def progress(self, addresses: Sequence[Address]) -> dict[Address, Standing]:
        """How far the logs are: epoch is the newest one that may have written."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "eventlog_progress",
                statements.PROGRESS,
                [address.log_id for address in addresses],
            )
        return {
            Address(row["tenant"], row["log_id"]): Standing(
                row["epoch"], row["durable_sequence"], row["finished"]
            )
            for row in rows
        }

    async def fold(self, limit: int) -> int:
        """Turns finished logs into one compressed row each; returns how many it did."""
        async with self._db.transaction(ALL_TENANTS, timeout=30.0) as conn:
            logs = await conn.fetch("eventlog_unfolded", statements.UNFOLDED, limit)
            for log in logs:
                rows = await conn.fetch("eventlog_entries", statements.ENTRIES, log["log_id"])
                last = log["durable_sequence"]
                await conn.execute(
                    "eventlog_fold",
                    statements.FOLD,
                    log["log_id"],
                    log["tenant"],
                    await _compress(b"".join(encode(_entry(row, last)) for row in rows)),
                    last,
                    log["expire_time"],
                )
        return len(logs)

    async def expire(self, limit: int) -> int:
        """Deletes what is past its time; returns how many rows went."""
        async with self._db.transaction(ALL_TENANTS, timeout=30.0) as conn:
            folds = await conn.execute("eventlog_expire", statements.EXPIRE_FOLDS, limit)
            logs = await conn.execute(
                "eventlog_forget", statements.EXPIRE_LOGS, limit, 7 * self._retention
            )
        return int(folds.split()[-1]) + int(logs.split()[-1])


def _columns(entries: Sequence[Entry]) -> tuple[list[int], list[int], list[bytes]]:
    return (
        [entry.sequence for entry in entries],
        [entry.epoch for entry in entries],
        [entry.payload for entry in entries],
    )


def _entry(row: Any, last: int = 0) -> Entry:
    return Entry(row["sequence"], row["epoch"], row["payload"], row["sequence"] == last)


async def _compress(data: bytes) -> bytes:
    if len(data) < _TO_THREAD:
        return zlib.compress(data, 1)
    return await asyncio.to_thread(zlib.compress, data, 1)


async def _unfold(data: bytes) -> list[Entry]:
    if len(data) < _TO_THREAD:
        return decode(zlib.decompress(data))
    return await asyncio.to_thread(lambda: decode(zlib.decompress(data)))
