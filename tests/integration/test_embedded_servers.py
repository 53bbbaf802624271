"""The embedded servers and the fixtures on top of them do what they promise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import redis.asyncio

from peregrine.local.servers import RedisServer
from tests.support.databases import Databases
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy

NUMBER = "SELECT oid::int FROM pg_database WHERE datname = current_database()"
LOOKS = (
    "SELECT array_agg(a::text) FROM a",
    "SELECT count(*) FROM b",
    "SELECT nextval('s') || ' ' || nextval('t')",
    "SELECT count(*) FROM pg_stats WHERE tablename = 'a'",
)


async def test_the_plain_role_owns_its_database_and_is_bound_by_row_level_security(
    postgres_dsn: str,
) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    try:
        role = await connection.fetchrow(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles"
            " WHERE rolname = current_user"
        )
        assert tuple(role) == ("peregrine", False, False, False)
        await connection.execute("CREATE SCHEMA mine; CREATE TABLE mine.t (x int)")
    finally:
        await connection.close()


async def test_a_superuser_dsn_names_the_same_database(
    postgres_dsn: str, superuser_dsn: str
) -> None:
    plain, super_ = await asyncpg.connect(postgres_dsn), await asyncpg.connect(superuser_dsn)
    try:
        here = await plain.fetchval("SELECT current_database()")
        assert await super_.fetchval("SELECT current_database()") == here
        assert await super_.fetchval("SELECT current_setting('is_superuser')") == "on"
    finally:
        await plain.close()
        await super_.close()


async def test_a_database_comes_back_as_it_was_and_under_another_name(
    databases: Databases,
) -> None:
    async def fill(dsn: str) -> None:
        await execute(
            dsn,
            "CREATE TABLE a (x int PRIMARY KEY, j jsonb); CREATE TABLE b (x int REFERENCES a);"
            " CREATE SEQUENCE s; CREATE SEQUENCE t START 7; SELECT nextval('s');"
            """ INSERT INTO a VALUES (1, '{"k": [1]}')""",
        )

    found, numbers = [], []
    for _ in range(2):
        async with databases.filled("comes back", fill) as dsn:
            numbers.append(await value(dsn, NUMBER))
            found.append([await value(dsn, query) for query in LOOKS])
            straggler = await asyncpg.connect(dsn)
            await straggler.execute(
                "INSERT INTO a VALUES (2, NULL); INSERT INTO b VALUES (2); ANALYZE a"
            )
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await straggler.fetchval("SELECT 1")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(dsn)
    assert found == [[['(1,"{""k"": [1]}")'], 0, "2 7", 0]] * 2
    assert len(set(numbers)) == 1


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE c ADD y int", "DROP TABLE c", "BEGIN; ALTER TABLE c ADD y int; ROLLBACK"],
)
async def test_a_database_whose_schema_was_touched_is_not_lent_again(
    databases: Databases, change: str
) -> None:
    async def fill(dsn: str) -> None:
        await execute(dsn, "CREATE TABLE c (x int)")

    numbers = set()
    for _ in range(2):
        async with databases.filled("touched", fill) as dsn:
            numbers.add(await value(dsn, NUMBER))
            await execute(dsn, change)
    assert len(numbers) == 2


async def execute(dsn: str, script: str) -> None:
    async with entered(dsn) as connection:
        await connection.execute(script)


async def value(dsn: str, query: str) -> object:
    async with entered(dsn) as connection:
        return await connection.fetchval(query)


@asynccontextmanager
async def entered(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_every_test_finds_redis_empty(redis_url: str, turn: str) -> None:
    client = redis.asyncio.from_url(redis_url)
    try:
        assert await client.dbsize() == 0
        await client.set("left behind", turn)
    finally:
        await client.aclose()


async def test_a_private_redis_keeps_its_data_over_a_restart_and_can_lose_it(
    redis_server: RedisServer,
) -> None:
    client = redis.asyncio.from_url(redis_server.url())
    try:
        await client.set("kept", "yes")
        await redis_server.stop()
        await redis_server.restart()
        assert await client.get("kept") == b"yes"
        await redis_server.kill()
        with pytest.raises(redis.asyncio.ConnectionError):
            await client.get("kept")
        await redis_server.restart(empty=True)
        assert await client.get("kept") is None
    finally:
        await client.aclose()


async def test_the_fault_proxy_passes_stalls_and_cuts_a_postgres_connection(
    postgres_dsn: str,
) -> None:
    async with fault_proxy(socket_path(postgres_dsn)) as proxy:
        connection = await asyncpg.connect(through(postgres_dsn, proxy.address))
        assert await connection.fetchval("SELECT 1") == 1
        proxy.stall()
        query = asyncio.create_task(connection.fetchval("SELECT 2"))
        done, _ = await asyncio.wait([query], timeout=0.05)
        assert not done
        proxy.resume()
        assert await asyncio.wait_for(query, 5) == 2
        proxy.cut()
        await eventually(lambda: proxy.connections == 0)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 3")
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await asyncpg.connect(through(postgres_dsn, proxy.address), timeout=5)
