"""Which keys were asked for most in the last day: what a cold cache is warmed with.

Each replica counts in a summary of bounded size, and twice a minute adds what it counted to the row
of key and hour in PostgreSQL. Counting must cost a lookup next to nothing, so a lookup only counts;
from what a value can be computed anew is remembered when it was stored.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter

from peregrine.cache.entry import Address
from peregrine.cache.sketch import Frequent
from peregrine.kit.context import Identity
from peregrine.kit.postgres import ALL_TENANTS, Database, Record
from peregrine.kit.repeating import repeat

MAX_SOURCE_BYTES = 4 * 1024

_KEYS = 5_000
_ROWS = 2_000
_SOURCES = 2 * _KEYS
_EVERY_SECONDS = 30.0
_WRITE_SECONDS = 10.0

_ADD = """
INSERT INTO cache.frequencies AS f (tenant, namespace, hour, user_id, key, count, source)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::bytea[],
    $6::bigint[], $7::bytea[])
ON CONFLICT (tenant, namespace, hour, user_id, key) DO UPDATE
    SET count = f.count + EXCLUDED.count,
        source = CASE WHEN EXCLUDED.source = '' THEN f.source ELSE EXCLUDED.source END
"""
_MOST = """
SELECT user_id, key, sum(count) AS count, max(source) AS source FROM cache.frequencies
WHERE tenant = $1 AND namespace = $2 AND hour > $3::timestamptz - interval '24 hours'
GROUP BY user_id, key ORDER BY 3 DESC, key LIMIT $4
"""
_MOST_SHARED = """
SELECT user_id, key, sum(count) AS count, max(source) AS source FROM cache.frequencies
WHERE tenant = $1 AND namespace = $2 AND hour > $3::timestamptz - interval '24 hours'
    AND user_id = ''
GROUP BY user_id, key ORDER BY 3 DESC, key LIMIT $4
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key worth having, and from what it is computed."""

    address: Address
    source: bytes


class Frequencies:
    """`failures` counts what could not be stored. `now`: seconds since 1970."""

    def __init__(
        self,
        *,
        database: Database,
        failures: Counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._now = now
        self._frequent: Frequent[Address] = Frequent(_KEYS)
        self._sources: OrderedDict[Address, bytes] = OrderedDict()
        self._failures = failures

    def count(self, address: Address, times: int = 1) -> None:
        self._frequent.count(address, times)

    def remember(self, address: Address, source: bytes) -> None:
        """From what the value of a key is computed."""
        self._sources[address] = source
        self._sources.move_to_end(address)
        if len(self._sources) > _SOURCES:
            self._sources.popitem(last=False)

    async def flush(self) -> int:
        """Adds what was counted to the rows; returns how many. What cannot be stored is lost.

        Raises what `Database.transaction` raises.
        """
        counts = self._frequent.take()
        most = sorted(counts.items(), key=lambda each: each[1], reverse=True)[:_ROWS]
        # In one order everywhere, so that two replicas never wait for each other.
        most.sort(key=lambda each: each[0].redis_key)
        if not most:
            return 0
        hour = datetime.fromtimestamp(self._now() // 3600 * 3600, UTC)
        async with self._database.transaction(ALL_TENANTS, timeout=_WRITE_SECONDS) as conn:
            await conn.execute(
                "cache_frequencies_add",
                _ADD,
                [each.tenant for each, _ in most],
                [each.namespace for each, _ in most],
                [hour] * len(most),
                [each.user for each, _ in most],
                [each.key for each, _ in most],
                [count for _, count in most],
                [self._sources.get(each, b"") for each, _ in most],
            )
        return len(most)

    async def most(self, who: Identity, namespace: str, limit: int) -> list[Wanted]:
        """Of the tenant's shared keys and the caller's own."""
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            rows = await conn.fetch("cache_most", _MOST, *self._args(who.tenant, namespace, limit))
        return _wanted(who.tenant, namespace, rows)

    async def most_shared(self, tenant: str, namespace: str, limit: int) -> list[Wanted]:
        """Of the tenant's shared keys, for a replica that warms itself."""
        async with self._database.transaction(ALL_TENANTS) as conn:
            args = self._args(tenant, namespace, limit)
            rows = await conn.fetch("cache_most_shared", _MOST_SHARED, *args)
        return _wanted(tenant, namespace, rows)

    async def tenants(self, namespace: str) -> list[str]:
        """Whose keys were counted in a namespace."""
        async with self._database.transaction(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "cache_counted_tenants",
                "SELECT DISTINCT tenant FROM cache.frequencies WHERE namespace = $1",
                namespace,
            )
        return [row["tenant"] for row in rows]

    async def run(self) -> None:
        await repeat(
            self.flush,
            every=_EVERY_SECONDS,
            failures=self._failures,
            failed="frequencies_not_stored",
        )

    def _args(self, tenant: str, namespace: str, limit: int) -> tuple[str, str, datetime, int]:
        return tenant, namespace, datetime.fromtimestamp(self._now(), UTC), limit


def _wanted(tenant: str, namespace: str, rows: list[Record]) -> list[Wanted]:
    return [
        Wanted(Address(tenant, row["user_id"], namespace, row["key"]), row["source"])
        for row in rows
    ]
