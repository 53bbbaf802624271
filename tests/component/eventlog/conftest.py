"""Several processes in one: each one an EventLog with its own pool and Redis client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from peregrine.kit import redis
from peregrine.kit.eventlog import Entry, EventLog, Recovered, Writer
from peregrine.kit.postgres import Database, migrate
from tests.support.eventually import eventually

TENANT = "acme"


class Process:
    """One process's EventLog, and the ways in which a process can end."""

    def __init__(self, log: EventLog, db: Database) -> None:
        self.log = log
        self.db = db
        self._crashed = False

    async def create(self, tenant: str = TENANT) -> Writer:
        async with self.db.transaction(tenant) as conn:
            return await self.log.create(conn, tenant=tenant, log_id=uuid4())

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


@pytest.fixture
async def eventlog_dsn(postgres_dsn: str) -> str:
    await migrate(postgres_dsn, [("eventlog", "peregrine.kit.eventlog.migrations")])
    return postgres_dsn


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
