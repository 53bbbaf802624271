"""Fixtures of the whole suite: one real PostgreSQL, one real Redis server, fresh space per test.

postgres_dsn      str  a new, empty database, entered as its owner, the plain role `peregrine`
migrated_dsn      str  a database that has the tables of every component, as good as new
superuser_dsn     str  the database of `postgres_dsn`, entered as the superuser
                       (`tests.support.dsn.as_superuser(dsn)` does it for any test DSN)
redis_url         str  an empty Redis database; PEREGRINE_TEST_REDIS_URL names another server to use
                       (for example Redis 7; its databases 1-15 are emptied)
redis_server      RedisServer  a private server: `.url()`, `await .kill()`, `.restart(empty=...)`
postgres_server   PostgresServer  the session's server: `.create_database(name)`, `.dsn(name)`
databases         Databases  of that server: `async with databases.filled(kind, fill) as dsn`
children          Children  spawn programs that end with the test: `children.spawn(...)`

In tests/support: `eventually` (bounded waiting), `fault_proxy` (cut, stall, delay; for PostgreSQL:
`fault_proxy(socket_path(dsn))` and `through(dsn, proxy.address)`), `free_port`.
"""

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import pytest
import pytest_asyncio

from peregrine.kit import postgres
from peregrine.local import migrations, servers
from peregrine.local.processes import Children
from peregrine.local.servers import PostgresServer, RedisServer
from tests.support import logs
from tests.support.databases import Databases
from tests.support.dsn import as_superuser
from tests.support.redis import flush

_redis_numbers = itertools.cycle(range(1, 16))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A program that was started inside a test leaves no logging to the tests after it."""
    with logs.as_before():
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_children() -> AsyncIterator[Children]:
    async with Children(grace=10.0) as children:
        yield children


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(
    session_children: Children, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PostgresServer]:
    directory = tmp_path_factory.mktemp("postgres")
    async with servers.postgres(
        session_children,
        directory=directory / "pg",
        log_path=directory / "postgres.log",
        durable=False,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Databases:
    return Databases(postgres_server)


@pytest.fixture
async def postgres_dsn(databases: Databases) -> AsyncIterator[str]:
    async with databases.empty() as dsn:
        yield dsn


@pytest.fixture
async def migrated_dsn(databases: Databases) -> AsyncIterator[str]:
    async with databases.filled("migrated", _migrate) as dsn:
        yield dsn


async def _migrate(dsn: str) -> None:
    await postgres.migrate(dsn, migrations.COMPONENTS)


@pytest.fixture
def superuser_dsn(postgres_dsn: str) -> str:
    return as_superuser(postgres_dsn)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_redis_url(
    session_children: Children, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    if url := os.environ.get("PEREGRINE_TEST_REDIS_URL"):
        yield url
        return
    directory = tmp_path_factory.mktemp("redis")
    async with servers.redis(
        session_children, directory=directory / "data", log_path=directory / "redis.log"
    ) as server:
        yield server.url()


@pytest.fixture
async def redis_url(session_redis_url: str) -> str:
    # A number of its own, so that a straggler of the test before cannot write into this one.
    parts = urlsplit(session_redis_url)
    number = str(next(_redis_numbers))
    if parts.scheme == "unix":
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        url = urlunsplit(parts._replace(query=urlencode(query | {"db": number})))
    else:
        url = urlunsplit(parts._replace(path=f"/{number}"))
    await flush(url)
    return url


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    async with Children(grace=5.0) as children:
        yield children


@pytest.fixture
async def redis_server(children: Children, tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with servers.redis(
        children, directory=tmp_path / "redis", log_path=tmp_path / "redis.log"
    ) as server:
        yield server
