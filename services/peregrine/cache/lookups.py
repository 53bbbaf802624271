"""Getting a value: as it is, or with the right to compute it, or by waiting for whoever does."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from peregrine.cache.entry import Address
from peregrine.cache.feed import Feed
from peregrine.cache.freshness import State, renew_early
from peregrine.cache.leases import WITHOUT, Leases, Waits
from peregrine.cache.tier import Away, Refused
from peregrine.cache.tiers import Found, Tiers
from peregrine.kit.context import Identity

FRESH = frozenset({State.FRESH})
ALSO_STALE = frozenset({State.FRESH, State.STALE})
LAST_RESORT = frozenset({State.FRESH, State.STALE, State.LAST_RESORT})

_LEASES_AWAY = "leases"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What there is, and the token of a lease: to compute what is missing, or to renew what is
    there. None: no lease; `WITHOUT`: compute without one. Neither an entry nor a token: the wait
    for another holder took too long. `epoch` is that of a computation that begins now."""

    found: Found
    token: int | None
    epoch: int


class Lookups:
    """Args:
    now: seconds since 1970.
    chance: uniform in [0, 1).
    """

    def __init__(
        self,
        *,
        tiers: Tiers,
        feed: Feed,
        leases: Leases,
        waits: Waits,
        now: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tiers = tiers
        self._feed = feed
        self._leases = leases
        self._waits = waits
        self._now = now
        self._chance = chance

    async def get_or_lease(
        self, who: Identity, address: Address, *, allow_stale: bool, seconds: float
    ) -> Outcome:
        """Waits for another holder for at most `seconds`."""
        give_up = time.monotonic() + seconds
        acceptable = ALSO_STALE if allow_stale else FRESH
        while True:
            (found,) = await self._tiers.read(who, [address])
            found = found.unless(acceptable)
            epoch = self._feed.sequence
            if found.entry is not None:
                token = await self._to_renew(address, found) if self._due(found) else None
                return Outcome(found, token, epoch)
            never = self._feed.policies.terms(address.tenant, address.namespace).never
            if never or not self._feed.confirmed:
                # No value could be handed on, so nobody is to wait for one.
                return Outcome(found, WITHOUT, epoch)
            try:
                token = await self._leases.take(address)
                if token:
                    return await self._leased(address, found, token, acceptable)
                if token is not None:
                    return Outcome(found, WITHOUT, epoch)
                left = give_up - time.monotonic()
                if left <= 0 or not await self._waits.over(address, left):
                    return Outcome(_also_away(found, "LEASE_HELD", "lease"), None, epoch)
            except (Away, Refused) as problem:
                reason = problem.reason if isinstance(problem, Away) else "REDIS_REFUSED"
                return Outcome(_also_away(found, reason, _LEASES_AWAY), WITHOUT, epoch)

    async def _leased(
        self, address: Address, found: Found, token: int, acceptable: frozenset[State]
    ) -> Outcome:
        """The last holder may have stored its value between our look and our lease."""
        again = (await self._tiers.look_again(address)).unless(acceptable)
        if again.entry is not None:
            await self._leases.release(address, token)
            self._waits.tell(address)
            return Outcome(again, None, self._feed.sequence)
        return Outcome(found, token, self._feed.sequence)

    def _due(self, found: Found) -> bool:
        """Whether this reader is to renew it."""
        entry = found.entry
        if entry is None or found.state is State.STALE:
            return True
        left = entry.fetch_time + found.ttl - self._now()
        return entry.cost > 0 and renew_early(left, entry.cost, 1.0 - self._chance())

    async def _to_renew(self, address: Address, found: Found) -> int | None:
        """The lease to renew what is there, if nobody has it. One that nobody can give is none:
        better to serve what there is than to have everyone renew it."""
        try:
            return await self._leases.take(address) or None
        except (Away, Refused):
            return None


def _also_away(found: Found, reason: str, what: str) -> Found:
    return replace(found, away=(*found.away, (what, reason)))
