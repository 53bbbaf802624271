"""How full the stores are, looked at now and then: for the metrics, and for who tunes by them."""

import asyncio
import random
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.redis_tier import RedisTier
from peregrine.cache.tier import Away, Refused

_EVERY_SECONDS = 15.0

log = structlog.get_logger(__name__)


class Sizes:
    """`run` until cancelled. `failures` counts looks that broke."""

    def __init__(
        self,
        *,
        redis: RedisTier,
        postgres: PostgresTier,
        registry: CollectorRegistry,
        failures: Counter,
    ) -> None:
        self._failures = failures
        self._redis = redis
        self._postgres = postgres
        self._evicted = 0
        self._bytes = Gauge(
            "peregrine_cache_bytes",
            "Room that a tier takes, in all its replicas' store together",
            ["level"],
            registry=registry,
        )
        self._share = Gauge(
            "peregrine_cache_memory_share",
            "Memory used by Redis of what it may use; 0 when nothing bounds it",
            registry=registry,
        )
        self._evictions = Counter(
            "peregrine_cache_evictions_total",
            "Entries that made room for others",
            ["level"],
            registry=registry,
        )
        self._evictions.labels(redis_tier.NAME)

    async def look(self) -> None:
        """Raises `Away`, `Refused`."""
        info = await self._redis.info()
        used, most = _number(info, "used_memory"), _number(info, "maxmemory")
        self._bytes.labels(redis_tier.NAME).set(used)
        self._share.set(used / most if most else 0.0)
        evicted = _number(info, "evicted_keys")
        # A server that was restarted counts from 0.
        self._evictions.labels(redis_tier.NAME).inc(
            evicted - self._evicted if evicted >= self._evicted else evicted
        )
        self._evicted = evicted
        self._bytes.labels(postgres_tier.NAME).set(await self._postgres.size())

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (Away, Refused, TimeoutError) as problem:
                log.info("sizes_unknown", reason=str(problem))
            except Exception as error:
                # The top of a background task: the next look may go better.
                self._failures.inc()
                log.error("sizes_unknown", error=type(error).__name__, exc_info=error)
            await asyncio.sleep(_EVERY_SECONDS * random.uniform(0.8, 1.2))


def _number(info: Mapping[str, object], name: str) -> int:
    value = info.get(name, 0)
    return value if isinstance(value, int) else 0
