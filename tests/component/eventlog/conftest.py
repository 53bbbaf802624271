"""Several processes in one: each one an EventLog with its own pool and Redis client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from peregrine.kit import redis
from peregrine.kit.eventlog import Also, Entry, EventLog, Recovered, Writer
from peregrine.kit.postgres import Database, migrate
from tests.support.databases import Databases
from tests.support.eventually import eventually

TENANT = "acme"


class Process:
    """One process's EventLog, and the ways in which a process can end."""

    def __init__(self, log: EventLog, db: Database) -> None:
        self.log = log
        self.db = db
        self._crashed = False

    async def create(self, tenant: str = TENANT) -> Writer:
        return await self.log.create(tenant=tenant, log_id=uuid4())

    def crash(self) -> None:
        """Stops like a killed process: nothing more is sent, no lease is let go."""
        self._crashed = True
        for task in self.log._tasks:
            task.cancel()

    async def close(self) -> None:
        # A crashed one has nobody left who could flush: there is nothing to wait for.
        await self.log.close(timeout=0.01 if self._crashed else 5.0)

    async def take_over(self, log_id: UUID) -> Recovered:
        async def claimed() -> Any:
            return [claim for claim in await self.log.claim_expired(10) if claim.log_id == log_id]

        (claim,) = await eventually(claimed)
        return await self.log.recover(claim)

    async def read(self, writer: Writer, **options: Any) -> list[Entry]:
        entries: list[Entry] = []
        async with asyncio.timeout(20):
            async for batch in self.log.read(tenant=writer.tenant, log_id=writer.log_id, **options):
                entries += batch
        return entries


class Cluster:
    def __init__(self, stack: AsyncExitStack, dsn: str, redis_url: str) -> None:
        self._stack = stack
        self.dsn = dsn
        self.redis_url = redis_url
        self._number = 0

    async def process(
        self, *, dsn: str | None = None, redis_url: str | None = None, **options: Any
    ) -> Process:
        self._number += 1
        db = await Database.connect(dsn or self.dsn, size=4)
        self._stack.push_async_callback(db.close)
        client = redis.connect(redis_url or self.redis_url)
        self._stack.push_async_callback(redis.close, client)
        settings = {"lease_seconds": 0.6, "renew_seconds": 0.2, **options}
        log = EventLog(owner=f"process-{self._number}", db=db, redis=client, **settings)
        await log.start()
        process = Process(log, db)
        self._stack.push_async_callback(process.close)
        return process


# What a caller may add to a finish. `added` holds what was committed with it.
_ENDINGS = """
CREATE TABLE added (note text);
CREATE FUNCTION settle_and(
    a_tenant text, a_user text, a_log uuid, a_epoch bigint, a_durable bigint, a_last bigint,
    a_finished boolean, a_released boolean, a_lease float8, a_retention float8,
    a_sequences bigint[], a_entry_epochs bigint[], a_payloads bytea[], a_what text,
    OUT moved boolean
) LANGUAGE plpgsql AS $$
BEGIN
    moved := eventlog.settle(a_tenant, a_user, a_log, a_epoch, a_durable, a_last, a_finished,
        a_released, a_lease, a_retention, a_sequences, a_entry_epochs, a_payloads);
    IF moved THEN
        INSERT INTO added VALUES (a_what);
        IF a_what = 'refuse' THEN
            RAISE EXCEPTION 'no';
        ELSIF a_what = 'wait' THEN
            PERFORM pg_advisory_xact_lock(1);
        END IF;
    END IF;
END $$;
"""


def ending(what: str) -> Also:
    """'refuse' raises, 'wait' waits for advisory lock 1, anything else is only noted."""
    return Also(function="settle_and", args=(what,), user="")


@pytest.fixture
async def eventlog_dsn(databases: Databases) -> AsyncIterator[str]:
    async with databases.filled("eventlog", _fill) as dsn:
        yield dsn


async def _fill(dsn: str) -> None:
    await migrate(dsn, [("eventlog", "peregrine.kit.eventlog.migrations")])
    async with await Database.connect(dsn, size=1) as db:
        async with db.transaction(TENANT) as conn:
            await conn.execute("endings", _ENDINGS)


async def added(process: Process) -> list[str]:
    async with process.db.transaction(TENANT) as conn:
        return [row["note"] for row in await conn.fetch("t", "SELECT note FROM added")]


@pytest.fixture
async def cluster(eventlog_dsn: str, redis_url: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(stack, eventlog_dsn, redis_url)


@pytest.fixture
async def process(cluster: Cluster) -> Process:
    return await cluster.process()


@pytest.fixture
def payloads() -> Callable[[list[Entry]], list[bytes]]:
    return lambda entries: [entry.payload for entry in entries]
