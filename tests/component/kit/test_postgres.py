"""Transactions against a real PostgreSQL: tenants, deadlines, cancellation, lost connections."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit import context, postgres
from peregrine.kit.context import Identity
from peregrine.kit.errors import (
    DeadlineExceeded,
    Internal,
    PeregrineError,
    StartRefused,
    Unavailable,
)
from peregrine.kit.migrations import FOUNDATION
from peregrine.kit.postgres import ALL_TENANTS, Connection, Database, UnsafeRole
from peregrine.kit.settings import Secret
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy

SETTINGS = (
    "SELECT current_setting('peregrine.tenant', true), current_setting('peregrine.user', true)"
)
NOTES = """
CREATE TABLE notes (tenant text NOT NULL, owner text NOT NULL DEFAULT '', text text NOT NULL);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (
    tenant = current_setting('peregrine.tenant', true)
    OR current_setting('peregrine.tenant', true) = '*'
);
"""


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(postgres_dsn, size=4) as database:
        yield database


@pytest.fixture
async def proxied(postgres_dsn: str) -> AsyncIterator[tuple[Database, FaultProxy]]:
    """A database behind a proxy that cuts and stalls."""
    async with fault_proxy(socket_path(postgres_dsn)) as proxy:
        database = await Database.connect(through(postgres_dsn, proxy.address), size=2)
        yield database, proxy
        proxy.resume()
        await database.close(timeout=1)


async def texts(conn: Connection) -> list[str]:
    return [row["text"] for row in await conn.fetch("texts", "SELECT text FROM notes ORDER BY 1")]


async def test_a_tenant_sees_its_own_rows_only(database: Database) -> None:
    async with database.transaction(ALL_TENANTS) as conn:
        await conn.execute("schema", NOTES)
    for tenant in ("acme", "zeta"):
        async with database.transaction(tenant) as conn:
            await conn.execute(
                "add", "INSERT INTO notes (tenant, text) VALUES ($1, $2)", tenant, f"of {tenant}"
            )
    async with database.transaction("acme") as conn:
        assert await texts(conn) == ["of acme"]
        with pytest.raises(postgres.InsufficientPrivilege):
            await conn.execute("add", "INSERT INTO notes (tenant, text) VALUES ('zeta', 'x')")
        await conn.execute("end", "ROLLBACK; BEGIN")
    async with database.transaction(ALL_TENANTS) as conn:
        assert await texts(conn) == ["of acme", "of zeta"]


async def test_nothing_of_a_transaction_is_left_on_its_connection(postgres_dsn: str) -> None:
    async with await Database.connect(postgres_dsn, size=1) as database:
        with context.bind(identity=Identity("acme", "bob")):
            async with database.transaction("acme") as conn:
                assert tuple(await conn.fetchrow("see", SETTINGS) or ()) == ("acme", "bob")
            async with database.transaction("zeta") as conn:
                assert tuple(await conn.fetchrow("see", SETTINGS) or ()) == ("zeta", "")
        async with database.transaction("acme", user="eve") as conn:
            assert tuple(await conn.fetchrow("see", SETTINGS) or ()) == ("acme", "eve")
        with pytest.raises(ValueError, match="out"):
            async with database.transaction("acme"):
                raise ValueError("out")
        raw = await database._pool.acquire()
        assert tuple(await raw.fetchrow(SETTINGS)) == ("", "")
        await database._pool.release(raw)


async def test_a_name_that_could_break_out_never_reaches_the_server(database: Database) -> None:
    for name in ("", "*", "a'; DROP TABLE notes; --", "A", "a" * 64, "a\\", "é", "a\n"):
        with pytest.raises(ValueError, match="not a name"):
            async with database.transaction(name):
                raise AssertionError("entered")
        if name:
            with pytest.raises(ValueError, match="not a name"):
                async with database.transaction("acme", user=name):
                    raise AssertionError("entered")


async def test_a_transaction_opens_in_one_round_trip_and_ends_in_one(
    postgres_dsn: str,
) -> None:
    sent: list[int] = []

    class Counting(FaultProxy):
        async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65_536):
                sent.append(len(chunk))
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()

    proxy = Counting(socket_path(postgres_dsn))
    await proxy.open()
    try:
        async with await Database.connect(through(postgres_dsn, proxy.address), size=1) as database:
            async with database.transaction("acme"):
                pass
            sent.clear()
            async with database.transaction("acme"):
                pass
            # Each round trip is one chunk there and one back.
            assert len(sent) == 4
    finally:
        await proxy.close()


async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    async with database.transaction(ALL_TENANTS) as conn:
        await conn.execute("schema", NOTES)
    with pytest.raises(KeyError):
        async with database.transaction("acme") as conn:
            await conn.execute("add", "INSERT INTO notes (tenant, text) VALUES ('acme', 'x')")
            raise KeyError
    async with database.transaction("acme") as conn:
        assert await texts(conn) == []


async def noted(postgres_dsn: str, text: str, ready: Callable[[], Awaitable[None]]) -> None:
    async with await Database.connect(postgres_dsn, size=1) as database:
        await database.call("note", "take_note", text, tenant="acme", ready=ready)
        async with database.transaction("acme") as conn:
            assert await conn.fetchval("clean", "SELECT count(*) FROM notes") >= 1


TAKE_NOTE = """
CREATE FUNCTION take_note(a_tenant text, a_user text, a_text text) RETURNS SETOF notes
LANGUAGE sql AS 'INSERT INTO notes (tenant, text) VALUES (a_tenant, a_text) RETURNING *';
"""


async def test_a_call_is_committed_when_what_it_waits_for_has_come(
    postgres_dsn: str, database: Database
) -> None:
    async with database.transaction(ALL_TENANTS) as conn:
        await conn.execute("schema", FOUNDATION + NOTES + TAKE_NOTE)
    asked, come = asyncio.Event(), asyncio.Event()

    async def ready() -> None:
        asked.set()
        await come.wait()

    async def fails() -> None:
        raise LookupError("it does not come")

    calling = asyncio.create_task(noted(postgres_dsn, "kept", ready))
    await asyncio.wait_for(asked.wait(), 10)
    async with database.transaction("acme") as conn:
        assert await texts(conn) == []
    come.set()
    await calling
    with pytest.raises(LookupError):
        await noted(postgres_dsn, "void", fails)
    async with database.transaction("acme") as conn:
        assert await texts(conn) == ["kept"]


async def test_a_failed_statement_that_was_swallowed_is_not_taken_for_a_commit(
    database: Database,
) -> None:
    with pytest.raises(Internal) as caught:
        async with database.transaction("acme") as conn:
            with pytest.raises(postgres.DatabaseError):
                await conn.execute("bad", "SELECT * FROM nowhere")
    assert caught.value.reason == "TRANSACTION_FAILED"


async def test_a_cancelled_statement_leaves_a_clean_connection(postgres_dsn: str) -> None:
    async with await Database.connect(postgres_dsn, size=1) as database:
        for turns in range(40):
            entered = asyncio.Event()

            async def work(entered: asyncio.Event = entered) -> None:
                async with database.transaction("acme") as conn:
                    entered.set()
                    await conn.fetchval("slow", "SELECT pg_sleep(30)")

            task = asyncio.create_task(work())
            if turns >= 20:
                await entered.wait()
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with database.transaction("zeta") as conn:
                assert await conn.fetchval("n", "SELECT $1::int", turns) == turns
                assert await conn.fetchval("who", "SELECT current_setting('peregrine.tenant')") == (
                    "zeta"
                )


async def test_a_cancelled_statement_is_ended_on_the_server(database: Database) -> None:
    async def work() -> None:
        async with database.transaction("acme", timeout=60) as conn:
            await conn.fetchval("slow", "SELECT pg_sleep(30), 'marker'")

    async def running() -> int:
        async with database.transaction(ALL_TENANTS) as conn:
            count: int = await conn.fetchval(
                "running",
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE state = 'active' AND query LIKE '%marker%' AND pid <> pg_backend_pid()",
            )
            return count

    async def is_running() -> bool:
        return await running() == 1

    async def is_gone() -> bool:
        return await running() == 0

    task = asyncio.create_task(work())
    await eventually(is_running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(is_gone, timeout=3)


async def test_waiting_for_a_connection_has_a_deadline(postgres_dsn: str) -> None:
    async with await Database.connect(postgres_dsn, size=1) as database:
        async with database.transaction("acme"):
            with pytest.raises(Unavailable) as caught:
                async with database.transaction("zeta", timeout=0.1):
                    raise AssertionError("entered")
        assert (caught.value.reason, caught.value.retry_after) == ("POSTGRES_TIMEOUT", 1.0)
        async with database.transaction("zeta"):
            pass


async def test_the_callers_deadline_counts_when_it_is_shorter(database: Database) -> None:
    with context.bind(timeout=0.1), pytest.raises(DeadlineExceeded):
        async with database.transaction("acme", timeout=30) as conn:
            await conn.execute("slow", "SELECT pg_sleep(30)")


async def test_a_timeout_of_the_block_itself_is_not_mistaken_for_the_databases(
    database: Database,
) -> None:
    with pytest.raises(TimeoutError):
        async with database.transaction("acme"):
            raise TimeoutError


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(
    proxied: tuple[Database, FaultProxy],
) -> None:
    database, proxy = proxied
    with pytest.raises(Unavailable) as caught:
        async with database.transaction("acme") as conn:
            proxy.cut()
            await conn.fetchval("one", "SELECT 1")
    assert (caught.value.reason, caught.value.retry_after) == ("POSTGRES_UNAVAILABLE", 1.0)
    with pytest.raises(Unavailable):
        async with database.transaction("acme"):
            raise AssertionError("entered")
    proxy.resume()

    async def works() -> bool:
        try:
            async with database.transaction("acme") as conn:
                return bool(await conn.fetchval("one", "SELECT 1") == 1)
        except Unavailable:
            return False

    await eventually(works)


async def test_a_server_that_went_silent_costs_no_more_than_the_timeout(
    proxied: tuple[Database, FaultProxy],
) -> None:
    database, proxy = proxied
    loop = asyncio.get_running_loop()
    proxy.stall()
    began = loop.time()
    with pytest.raises(Unavailable) as caught:
        async with database.transaction("acme", timeout=0.2):
            raise AssertionError("entered")
    assert caught.value.reason == "POSTGRES_TIMEOUT"
    assert loop.time() - began < 1
    proxy.resume()

    async def works() -> bool:
        async with database.transaction("acme") as conn:
            return bool(await conn.fetchval("one", "SELECT 1") == 1)

    await eventually(works)


async def test_a_transaction_whose_process_froze_is_ended_by_the_server(postgres_dsn: str) -> None:
    async with await Database.connect(postgres_dsn, size=1, idle_in_transaction=0.1) as database:
        with pytest.raises(Unavailable):
            async with database.transaction("acme") as conn:
                await eventually(lambda: postgres._closed(conn._raw))
                await conn.fetchval("one", "SELECT 1")


async def test_a_superuser_is_refused_in_one_clear_line(superuser_dsn: str) -> None:
    with pytest.raises(UnsafeRole) as caught:
        await Database.connect(superuser_dsn)
    message = str(caught.value)
    assert "is a superuser" in message
    assert "connect with a plain role" in message
    assert "\n" not in message


async def test_a_role_with_bypassrls_is_refused(postgres_dsn: str, superuser_dsn: str) -> None:
    import asyncpg

    admin = await asyncpg.connect(superuser_dsn)
    try:
        await admin.execute("DROP ROLE IF EXISTS bypasser; CREATE ROLE bypasser LOGIN BYPASSRLS")
        dsn = postgres_dsn.replace("//peregrine@", "//bypasser@")
        with pytest.raises(UnsafeRole, match="'bypasser' has BYPASSRLS"):
            await Database.connect(dsn)
    finally:
        await admin.execute("DROP ROLE IF EXISTS bypasser")
        await admin.close()


async def test_a_dsn_that_cannot_work_says_why_without_showing_it(postgres_dsn: str) -> None:
    cases: list[tuple[str, type[PeregrineError], str]] = [
        ("nonsense", StartRefused, "malformed"),
        ("postgresql://u:hunter2@h:x/db", StartRefused, "malformed"),
        (postgres_dsn.replace("//peregrine@", "//nobody@"), StartRefused, "nobody"),
        (postgres_dsn.replace("/test_", "/no_such_"), StartRefused, "no_such_"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", Unavailable, "cannot be reached"),
    ]
    for dsn, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            await Database.connect(Secret(dsn))
        assert "hunter2" not in str(caught.value)


async def test_statements_are_timed_by_name(postgres_dsn: str) -> None:
    registry = CollectorRegistry()
    async with await Database.connect(postgres_dsn, registry=registry) as database:
        async with database.transaction("acme") as conn:
            await conn.fetchval("one", "SELECT 1")
            await conn.executemany("many", "SELECT $1::int", [(1,), (2,)])
        for name, count in {"one": 1, "many": 1, "commit": 2, "role_check": 1}.items():
            labels = {"statement": name}
            assert registry.get_sample_value("peregrine_db_query_seconds_count", labels) == count


async def test_closing_waits_for_transactions_but_not_for_ever(postgres_dsn: str) -> None:
    database = await Database.connect(postgres_dsn, size=1)
    with pytest.raises(Unavailable):
        async with database.transaction("acme") as conn:
            await database.close(timeout=0.1)
            await conn.fetchval("one", "SELECT 1")


async def test_a_connection_that_the_server_said_goodbye_to_is_a_lost_one(
    postgres_dsn: str,
) -> None:
    """Between the server's last words and the end of the connection the driver knows neither."""
    goodbye = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    async with await Database.connect(postgres_dsn, size=1) as database:

        async def one() -> object:
            async with database.transaction("acme") as conn:
                return await conn.fetchval("one", "SELECT 1")

        async with database.transaction("acme") as conn:
            protocol = conn._raw._protocol
        protocol.data_received(b"E" + struct.pack(">i", len(goodbye) + 4) + goodbye)
        with pytest.raises(Unavailable) as lost:
            await one()
        assert lost.value.reason == "POSTGRES_UNAVAILABLE"
        assert await one() == 1, "and nobody gets that connection again"
