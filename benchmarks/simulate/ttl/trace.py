"""Requests for keys whose values change: what a cache sees, and what it cannot see.

A namespace is asked for keys by Zipf's law at Poisson times. Each key's value changes as a Poisson
process of its own rate, which a factor over time speeds up or slows down. Nothing but the time of
the last change matters to a cache: a value fetched at `f` is stale at `t` exactly when the last
change before `t` came after `f`. That time can be drawn request by request, without drawing the
changes themselves: looking back from a request, the last change lies an exponential time ago, and
if that is before the key's previous request, then nothing changed in between. So a request is three
numbers, whatever the rate of change: time, key, time of the last change.

Changes are drawn on a clock that runs as fast as the factor says (`Tempo`), on which the rate of
each key is constant.
"""

import bisect
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

HOUR = 3600.0


class Tempo:
    """A factor on all rates of change, constant between the given times.

    Args:
      steps: (from when, factor), beginning at time 0.
    """

    def __init__(self, steps: Sequence[tuple[float, float]] = ((0.0, 1.0),)) -> None:
        self._times = [time for time, _ in steps]
        self._factors = [factor for _, factor in steps]
        self._marks = [0.0]
        for (begin, factor), (end, _) in itertools.pairwise(steps):
            self._marks.append(self._marks[-1] + (end - begin) * factor)

    def passed(self, time: float) -> float:
        """What the clock of changes shows; before time 0 it runs as at time 0."""
        place = max(bisect.bisect_right(self._times, time) - 1, 0)
        return self._marks[place] + (time - self._times[place]) * self._factors[place]

    def time(self, passed: float) -> float:
        place = max(bisect.bisect_right(self._marks, passed) - 1, 0)
        return self._times[place] + (passed - self._marks[place]) / self._factors[place]


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """What is asked for, how it changes, and what a miss and a stale answer cost.

    Costs are in seconds that somebody waits.
    """

    name: str
    change_rate: float
    """Changes per second of a key, in the mean."""
    miss_cost: float
    stale_cost: float
    spread: float = 0.8
    """Of the keys' rates: sigma of a lognormal."""
    keys: int = 3000
    zipf: float = 0.9
    rate: float = 8.0
    """Requests per second."""
    load: Callable[[float], float] | None = None
    """A factor on the request rate, over time."""
    peak: float = 1.0
    """The highest that `load` gives."""
    tempo: Tempo = field(default_factory=Tempo)
    shifts: tuple[float, ...] = ()
    """When popularity moves to other keys."""
    once: float = 0.0
    """The share of requests that ask for a key which nobody asks for again."""
    cost_steps: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """(from when, factor on the miss cost)."""
    entry_bytes: float = 2048.0
    memory: tuple[tuple[float, float], ...] = ()
    """(from when, bytes that there are for it); without, there is enough."""


@dataclass(frozen=True)
class Trace:
    """Requests in the order of time. `changes[i]`: when the value of `keys[i]` last changed."""

    namespace: Namespace
    seconds: float
    times: list[float]
    keys: list[int]
    changes: list[float]

    def by_key(self) -> list[tuple[list[float], list[float]]]:
        """(times, changes) for every key."""
        found: dict[int, tuple[list[float], list[float]]] = {}
        for time, key, change in zip(self.times, self.keys, self.changes, strict=True):
            row = found.get(key)
            if row is None:
                row = found[key] = ([], [])
            row[0].append(time)
            row[1].append(change)
        return list(found.values())


def draw(namespace: Namespace, *, seconds: float, seed: str) -> Trace:
    """The same arguments give the same trace."""
    random_ = random.Random(seed)
    times = _arrivals(namespace, seconds, random_)
    keys = _keys(namespace, times, random_)
    return Trace(namespace, seconds, times, keys, _changes(namespace, times, keys, random_))


def _arrivals(namespace: Namespace, seconds: float, random_: random.Random) -> list[float]:
    """Poisson with a rate over time, by thinning."""
    pause, load, peak = random_.expovariate, namespace.load, namespace.peak
    rate = namespace.rate * peak
    times, time = [], pause(rate)
    while time < seconds:
        if load is None or random_.random() * peak < load(time):
            times.append(time)
        time += pause(rate)
    return times


def _keys(namespace: Namespace, times: list[float], random_: random.Random) -> list[int]:
    weights = (rank**-namespace.zipf for rank in range(1, namespace.keys + 1))
    keys = random_.choices(
        range(namespace.keys), cum_weights=list(itertools.accumulate(weights)), k=len(times)
    )
    for number, begin in enumerate(namespace.shifts, start=1):
        # Ranks move on to other keys; most of the popular ones become unpopular.
        by = number * namespace.keys // 3
        for place in range(bisect.bisect_left(times, begin), len(times)):
            keys[place] = (keys[place] + by) % namespace.keys
    if namespace.once:
        fresh = itertools.count(namespace.keys)
        keys = [next(fresh) if random_.random() < namespace.once else key for key in keys]
    return keys


def _changes(
    namespace: Namespace, times: list[float], keys: list[int], random_: random.Random
) -> list[float]:
    tempo, pause = namespace.tempo, random_.expovariate
    # So that the mean over keys is the rate, not the median.
    middle = math.log(namespace.change_rate) - namespace.spread**2 / 2
    spread = namespace.spread
    # By key: its rate, what the clock showed at its last request, and at the change before that.
    seen: dict[int, tuple[float, float, float]] = {}
    changes = []
    for time, key in zip(times, keys, strict=True):
        passed = tempo.passed(time)
        last = seen.get(key)
        if last is None:
            rate = random_.lognormvariate(middle, spread)
            change = passed - pause(rate)
        else:
            rate, before, change = last
            back = passed - pause(rate)
            if back > before:
                change = back
        seen[key] = (rate, passed, change)
        changes.append(tempo.time(change))
    return changes
