"""The rows in PostgreSQL: read by their index, and swept when their time is over."""

import re
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from peregrine.cache import postgres_tier
from peregrine.cache.expiry import Expiry
from peregrine.cache.feed_store import FeedStore
from peregrine.kit.background import Failures
from peregrine.kit.postgres import Database

_FILL = (
    "INSERT INTO cache.entries SELECT 'acme', $1, 'ns', int8send(n), n, "
    "now() + (n - $3::int) * interval '1 minute', '{}', 'x' FROM generate_series(1, $2::int) n"
)


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(migrated_dsn, size=2) as database:
        yield database


async def fill(database: Database, user: str, rows: int, over: int) -> None:
    """`over` of the rows are past their time."""
    async with database.transaction("acme", user=user or "ada", timeout=60) as conn:
        await conn.execute("fill", _FILL, user, rows, over)
        await conn.execute("analyze", "ANALYZE cache.entries")


async def count(database: Database, user: str) -> int:
    async with database.transaction("acme", user=user) as conn:
        return int(await conn.fetchval("count", "SELECT count(*) FROM cache.entries"))


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("asked", [1, 16])
async def test_reads_use_the_index_however_many_rows_there_are(
    database: Database, mode: str, asked: int
) -> None:
    for user in ("", "ada", "bob"):
        await fill(database, user, 5_000, 0)
    keys = [number.to_bytes(8, "big") for number in range(1, asked + 1)]
    async with database.transaction("acme", user="ada") as conn:
        await conn.execute("mode", f"SET LOCAL plan_cache_mode = {mode}")
        rows = await conn.fetch(
            "explain",
            f"EXPLAIN (ANALYZE, TIMING OFF) {postgres_tier.READ}",
            "acme",
            ["ada"] * asked,
            ["ns"] * asked,
            keys,
        )
    plan = "\n".join(row[0] for row in rows)
    assert "entries_pkey" in plan and "Seq Scan" not in plan, plan
    # Of every loop: at most the row asked for, and none thrown away.
    assert not re.findall(r"Rows Removed by Filter: [1-9]", plan), plan


async def test_rows_whose_time_is_over_are_swept_of_everybody_and_no_others(
    database: Database,
) -> None:
    for user in ("", "ada", "bob"):
        await fill(database, user, 700, 600)
    registry = CollectorRegistry()
    expiry = Expiry(
        database=database,
        feed=FeedStore(database),
        interval=60,
        registry=registry,
        failures=Failures(registry).of("expiry"),
    )
    swept = await expiry.sweep()
    assert 3 * 599 <= swept <= 3 * 600
    assert registry.get_sample_value("peregrine_cache_expired_total") == swept
    assert 200 <= await count(database, "ada") <= 202  # her own and the tenant's
    assert await expiry.sweep() == 0


async def test_a_user_sees_the_rows_of_the_tenant_and_her_own(database: Database) -> None:
    for user in ("", "ada", "bob"):
        await fill(database, user, 10, 0)
    assert await count(database, "ada") == 20
    async with database.transaction("umbrella", user="ada") as conn:
        assert await conn.fetchval("count", "SELECT count(*) FROM cache.entries") == 0
