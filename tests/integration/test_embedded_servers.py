"""The embedded servers and the fixtures on top of them do what they promise."""

import asyncio

import asyncpg
import pytest
import redis.asyncio

from peregrine.local.servers import RedisServer
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy


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
