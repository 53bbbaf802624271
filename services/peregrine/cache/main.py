"""The cache service, wired: settings, Redis, PostgreSQL, a breaker in front of each, server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.expiry import Expiry
from peregrine.cache.feed import Feed
from peregrine.cache.feed_store import FeedStore
from peregrine.cache.feed_stream import FeedStream
from peregrine.cache.fills import Fills
from peregrine.cache.following import Following
from peregrine.cache.frequencies import Frequencies
from peregrine.cache.leases import Leases, Waits
from peregrine.cache.loaders import Loaders, load_modules
from peregrine.cache.lookups import Lookups
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.policies import Policies
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.redis_tier import RedisTier
from peregrine.cache.roll import Roll
from peregrine.cache.service import CacheService
from peregrine.cache.sizes import Sizes
from peregrine.cache.stats import Stats
from peregrine.cache.tier import Guard
from peregrine.cache.tiers import Tiers
from peregrine.cache.warming import Warming
from peregrine.client import ToolsClient
from peregrine.kit import identity, redis, serve, telemetry
from peregrine.kit.background import Failures
from peregrine.kit.breaker import Breaker
from peregrine.kit.errors import StartRefused
from peregrine.kit.postgres import Database, check_schema
from peregrine.kit.redis import Redis
from peregrine.kit.settings import InnerSettings, PostgresSettings, Secret, load, setting

SERVICE = cache_pb2.DESCRIPTOR.services_by_name["CacheService"].full_name
MIGRATIONS = "peregrine.cache.migrations"
# Longer than the feed's reads wait for something to come.
_FEED_SECONDS = 0.6


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
        help="the Redis that holds leases and the feed of invalidations (noeviction); the one that "
        "holds entries when unset",
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
    operator_tenant: str = setting(
        "PEREGRINE_CACHE_OPERATOR_TENANT",
        default="default",
        help="the tenant whose policies hold for every tenant that has none for a namespace",
    )
    loaders: tuple[str, ...] = setting(
        "PEREGRINE_CACHE_LOADERS",
        default=(),
        help="modules, separated by commas, that register loaders to warm namespaces with",
    )
    tools_target: str | None = setting(
        "PEREGRINE_TOOLS_TARGET",
        default=None,
        help="host:port of the tool service, by which results of tools are warmed; not warmed "
        "when unset",
    )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    now: Callable[[], float] = time.time,
    loaders: Loaders | None = None,
) -> AsyncIterator[serve.Server]:
    """The service with its database open; not started yet. Redis may be away, also now.

    Args:
      loaders: instead of those that the settings name.

    Raises:
      StartRefused: no Redis is named, the role is above row-level security, the schema is behind,
        or a module of loaders cannot be imported.
      Unavailable: PostgreSQL cannot be reached.
    """
    registry = registry or telemetry.new_registry()
    metrics = CacheMetrics(registry)
    failures = Failures(registry)
    async with AsyncExitStack() as stack:
        database = await Database.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_size,
            registry=registry,
            application_name="peregrine-cache",
        )
        await stack.enter_async_context(database)
        await check_schema(database, "cache", MIGRATIONS)
        entries_url, leases_url = _redis_urls(settings)
        probes = failures.of("probes")
        entries_redis = _connected(stack, settings, entries_url)
        redis_tier_ = RedisTier(
            entries_redis,
            guard=_redis_guard(stack, settings, metrics, entries_redis, redis_tier.NAME, probes),
        )
        leases_redis = _connected(stack, settings, leases_url)
        leases_guard = _redis_guard(stack, settings, metrics, leases_redis, "leases", probes)
        postgres = PostgresTier(
            database, guard=_postgres_guard(stack, settings, metrics, database, probes)
        )
        store = FeedStore(database)
        feed = Feed(policies=Policies(operator=settings.operator_tenant))
        following = Following(
            feed=feed,
            store=store,
            stream=FeedStream(
                leases_redis,
                reading=_connected(stack, settings, leases_url, for_reading=True),
                guard=leases_guard,
            ),
            roll=Roll(leases_redis, guard=leases_guard),
            registry=registry,
        )
        await following.load()
        tiers = Tiers(redis=redis_tier_, postgres=postgres, feed=feed, metrics=metrics, now=now)
        leases = Leases(leases_redis, guard=leases_guard)
        waits = Waits(leases.held, failures=failures.of("lease_watch"))
        stack.push_async_callback(waits.close)
        frequencies = Frequencies(database=database, failures=failures.of("frequencies"), now=now)
        fills = Fills(
            tiers=tiers,
            feed=feed,
            leases=leases,
            waits=waits,
            frequencies=frequencies,
            metrics=metrics,
            now=now,
        )
        if loaders is None:
            tools = None
            if settings.tools_target:
                tools = await stack.enter_async_context(ToolsClient(settings.tools_target))
            loaders = load_modules(settings.loaders, database=database, tools=tools)
        warming = Warming(
            tiers=tiers,
            fills=fills,
            feed=feed,
            loaders=loaders,
            frequencies=frequencies,
            failures=failures.of("warming"),
            signer=identity.Signer(identity.keys_of(settings)) if settings.auth_required else None,
        )
        service = CacheService(
            tiers=tiers,
            lookups=Lookups(tiers=tiers, feed=feed, leases=leases, waits=waits, now=now),
            fills=fills,
            leases=leases,
            feed=feed,
            following=following,
            store=store,
            postgres=postgres,
            frequencies=frequencies,
            warming=warming,
            stats=Stats(),
            metrics=metrics,
            now=now,
        )
        expiry = Expiry(
            database=database,
            feed=store,
            interval=settings.expiry_seconds,
            registry=registry,
            failures=failures.of("expiry"),
        )
        sizes = Sizes(
            redis=redis_tier_,
            postgres=postgres,
            registry=registry,
            failures=failures.of("sizes"),
        )
        background = [
            asyncio.create_task(work, name=f"cache-{name}")
            for name, work in (
                ("following", following.run()),
                ("expiry", expiry.run()),
                ("frequencies", frequencies.run()),
                ("sizes", sizes.run()),
                ("warming", warming.at_start(feed.policies)),
            )
        ]
        try:
            yield serve.Server(
                name="cache",
                settings=settings,
                servicers=[
                    (cache_pb2_grpc.add_CacheServiceServicer_to_server, service, SERVICE),
                ],
                registry=registry,
            )
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await following.leave()


def run(environ: Mapping[str, str]) -> int:
    """The process. Returns its exit code."""

    def built(environ: Mapping[str, str]) -> AbstractAsyncContextManager[serve.Server]:
        return build(load(Settings, environ))

    return serve.run(built, name="cache", environ=environ)


def _redis_urls(settings: Settings) -> tuple[Secret, Secret]:
    """Of the Redis that holds entries, and of the one that holds leases and the feed."""
    entries = settings.cache_redis_url or settings.redis_url
    if entries is None:
        raise StartRefused("no Redis is named: set PEREGRINE_CACHE_REDIS_URL")
    return entries, settings.redis_url or entries


def _connected(
    stack: AsyncExitStack, settings: Settings, url: Secret, *, for_reading: bool = False
) -> Redis:
    """`for_reading`: one connection on which the feed is waited for."""
    client = redis.connect(
        url,
        max_connections=1 if for_reading else settings.redis_connections,
        timeout=_FEED_SECONDS if for_reading else settings.redis_timeout_seconds,
    )
    stack.push_async_callback(redis.close, client)
    return client


def _redis_guard(
    stack: AsyncExitStack,
    settings: Settings,
    metrics: CacheMetrics,
    client: Redis,
    level: str,
    broken: Counter,
) -> Guard:
    limit = settings.redis_timeout_seconds
    breaker = Breaker(
        name=level,
        probe=metrics.probing(level, redis_tier.probe(client, limit=limit)),
        on_change=metrics.breaker(level),
        broken=broken,
    )
    stack.push_async_callback(breaker.close)
    return Guard(
        name=level,
        reasons=redis_tier.REASONS,
        limit=limit,
        breaker=breaker,
        observe=metrics.observer(level),
        refused=metrics.refusals(level),
    )


def _postgres_guard(
    stack: AsyncExitStack,
    settings: Settings,
    metrics: CacheMetrics,
    database: Database,
    broken: Counter,
) -> Guard:
    limit = settings.postgres_timeout_seconds
    breaker = Breaker(
        name=postgres_tier.NAME,
        probe=metrics.probing(postgres_tier.NAME, postgres_tier.probe(database, limit=limit)),
        on_change=metrics.breaker(postgres_tier.NAME),
        broken=broken,
    )
    stack.push_async_callback(breaker.close)
    return Guard(
        name=postgres_tier.NAME,
        reasons=postgres_tier.REASONS,
        limit=limit,
        breaker=breaker,
        observe=metrics.observer(postgres_tier.NAME),
        refused=metrics.refusals(postgres_tier.NAME),
    )
