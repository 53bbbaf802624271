"""The shared cache as a whole: Redis, then PostgreSQL, and what one owes the other.

A read asks Redis, and PostgreSQL for what Redis does not have; what is found there is put back into
Redis. A write goes to both at the same time. Whichever tier is away is left out, and the answer
says so: what is lost is a hit, never the call. Only a removal cannot be left half done, because the
tier that was left out would give the value back later.

Both tiers keep the entry with the higher version, so a slow write or promotion never replaces a
newer value, and a removal leaves a tombstone in Redis that outlasts promotions under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from peregrine.cache import entry as entries
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.entry import Address, Corrupt, Entry, Versions
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.redis_tier import RedisTier
from peregrine.cache.tier import Away, Refused
from peregrine.kit.context import Identity
from peregrine.kit.errors import Unavailable

MAX_BATCH_BYTES = 12 * 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a read gave. `tier` is that of the entry; `away`: (tier, reason) of those left out."""

    entry: Entry | None = None
    tier: str = ""
    away: tuple[tuple[str, str], ...] = ()


class Tiers:
    """`now`: seconds since 1970."""

    def __init__(
        self,
        *,
        redis: RedisTier,
        postgres: PostgresTier,
        metrics: CacheMetrics,
        now: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._postgres = postgres
        self._metrics = metrics
        self._now = now
        self._versions = Versions(now)

    async def read(self, who: Identity, addresses: Sequence[Address]) -> list[Found]:
        """One for each address, in order. Past `MAX_BATCH_BYTES` in all, the rest are misses."""
        found: dict[int, Found] = {}
        left = MAX_BATCH_BYTES
        away: tuple[tuple[str, str], ...] = ()
        try:
            frames = await self._redis.read(addresses, max_bytes=left)
        except Away as problem:
            away = ((redis_tier.NAME, problem.reason),)
            frames = [None] * len(addresses)
        except Refused as problem:
            log.warning("redis_refused", error=str(problem))
            frames = [None] * len(addresses)
        redis_away = bool(away)
        missing: list[int] = []
        for number, (address, frame) in enumerate(zip(addresses, frames, strict=True)):
            if frame is None:
                missing.append(number)
                continue
            left -= len(frame)
            there = self._opened(address, frame, redis_tier.NAME)
            # A tombstone, too, is Redis's last word.
            found[number] = Found(there, redis_tier.NAME) if there else Found()
        if missing and left > 0:
            asked = [addresses[number] for number in missing]
            try:
                frames = await self._postgres.read(who, asked, max_bytes=left)
            except Away as problem:
                away += ((postgres_tier.NAME, problem.reason),)
                frames = [None] * len(asked)
            except Refused as problem:
                log.warning("postgres_refused", error=str(problem))
                frames = [None] * len(asked)
            for number, address, frame in zip(missing, asked, frames, strict=True):
                there = None
                if frame is not None:
                    there = self._opened(address, frame, postgres_tier.NAME)
                if there is not None and frame is not None:
                    found[number] = Found(there, postgres_tier.NAME, away)
                    if not redis_away:
                        await self._promote(address, frame, there)
        return [found.get(number, Found(away=away)) for number in range(len(addresses))]

    async def write(self, who: Identity, address: Address, entry: Entry) -> bool:
        """Whether any tier took it. `entry` has a version from `next_version`."""
        frame = entries.encode(entry, address)
        seconds = entry.expire_time - self._now()
        async with asyncio.TaskGroup() as writing:
            slower = writing.create_task(
                self._stored(
                    postgres_tier.NAME, self._postgres.put(who, address, frame, entry), len(frame)
                )
            )
            in_redis = await self._stored(
                redis_tier.NAME,
                self._redis.put(address, frame, version=entry.version, seconds=seconds),
                len(frame),
            )
        return slower.result() or in_redis

    async def remove(self, who: Identity, address: Address) -> bool:
        """Whether any tier had it.

        Raises:
          Unavailable: CACHE_TIER_UNAVAILABLE, when a tier is away that may still have it.
        """
        tombstone = entries.tombstone(self._versions.next(), address)
        try:
            # In this order: the tombstone keeps back who has read the row and would promote it.
            there = await self._redis.remove(address, tombstone)
            return await self._postgres.remove(who, address) or there
        except (Away, Refused) as problem:
            raise Unavailable(
                "a tier of the cache is away and may still hold the entry",
                reason="CACHE_TIER_UNAVAILABLE",
                retry_after=1.0,
            ) from problem

    def next_version(self) -> int:
        return self._versions.next()

    def _opened(self, address: Address, frame: bytes, tier: str) -> Entry | None:
        """The entry in `frame`, if it is one and its time is not over."""
        self._metrics.read(tier, len(frame))
        try:
            entry = entries.decode(frame, address)
        except Corrupt:
            self._metrics.corrupt(tier)
            log.warning("entry_corrupt", tier=tier, namespace=address.namespace)
            return None
        return None if entry is None or entry.expire_time <= self._now() else entry

    async def _promote(self, address: Address, frame: bytes, entry: Entry) -> None:
        seconds = entry.expire_time - self._now()
        if seconds > 0:
            await self._stored(
                redis_tier.NAME,
                self._redis.put(address, frame, version=entry.version, seconds=seconds),
                len(frame),
            )

    async def _stored(self, tier: str, putting: Awaitable[None], size: int) -> bool:
        try:
            await putting
        except Away:
            return False
        except Refused as problem:
            log.warning("entry_refused", tier=tier, error=str(problem))
            return False
        self._metrics.written(tier, size)
        return True
