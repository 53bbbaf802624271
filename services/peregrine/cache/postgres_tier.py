"""The third tier: PostgreSQL, one row per entry under row-level security."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

from peregrine.cache.entry import Address, Entry
from peregrine.cache.tier import Away, Guard, Reasons, Refused, within
from peregrine.kit.context import Identity
from peregrine.kit.errors import DeadlineExceeded, Unavailable
from peregrine.kit.postgres import ALL_TENANTS, Database, DatabaseError

NAME = "postgres"
REASONS = Reasons(away="POSTGRES_UNAVAILABLE", slow="POSTGRES_TIMEOUT")

READ = """
SELECT k.n, e.body
FROM unnest($2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS k (user_id, namespace, key, n)
JOIN cache.entries e ON e.tenant = $1 AND e.user_id = k.user_id
    AND e.namespace = k.namespace AND e.key = k.key
"""
_PUT = "SELECT cache.put_entry($1, $2, $3, $4, $5, $6, $7, $8)"
_BYTES = """
SELECT namespace, sum(octet_length(body)) AS bytes FROM cache.entries
WHERE tenant = $1 AND namespace = ANY($2) GROUP BY namespace
"""
_EXPIRE = """
DELETE FROM cache.entries WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM cache.entries WHERE expire_time < now()
    ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED))
"""
_AT_ONCE = 16
_STATS_SECONDS = 2.0


class PostgresTier:
    def __init__(self, database: Database, *, guard: Guard) -> None:
        self._database = database
        self._guard = guard

    async def read(
        self, who: Identity, addresses: Sequence[Address], *, max_bytes: int
    ) -> list[bytes | None]:
        """The frames there are, until they are `max_bytes` together. Raises `Away`."""
        frames: list[bytes | None] = [None] * len(addresses)
        size = 0
        for start in range(0, len(addresses), _AT_ONCE):
            if size >= max_bytes:
                break
            some = addresses[start : start + _AT_ONCE]
            rows = await self._guard.run("read", partial(self._read, who, some))
            for number, frame in rows:
                frames[start + number] = frame
                size += len(frame)
        return frames

    async def put(
        self, who: Identity, address: Address, frame: bytes, entry: Entry, *, until: float
    ) -> None:
        """Keeps the frame, until about `until` (seconds since 1970). Raises `Away`, `Refused`."""
        await self._guard.run("write", partial(self._put, who, address, frame, entry, until))

    async def bytes_of(self, tenant: str, namespaces: Sequence[str]) -> dict[str, int]:
        """Of the frames of a tenant. Raises `Away`, `Refused`."""
        self._guard.check()
        async with (
            _asked(),
            self._database.transaction(ALL_TENANTS, timeout=_STATS_SECONDS) as conn,
        ):
            rows = await conn.fetch("cache_bytes", _BYTES, tenant, list(namespaces))
        return {row["namespace"]: int(row["bytes"]) for row in rows}

    async def size(self) -> int:
        """Bytes that everybody's entries take on the disk. Raises `Away`, `Refused`."""
        self._guard.check()
        async with (
            _asked(),
            self._database.transaction(ALL_TENANTS, timeout=_STATS_SECONDS) as conn,
        ):
            return int(
                await conn.fetchval("cache_size", "SELECT pg_total_relation_size('cache.entries')")
            )

    async def _read(self, who: Identity, some: Sequence[Address]) -> list[tuple[int, bytes]]:
        async with (
            _asked(),
            self._database.transaction(
                who.tenant, user=who.user, timeout=self._guard.limit
            ) as conn,
        ):
            rows = await conn.fetch(
                "cache_read",
                READ,
                who.tenant,
                [each.user for each in some],
                [each.namespace for each in some],
                [each.key for each in some],
            )
        return [(row["n"] - 1, row["body"]) for row in rows]

    async def _put(
        self, who: Identity, address: Address, frame: bytes, entry: Entry, until: float
    ) -> None:
        async with (
            _asked(),
            self._database.transaction(
                who.tenant, user=who.user, timeout=self._guard.limit
            ) as conn,
        ):
            await conn.execute(
                "cache_put",
                _PUT,
                address.tenant,
                address.user,
                address.namespace,
                address.key,
                entry.version,
                datetime.fromtimestamp(until, UTC),
                list(entry.tags),
                frame,
            )


def probe(database: Database, *, limit: float) -> Callable[[], Awaitable[bool]]:
    """A transaction that does nothing, within a read's time."""

    async def answers() -> bool:
        try:
            await within(limit, partial(_empty_transaction, database))
        except (Away, TimeoutError):
            return False
        return True

    return answers


async def _empty_transaction(database: Database) -> None:
    async with _asked(), database.transaction(ALL_TENANTS):
        pass


@asynccontextmanager
async def _asked() -> AsyncIterator[None]:
    try:
        yield
    except Unavailable as error:
        if error.reason == REASONS.slow:
            raise TimeoutError from error
        raise Away(REASONS.away) from error
    except DeadlineExceeded as error:
        raise TimeoutError from error
    except DatabaseError as error:
        raise Refused(type(error).__name__) from error


async def expire(database: Database, *, limit: int) -> int:
    """Deletes entries of everybody whose time is over; returns how many."""
    async with database.transaction(ALL_TENANTS) as conn:
        tag = await conn.execute("cache_expire", _EXPIRE, limit)
    return int(tag.rpartition(" ")[2])
