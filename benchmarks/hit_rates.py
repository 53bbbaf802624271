"""Hit rates in virtual time: the cache's own rules for freshness and eviction on a trace.

Where values live for a time t from when they were fetched, a key asked for r times a second is a
hit rt/(1+rt) of the time. On this trace that is 75.8 % for an hour in the long run, and 75.2 % in
8 h from a cold start. What lies above it is served while it is renewed: values that are over by
less than the policy's stale_while_revalidate, and say so.
"""

from collections import OrderedDict
from collections.abc import Iterable

from benchmarks import trace
from peregrine.cache.entry import Entry
from peregrine.cache.freshness import State, Terms, judge
from peregrine.cache.sketch import Frequent
from peregrine.client._near_cache import ENTRY_BYTES, NearCache

# What operators tune to when values change once a day and one answer in twenty may be old
# (twice the share by the rate of change, rounded down to the grid).
TUNED_TTL = 5_120.0
WARMED_KEYS = 10_000


def hit_rate(
    ttl: float,
    *,
    while_revalidate: float = 0.0,
    warmed: bool = False,
    within: float = trace.SECONDS,
) -> float:
    """The share of hits of the first `within` seconds, under a policy with that time to live.

    Args:
      while_revalidate: the policy's stale_while_revalidate; who is given a stale value has it
        renewed.
      warmed: the most frequent keys of the day before, as the service counts them, were loaded.
    """
    terms = Terms(ttl=ttl, stale_while_revalidate=while_revalidate)
    version = 1_700_000_000_000_000
    entries: dict[int, Entry] = {}
    if warmed:
        frequent: Frequent[int] = Frequent(WARMED_KEYS)
        for _, key in trace.calls(seed=trace.SEED - 1, seconds=24 * 3_600.0):
            frequent.count(key)
        for key, _ in frequent.most(WARMED_KEYS):
            version += 1
            entries[key] = Entry(value=b"", version=version, fetch_time=0.0)
    hits = asked = 0
    for now, key in trace.calls(seconds=within):
        asked += 1
        entry = entries.get(key)
        state = State.OVER if entry is None else judge(entry, terms, now)[0]
        hits += state in (State.FRESH, State.STALE)
        if state is not State.FRESH:
            version += 1
            entries[key] = Entry(value=b"", version=version, fetch_time=now)
    return hits / asked


def sieve(keys: Iterable[int], *, entries: int) -> float:
    """The hit rate of the near cache with room for so many entries."""
    cache: NearCache[int, bool] = NearCache(max_bytes=entries * ENTRY_BYTES)
    hits = asked = 0
    for key in keys:
        asked += 1
        if cache.get(key, 0.0):
            hits += 1
        else:
            cache.put(key, True, size=0, expires=1.0)
    return hits / asked


def least_recently_used(keys: Iterable[int], *, entries: int) -> float:
    """That of the usual cache, to compare with."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = asked = 0
    for key in keys:
        asked += 1
        if key in cache:
            hits += 1
            cache.move_to_end(key)
            continue
        cache[key] = None
        if len(cache) > entries:
            cache.popitem(last=False)
    return hits / asked
