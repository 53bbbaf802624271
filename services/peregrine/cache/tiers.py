"""The shared cache as a whole: Redis, then PostgreSQL, and what one owes the other.

A read asks Redis, and PostgreSQL for what Redis does not have; what is found there is put back into
Redis. A write goes to both at the same time. Whichever tier is away is left out, and the answer
says so: what is lost is a hit, never the call.

What a tier holds is judged when it is read: by what was made untrue since the entry's epoch, and by
the policy in force. So nothing has to be hunted down in the tiers when either changes. While this
replica does not know what was made untrue, nothing it holds can be believed.

Both tiers keep the entry with the higher version, so a slow write or promotion never replaces a
newer value, and a removal leaves a tombstone in Redis that outlasts promotions under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from peregrine.cache import entry as entries
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.entry import Address, Corrupt, Entry, Replaced, Versions
from peregrine.cache.feed import Feed
from peregrine.cache.freshness import State, judge, kept_until
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.redis_tier import RedisTier
from peregrine.cache.tier import Away, Refused
from peregrine.kit.context import Identity

MAX_BATCH_BYTES = 12 * 1024 * 1024

# Packing more than this takes longer than handing it to a thread.
_PACKED_ASIDE = 64 * 1024

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a read gave. `tier` is that of the entry; `ttl` in seconds, as of now; `away`:
    (tier, reason) of those left out."""

    entry: Entry | None = None
    tier: str = ""
    away: tuple[tuple[str, str], ...] = ()
    state: State = State.OVER
    ttl: float = 0.0

    @property
    def fresh(self) -> bool:
        return self.state is State.FRESH

    def unless(self, acceptable: frozenset[State]) -> "Found":
        """Nothing, if the entry is in none of these states."""
        return self if self.entry is None or self.state in acceptable else Found(away=self.away)


UNKNOWN = Found(away=(("feed", "INVALIDATIONS_UNKNOWN"),))
_MISSING = Found()


class Tiers:
    """`now`: seconds since 1970."""

    def __init__(
        self,
        *,
        redis: RedisTier,
        postgres: PostgresTier,
        feed: Feed,
        metrics: CacheMetrics,
        now: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._postgres = postgres
        self._feed = feed
        self._metrics = metrics
        self._now = now
        self._versions = Versions(now)

    async def read(self, who: Identity, addresses: Sequence[Address]) -> list[Found]:
        """One for each address, in order, of any state but OVER. Past `MAX_BATCH_BYTES` in all, the
        rest are misses."""
        if not self._feed.confirmed:
            return [UNKNOWN] * len(addresses)
        found: dict[int, Found] = {}
        left = MAX_BATCH_BYTES
        away: tuple[tuple[str, str], ...] = ()
        try:
            frames = await self._redis.read(addresses, max_bytes=left)
        except Away as problem:
            away = ((redis_tier.NAME, problem.reason),)
            frames = [None] * len(addresses)
        except Refused:
            frames = [None] * len(addresses)
        redis_away = bool(away)
        missing: list[int] = []
        for number, (address, frame) in enumerate(zip(addresses, frames, strict=True)):
            if frame is None:
                missing.append(number)
                continue
            left -= len(frame)
            final, there = self._opened(address, frame, redis_tier.NAME)
            found[number] = there
            if not final:
                missing.append(number)
        if missing and left > 0:
            asked = [addresses[number] for number in missing]
            try:
                frames = await self._postgres.read(who, asked, max_bytes=left)
            except Away as problem:
                away += ((postgres_tier.NAME, problem.reason),)
                frames = [None] * len(asked)
            except Refused:
                frames = [None] * len(asked)
            for number, address, frame in zip(missing, asked, frames, strict=True):
                if frame is None:
                    continue
                _, there = self._opened(address, frame, postgres_tier.NAME, away)
                if there.entry is not None and _newer(there, found.get(number)):
                    found[number] = there
                    if not redis_away:
                        await self._promote(address, frame, there.entry)
        nothing = Found(away=away) if away else _MISSING
        return [found.get(number, nothing) for number in range(len(addresses))]

    async def look_again(self, address: Address) -> Found:
        """What Redis has now; nothing when it is away."""
        try:
            (frame,) = await self._redis.read([address], max_bytes=MAX_BATCH_BYTES)
        except (Away, Refused):
            return _MISSING
        if frame is None or not self._feed.confirmed:
            return _MISSING
        return self._opened(address, frame, redis_tier.NAME)[1]

    async def write(self, who: Identity, address: Address, entry: Entry) -> bool:
        """Whether any tier took it. `entry` has a version from `next_version`."""
        if len(entry.value) > _PACKED_ASIDE:
            frame = await asyncio.to_thread(entries.encode, entry, address)
        else:
            frame = entries.encode(entry, address)
        until = kept_until(entry, self._feed.policies.terms(address.tenant, address.namespace))
        async with asyncio.TaskGroup() as writing:
            slower = writing.create_task(
                self._stored(
                    postgres_tier.NAME,
                    self._postgres.put(who, address, frame, entry, until=until),
                    len(frame),
                )
            )
            in_redis, replaced = await self._stored(
                redis_tier.NAME,
                self._redis.put(address, frame, version=entry.version, seconds=until - self._now()),
                len(frame),
            )
        if replaced is not None:
            self._compare(address, entry, replaced)
        return slower.result()[0] or in_redis

    async def remove_from_redis(self, address: Address) -> bool:
        """Whether it was there. What is left where Redis is away is untrue all the same."""
        tombstone = entries.tombstone(self._versions.next(), address)
        try:
            return await self._redis.remove(address, tombstone)
        except (Away, Refused) as problem:
            log.debug("entry_left_in_redis", reason=str(problem))
            return False

    def next_version(self) -> int:
        return self._versions.next()

    def untrue(self, address: Address, entry: Entry) -> bool:
        """Whether it was made untrue since its computation began."""
        return self._feed.marks.struck(
            address.tenant, address.user, address.namespace, address.key, entry.tags, entry.epoch
        )

    def _opened(
        self,
        address: Address,
        frame: bytes,
        tier: str,
        away: tuple[tuple[str, str], ...] = (),
    ) -> tuple[bool, Found]:
        """What the frame is worth, and whether it is this tier's last word."""
        self._metrics.read(tier, len(frame))
        try:
            entry = entries.decode(frame, address)
        except Corrupt:
            self._metrics.corrupt(tier)
            log.warning("entry_corrupt", tier=tier, namespace=address.namespace)
            # As if it had never been there, but not brought back: a set mends it.
            return True, _MISSING
        if entry is None:
            return True, _MISSING
        terms = self._feed.policies.terms(address.tenant, address.namespace)
        if terms.never or self.untrue(address, entry):
            return terms.never, _MISSING
        state, ttl = judge(entry, terms, self._now())
        if state is State.OVER:
            return False, _MISSING
        return state is State.FRESH, Found(entry, tier, away, state, ttl)

    async def _promote(self, address: Address, frame: bytes, entry: Entry) -> None:
        until = kept_until(entry, self._feed.policies.terms(address.tenant, address.namespace))
        seconds = until - self._now()
        if seconds > 0:
            await self._stored(
                redis_tier.NAME,
                self._redis.put(address, frame, version=entry.version, seconds=seconds),
                len(frame),
            )

    def _compare(self, address: Address, entry: Entry, replaced: Replaced) -> None:
        """Did the truth change since the value that this one replaces?"""
        age = entry.fetch_time - replaced.fetch_time
        if age > 0 and not entry.absent:
            changed = entries.digest_of(entry.value) != replaced.digest
            self._metrics.compared(address.namespace, age, changed)

    async def _stored(self, tier: str, putting: Awaitable[T], size: int) -> tuple[bool, T | None]:
        try:
            answer = await putting
        except (Away, Refused):
            return False, None
        self._metrics.written(tier, size)
        return True, answer


def _newer(there: Found, other: Found | None) -> bool:
    if other is None or other.entry is None or there.entry is None:
        return True
    return there.entry.version > other.entry.version
