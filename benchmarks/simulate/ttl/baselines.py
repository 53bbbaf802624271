"""What others do: fixed times to live, the Alex protocol, and what nobody can do: know the future.

Every policy is charged the same way: the miss cost for every request that goes to the origin, the
stale cost for every answer that is older than the truth.

* *Fixed*: one time to live for all; the best one is chosen in hindsight.
* *Alex* (Cate 1992, Gwertzman and Seltzer 1996; the heuristic freshness of RFC 9111): a value that
  has not changed for long will not change soon; the time to live is a share of the time since the
  last change, which the origin tells at every fetch. What it can tell is `Knows`.
* *Static per namespace*: for each namespace its best fixed time to live in hindsight, among those
  whose share of stale answers is within the bound, or among all.
* *Clairvoyant*: told every change and every request, it pays for each version of a value whichever
  is less, one miss or all its stale answers, and the first fetch of each key. Nothing is cheaper.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.simulate.ttl.trace import Namespace, Trace

ByKey = Sequence[tuple[list[float], list[float]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy did in one namespace."""

    requests: int
    misses: int
    stale: int
    cost: float

    @property
    def stale_share(self) -> float:
        return self.stale / self.requests

    @property
    def cost_per_1000(self) -> float:
        return 1000.0 * self.cost / self.requests


def together(outcomes: Iterable[Outcome]) -> Outcome:
    all_ = list(outcomes)
    return Outcome(
        sum(one.requests for one in all_),
        sum(one.misses for one in all_),
        sum(one.stale for one in all_),
        sum(one.cost for one in all_),
    )


class Price:
    """What a miss costs at a time."""

    def __init__(self, namespace: Namespace) -> None:
        self._times = [time for time, _ in namespace.cost_steps]
        self._costs = [factor * namespace.miss_cost for _, factor in namespace.cost_steps]
        self.constant = len(self._costs) == 1
        self.first = self._costs[0]

    def at(self, time: float) -> float:
        return self._costs[bisect_right(self._times, time) - 1]


def fixed(trace: Trace, keys: ByKey, ttl: float) -> Outcome:
    """From fetch to fetch: the requests until the value expires are hits, those after its change
    stale; two searches in place of a look at each, and none where there is no hit."""
    price, stale, misses, cost = Price(trace.namespace), 0, 0, 0.0
    for times, changes in keys:
        place, count = 0, len(times)
        while place < count:
            fetched = times[place]
            misses += 1
            if not price.constant:
                cost += price.at(fetched)
            expires, first = fetched + ttl, place + 1
            place = first
            if place < count and times[place] < expires:
                place = bisect_left(times, expires, place + 1)
                if changes[place - 1] > fetched:
                    stale += place - bisect_right(changes, fetched, first, place)
    if price.constant:
        cost = misses * price.first
    cost += stale * trace.namespace.stale_cost
    return Outcome(len(trace.times), misses, stale, cost)


class Knows(StrEnum):
    """What Alex knows of the last change of a value."""

    TOLD = "told"
    """When it was; values are as old as the trace at the most."""
    SEEN = "seen"
    """Only what a cache sees by itself: that a value was another one at the fetch before."""
    EVER = "ever"
    """When it was, however long before the trace: for half of all keys a history of days."""


def alex(
    trace: Trace, keys: ByKey, *, share: float, lowest: float, highest: float, knows: Knows
) -> Outcome:
    price, stale, misses, cost = Price(trace.namespace), 0, 0, 0.0
    ever, told = knows is Knows.EVER, knows is Knows.TOLD
    for times, changes in keys:
        place, count = 0, len(times)
        before = since = times[0]
        while place < count:
            fetched = times[place]
            misses += 1
            if not price.constant:
                cost += price.at(fetched)
            changed = changes[place]
            if ever:
                since = changed
            elif told:
                since = changed if changed > 0.0 else 0.0
            elif changed > before:
                since = fetched
            before = fetched
            ttl = share * (fetched - since)
            if ttl < lowest:
                ttl = lowest
            elif ttl > highest:
                ttl = highest
            expires, first = fetched + ttl, place + 1
            place = first
            if place < count and times[place] < expires:
                place = bisect_left(times, expires, place + 1)
                if changes[place - 1] > fetched:
                    stale += place - bisect_right(changes, fetched, first, place)
    if price.constant:
        cost = misses * price.first
    cost += stale * trace.namespace.stale_cost
    return Outcome(len(trace.times), misses, stale, cost)


def clairvoyant(trace: Trace, keys: ByKey) -> Outcome:
    price, each, stale, misses, cost = Price(trace.namespace), trace.namespace.stale_cost, 0, 0, 0.0
    for times, changes in keys:
        misses += 1
        cost += price.at(times[0])
        place, count = bisect_right(changes, times[0]), len(times)
        while place < count:
            end = bisect_right(changes, changes[place], place)
            miss = price.at(times[place])
            if miss <= (end - place) * each:
                misses += 1
                cost += miss
            else:
                stale += end - place
                cost += (end - place) * each
            place = end
    return Outcome(len(trace.times), misses, stale, cost)


def best_static(by_ttl: dict[float, Outcome], *, stale_share: float = 1.0) -> tuple[float, Outcome]:
    """The cheapest within the bound; the shortest when none is within it."""
    within = {ttl: one for ttl, one in by_ttl.items() if one.stale_share <= stale_share}
    if not within:
        shortest = min(by_ttl)
        return shortest, by_ttl[shortest]
    return min(within.items(), key=lambda item: item[1].cost)
