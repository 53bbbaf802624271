"""Ghosts: what would a cache hit and miss if values lived longer, or shorter?

For one key in sixteen, and for each time to live of a grid that doubles from step to step, only the
time is kept at which a cache with that time to live would have fetched the key last. Each request
for such a key then is a hit or a miss of every one of those caches at once, and a hit has an age.
Nobody fetches or keeps a value for it. The counters say how often each time to live would miss and
how old its answers would be; the operator tunes the real one by them.

The same keys are sampled by all processes and at all times, so each counts whole histories of a
few keys, not a few requests of all of them.

Time is an argument, in seconds on whatever clock the caller likes, as long as it is one clock.
"""

import math
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Hashable

GRID = tuple(5.0 * 2.0**place for place in range(13))
"""Seconds: 5 to 20480."""
EDGES = tuple(5.0 * 2.0 ** (place + 0.5) for place in range(-3, 20))
"""Upper ends of the buckets of ages, in seconds; times to live lie in the middle of theirs."""
ONE_IN = 16

# Any constant: with another one than other users of CRC-32, so that samples are independent.
_SEED = 0x9E3779B9
_MASK = ONE_IN - 1


def grid(highest: float) -> tuple[float, ...]:
    """The times to live up to `highest` seconds, at least the first."""
    return tuple(
        5.0 * 2.0**place for place in range(max(int(math.log2(max(highest, 5.0) / 5.0)) + 1, 1))
    )


def sampled(key: bytes) -> bool:
    """Whether the key has ghosts: the same in every process."""
    return zlib.crc32(key, _SEED) & _MASK == 0


class GhostNamespace:
    """The ghosts of one namespace; for one event loop or thread.

    Args:
      ttls: the times to live, in seconds, doubling.
      max_keys: sampled keys that are remembered; beyond, the one known longest is forgotten.

    `requests`, `misses[k]` and `hit_ages[k][bucket]` only grow.
    """

    __slots__ = ("_fetched", "_max_keys", "hit_ages", "misses", "requests", "ttls")

    def __init__(self, ttls: tuple[float, ...] = GRID, *, max_keys: int = 2048) -> None:
        self.ttls = ttls
        self.requests = 0
        self.misses = [0] * len(ttls)
        # No hit is older than its time to live.
        self.hit_ages = [[0] * (bisect_left(EDGES, ttl) + 1) for ttl in ttls]
        self._max_keys = max_keys
        self._fetched: dict[Hashable, array[float]] = {}

    def __len__(self) -> int:
        return len(self._fetched)

    def requested(self, key: Hashable, now: float) -> None:
        """A request for a sampled key, whether or not it was a hit in truth."""
        self.requests += 1
        fetched = self._fetched.get(key)
        misses = self.misses
        if fetched is None:
            if len(self._fetched) >= self._max_keys:
                del self._fetched[next(iter(self._fetched))]
            self._fetched[key] = array("d", (now,)) * len(misses)
            for place in range(len(misses)):
                misses[place] += 1
            return
        edges, place, before, bucket = EDGES, 0, math.nan, 0
        for ttl, at, ages in zip(self.ttls, fetched, self.hit_ages, strict=True):
            age = now - at
            if age >= ttl:
                misses[place] += 1
                fetched[place] = now
            else:
                # Longer times to live often were fetched together.
                if at != before:
                    before, bucket = at, bisect_left(edges, age)
                ages[bucket] += 1
            place += 1

    def forget(self, key: Hashable) -> None:
        """The key was invalidated: the next request misses, whatever the time to live."""
        self._fetched.pop(key, None)
