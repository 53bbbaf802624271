"""The cache service, wired: settings, Redis, PostgreSQL, a breaker in front of each, server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.expiry import Expiry
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.redis_tier import RedisTier
from peregrine.cache.service import CacheService
from peregrine.cache.tier import Guard
from peregrine.cache.tiers import Tiers
from peregrine.kit import redis, serve, telemetry
from peregrine.kit.breaker import Breaker
from peregrine.kit.errors import StartRefused
from peregrine.kit.postgres import Database, check_schema
from peregrine.kit.settings import InnerSettings, PostgresSettings, Secret, load, setting

SERVICE = cache_pb2.DESCRIPTOR.services_by_name["CacheService"].full_name
MIGRATIONS = "peregrine.cache.migrations"


@dataclass(frozen=True, kw_only=True)
class Settings(InnerSettings, PostgresSettings):
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50054",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    cache_redis_url: Secret | None = setting(
        "PEREGRINE_CACHE_REDIS_URL",
        default=None,
        secret=True,
        help="redis://, rediss:// or unix:// URL of the Redis that holds entries (LFU eviction); "
        "PEREGRINE_REDIS_URL when unset",
    )
    redis_url: Secret | None = setting(
        "PEREGRINE_REDIS_URL",
        default=None,
        secret=True,
        help="the Redis to use without PEREGRINE_CACHE_REDIS_URL",
    )
    redis_connections: int = setting(
        "PEREGRINE_CACHE_REDIS_CONNECTIONS",
        default=16,
        minimum=1,
        maximum=256,
        help="connections of this process to that Redis",
    )
    redis_timeout_seconds: float = setting(
        "PEREGRINE_CACHE_REDIS_TIMEOUT_SECONDS",
        default=0.1,
        minimum=0.001,
        help="seconds that Redis gets to answer; three failures in a row, and it is left out "
        "until it answers again",
    )
    postgres_timeout_seconds: float = setting(
        "PEREGRINE_CACHE_POSTGRES_TIMEOUT_SECONDS",
        default=0.15,
        minimum=0.001,
        help="seconds that PostgreSQL gets to answer, likewise",
    )
    expiry_seconds: float = setting(
        "PEREGRINE_CACHE_EXPIRY_SECONDS",
        default=60.0,
        minimum=1,
        help="seconds between two sweeps of entries in PostgreSQL whose time is over",
    )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[serve.Server]:
    """The service with its database open; not started yet. Redis may be away, also now.

    Raises:
      StartRefused: no Redis is named, the role is above row-level security, or the schema is
        behind.
      Unavailable: PostgreSQL cannot be reached.
    """
    registry = registry or telemetry.new_registry()
    metrics = CacheMetrics(registry)
    async with AsyncExitStack() as stack:
        database = await Database.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_size,
            registry=registry,
            application_name="peregrine-cache",
        )
        await stack.enter_async_context(database)
        await check_schema(database, "cache", MIGRATIONS)
        client = redis.connect(
            _redis_url(settings),
            max_connections=settings.redis_connections,
            timeout=settings.redis_timeout_seconds,
        )
        stack.push_async_callback(redis.close, client)
        redis_breaker = Breaker(
            name=redis_tier.NAME,
            probe=redis_tier.probe(client, limit=settings.redis_timeout_seconds),
            on_change=metrics.breaker(redis_tier.NAME),
        )
        stack.push_async_callback(redis_breaker.close)
        postgres_breaker = Breaker(
            name=postgres_tier.NAME,
            probe=postgres_tier.probe(database, limit=settings.postgres_timeout_seconds),
            on_change=metrics.breaker(postgres_tier.NAME),
        )
        stack.push_async_callback(postgres_breaker.close)
        tiers = Tiers(
            redis=RedisTier(
                client,
                guard=Guard(
                    reasons=redis_tier.REASONS,
                    limit=settings.redis_timeout_seconds,
                    breaker=redis_breaker,
                    observe=metrics.observer(redis_tier.NAME),
                ),
            ),
            postgres=PostgresTier(
                database,
                guard=Guard(
                    reasons=postgres_tier.REASONS,
                    limit=settings.postgres_timeout_seconds,
                    breaker=postgres_breaker,
                    observe=metrics.observer(postgres_tier.NAME),
                ),
            ),
            metrics=metrics,
            now=now,
        )
        expiry = Expiry(database=database, interval=settings.expiry_seconds, registry=registry)
        sweeping = asyncio.create_task(expiry.run(), name="cache-expiry")
        try:
            yield serve.Server(
                name="cache",
                settings=settings,
                servicers=[
                    (
                        cache_pb2_grpc.add_CacheServiceServicer_to_server,
                        CacheService(tiers=tiers, metrics=metrics, now=now),
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

    return serve.run(built, name="cache", environ=environ)


def _redis_url(settings: Settings) -> Secret:
    url = settings.cache_redis_url or settings.redis_url
    if url is None:
        raise StartRefused("no Redis is named: set PEREGRINE_CACHE_REDIS_URL")
    return url
