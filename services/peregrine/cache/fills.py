"""What becomes of a value that is given to be kept: checked, judged, written, its lease given back.

A value that is not kept is no error: its caller has it, and is told why. A lease that has passed on
is one, because whoever holds it now computes the same value, which must not be overwritten by an
older one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from peregrine.cache.entry import MAX_VALUE_BYTES, Address, Entry
from peregrine.cache.feed import Feed
from peregrine.cache.frequencies import Frequencies
from peregrine.cache.freshness import State, judge
from peregrine.cache.leases import Leases, Waits
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.sensitive import holds_secret
from peregrine.cache.tier import Away, Refused
from peregrine.cache.tiers import Tiers
from peregrine.kit.context import Identity
from peregrine.kit.errors import Aborted

# Whoever computes the same again comes to the same end.
_IN_VAIN = frozenset({"TOO_LARGE", "SENSITIVE", "NEVER_CACHED"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A value and what was said of it. Times in seconds, 0 where nothing was said; `epoch` and
    `token` are None then."""

    value: bytes
    ttl: float = 0.0
    first_ttl: float = 0.0
    tags: tuple[str, ...] = ()
    cost: float = 0.0
    fetch_time: float = 0.0
    epoch: int | None = None
    token: int | None = None
    sensitive: bool = False
    absent: bool = False
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Stored:
    """`reason`: why a value was not kept (UPPER_SNAKE), empty when it was; `ttl` in seconds."""

    reason: str
    version: int = 0
    ttl: float = 0.0


class Fills:
    """`now`: seconds since 1970."""

    def __init__(
        self,
        *,
        tiers: Tiers,
        feed: Feed,
        leases: Leases,
        waits: Waits,
        frequencies: Frequencies,
        metrics: CacheMetrics,
        now: Callable[[], float],
    ) -> None:
        self._tiers = tiers
        self._feed = feed
        self._leases = leases
        self._waits = waits
        self._frequencies = frequencies
        self._metrics = metrics
        self._now = now

    async def store(self, who: Identity, address: Address, fill: Fill) -> Stored:
        """What became of the value.

        Raises:
          Aborted: LEASE_LOST.
        """
        stored = Stored(self._refusal(address, fill))
        if fill.token:
            # Also holds the lease for as long as storing takes.
            await self._still_held(address, fill.token)
        if not stored.reason:
            stored = await self._stored(who, address, fill)
        if fill.token:
            await self._give_back(address, fill.token, in_vain=stored.reason in _IN_VAIN)
        self._metrics.given(address.namespace, stored.reason or "stored")
        if fill.source and not stored.reason and not holds_secret(fill.source):
            self._frequencies.remember(address, fill.source)
        if fill.cost > 0:
            self._metrics.cost(address.namespace, fill.cost)
        return stored

    async def release(self, address: Address, token: int) -> None:
        """Without a value, so that the next one may compute."""
        if token:
            await self._give_back(address, token, in_vain=False)

    def _refusal(self, address: Address, fill: Fill) -> str:
        if fill.sensitive:
            return "SENSITIVE"
        if len(fill.value) > MAX_VALUE_BYTES:
            return "TOO_LARGE"
        if self._feed.policies.terms(address.tenant, address.namespace).never:
            return "NEVER_CACHED"
        return "SENSITIVE" if holds_secret(fill.value) else ""

    async def _stored(self, who: Identity, address: Address, fill: Fill) -> Stored:
        now = self._now()
        entry = Entry(
            value=fill.value,
            version=self._tiers.next_version(),
            # A caller whose clock is ahead does not make its value younger than now.
            fetch_time=min(fill.fetch_time or now, now),
            ttl=fill.ttl,
            first_ttl=fill.first_ttl,
            cost=fill.cost,
            epoch=min(self._feed.sequence if fill.epoch is None else fill.epoch, 2**62),
            absent=fill.absent,
            tags=fill.tags,
        )
        terms = self._feed.policies.terms(address.tenant, address.namespace)
        state, ttl = judge(entry, terms, now)
        if state is not State.FRESH:
            return Stored("EXPIRED")
        if self._tiers.untrue(address, entry):
            return Stored("INVALIDATED")
        if not await self._tiers.write(who, address, entry):
            return Stored("UNAVAILABLE")
        return Stored("", entry.version, ttl)

    async def _still_held(self, address: Address, token: int) -> None:
        try:
            held = await self._leases.renew(address, token)
        except (Away, Refused):
            # Nobody can say. Versions and epochs keep an older value from doing harm.
            return
        if not held:
            raise Aborted("the lease does not hold any more", reason="LEASE_LOST")

    async def _give_back(self, address: Address, token: int, *, in_vain: bool) -> None:
        try:
            await self._leases.release(address, token, in_vain=in_vain)
        except (Away, Refused) as problem:
            log.debug("lease_not_released", reason=str(problem))
        self._waits.tell(address)
