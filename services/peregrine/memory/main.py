"""The memory service, wired: settings, database, store, server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from peregrine.api.memory.v1 import memory_pb2, memory_pb2_grpc
from peregrine.kit import serve, telemetry
from peregrine.kit.background import Failures
from peregrine.kit.postgres import Database, check_schema
from peregrine.kit.settings import InnerSettings, PostgresSettings, load, setting
from peregrine.memory.expiry import Expiry
from peregrine.memory.service import MemoryService
from peregrine.memory.store import Store

SERVICE = memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name
MIGRATIONS = "peregrine.memory.migrations"


@dataclass(frozen=True, kw_only=True)
class Settings(InnerSettings, PostgresSettings):
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50055",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    expiry_seconds: float = setting(
        "PEREGRINE_MEMORY_EXPIRY_SECONDS",
        default=600.0,
        minimum=1,
        help="seconds between two sweeps of request ids older than 24 hours",
    )


@asynccontextmanager
async def build(
    settings: Settings, *, registry: CollectorRegistry | None = None
) -> AsyncIterator[serve.Server]:
    """The service with its database open; not started yet.

    Raises:
      StartRefused: the role is above row-level security, or the schema is behind.
      Unavailable: PostgreSQL cannot be reached.
    """
    registry = registry or telemetry.new_registry()
    database = await Database.connect(
        settings.postgres_dsn,
        size=settings.postgres_pool_size,
        registry=registry,
        application_name="peregrine-memory",
    )
    async with database:
        await check_schema(database, "memory", MIGRATIONS)
        store = Store(database)
        expiry = Expiry(
            store=store,
            interval=settings.expiry_seconds,
            failures=Failures(registry).of("expiry"),
        )
        sweeping = asyncio.create_task(expiry.run(), name="memory-expiry")
        try:
            yield serve.Server(
                name="memory",
                settings=settings,
                servicers=[
                    (
                        memory_pb2_grpc.add_MemoryServiceServicer_to_server,
                        MemoryService(store=store),
                        SERVICE,
                    )
                ],
                registry=registry,
            )
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])


def run(environ: Mapping[str, str]) -> int:
    """The process. Returns its exit code."""

    def built(environ: Mapping[str, str]) -> AbstractAsyncContextManager[serve.Server]:
        return build(load(Settings, environ))

    return serve.run(built, name="memory", environ=environ)
