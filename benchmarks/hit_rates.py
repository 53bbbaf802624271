"""Hit rates in virtual time: the cache's own rules for freshness and eviction on a trace.

Where values live for a time t from when they were fetched, a key asked for r times a second is a
hit rt/(1+rt) of the time. On this trace that is 75.8 % for an hour in the long run, and 75.2 % in
8 h from a cold start: `PLAIN`. What lies above it is served while it is renewed: values whose time
has just ended, and that say so. `SHIPPED` is what the product does where nobody says otherwise.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable

from benchmarks import trace
from peregrine.cache.entry import Entry
from peregrine.cache.freshness import MAX_TTL, NO_POLICY, State, Terms, judge
from peregrine.cache.sketch import Frequent
from peregrine.client._near_cache import ENTRY_BYTES, NearCache
from peregrine.tools import results
from peregrine.tools.definition import Definition, Effect


async def _never_called(*_: object) -> str:
    return ""


# A tool that reads and declares nothing else, as in all these rows: cost class default, slow.
_TOOL = Definition(
    name="lookup",
    description="Looks something up.",
    input_schema={"type": "object"},
    effect=Effect.READ,
    function=_never_called,
)
HOUR = results.seconds(_TOOL)
_AT_MOST = results.seconds(dataclasses.replace(_TOOL, ttl=MAX_TTL))

SHIPPED = NO_POLICY
PLAIN = Terms(stale_while_revalidate=0.0)
# What operators tune to when values change once a day and one answer in twenty may be old
# (twice the share by the rate of change, rounded down to the grid).
TUNED = Terms(ttl=5_120.0, stale_while_revalidate=0.0)
WARMED_KEYS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """Of all calls: those answered from the cache, and of these the ones that said `stale`."""

    hits: float
    stale: float


def hit_rate(terms: Terms, *, warmed: bool = False, within: float = trace.SECONDS) -> Shares:
    """The shares of the first `within` seconds, for results of a tool under these terms of the
    policy. Whoever is given a stale value has it renewed.

    Args:
      warmed: the most frequent keys of the day before, as the service counts them, were loaded.
    """
    version = 1_700_000_000_000_000
    entries: dict[int, Entry] = {}
    if warmed:
        frequent: Frequent[int] = Frequent(WARMED_KEYS)
        for _, key in trace.calls(seed=trace.SEED - 1, seconds=24 * 3_600.0):
            frequent.count(key)
        for key, _ in frequent.most(WARMED_KEYS):
            version += 1
            entries[key] = _stored(version, 0.0)
    hits = stale = asked = 0
    for now, key in trace.calls(seconds=within):
        asked += 1
        entry = entries.get(key)
        state = State.OVER if entry is None else judge(entry, terms, now)[0]
        hits += state in (State.FRESH, State.STALE)
        stale += state is State.STALE
        if state is not State.FRESH:
            version += 1
            entries[key] = _stored(version, now)
    return Shares(hits / asked, stale / asked)


def _stored(version: int, now: float) -> Entry:
    """As a worker stores a result."""
    return Entry(value=b"", version=version, fetch_time=now, first_ttl=HOUR, ttl=_AT_MOST)


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
