"""How fast values change, learnt from looking at them now and then.

Whoever fetches a value again compares it with the one before and counts the age of that one: in one
histogram when it was different, in another when it was not. If changes come as a Poisson process of
rate r, a value of age a has changed with probability 1 - exp(-r·a), so the likeliest rate solves

    Σ over changed of a / (exp(r·a) - 1)  =  Σ over unchanged of a

(Cho and Garcia-Molina 2003: counting changes and dividing by time is biased, because several
changes between two looks count as one). Half a change more is assumed than was seen: without it the
rate of a value that never changed would be nought, and its time to live without end.

Histograms double from bucket to bucket, and times to live do as well. Ages at which values are
fetched again gather a little above the time to live, so a bucket reaches from a time to live
divided by √2 to √2 times it. What a histogram forgets within its buckets its sum still knows.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Upper ends of the buckets in seconds, up to 43 days; one more bucket takes what is older.
EDGES = tuple(5.0 * 2.0 ** (place + 0.5) for place in range(-3, 20))
BUCKETS = len(EDGES) + 1

_LOWEST_RATE, _HIGHEST_RATE = 1e-10, 10.0
# One-sided 95 %.
_SIGMAS = 1.64
# Comparisons that have faded to less than this are none.
_FADED = 1e-6
# Nothing seen in so many means below three in so many, with 95 %.
_NONE_SEEN = 3.0
ENOUGH_CHANGED = 5.0
"""Changes below which chance decides."""


def bucket(age: float) -> int:
    """Which bucket counts it."""
    return bisect.bisect_left(EDGES, age)


def middles(limit: float = math.inf) -> list[float]:
    """An age for each bucket; `limit` is an age that nothing exceeds."""
    lower = [0.0, *EDGES]
    upper = [*EDGES, 2.0 * EDGES[-1]]
    return [
        (low + max(min(high, limit), low)) / 2.0 for low, high in zip(lower, upper, strict=True)
    ]


_MIDDLES = middles()


@dataclass(frozen=True, slots=True)
class Ages:
    """A histogram of ages: counts by bucket, and the sum of all ages in seconds."""

    counts: tuple[float, ...] = (0.0,) * BUCKETS
    total: float = 0.0

    def count(self) -> float:
        return math.fsum(self.counts)

    def plus(self, more: "Ages", *, kept: float = 1.0) -> "Ages":
        """`kept`: what of these remains."""
        return Ages(
            tuple(kept * old + new for old, new in zip(self.counts, more.counts, strict=True)),
            kept * self.total + more.total,
        )

    def spread(self, upto: int = BUCKETS) -> list[tuple[float, float]]:
        """(age, how many), without empty buckets; the ages of all add up to the sum."""
        guessed = math.fsum(count * age for count, age in zip(self.counts, _MIDDLES, strict=True))
        # A bucket is a factor of two wide: its middle is wrong by no more than this.
        right = min(max(self.total / guessed, 0.6), 1.6) if guessed > 0.0 else 1.0
        return [
            (right * age, count)
            for count, age in zip(self.counts[:upto], _MIDDLES, strict=False)
            if count > 0.0
        ]


@dataclass(frozen=True, slots=True)
class Rate:
    """Changes per second: the likeliest, and what it is below with 95 %."""

    likely: float
    upper: float
    compared: float
    changed: float


def rate(changed: Ages, unchanged: Ages, *, about: float = math.inf) -> Rate | None:
    """None when nothing was compared.

    Args:
      about: the age of interest. Keys change at different rates, and of an old value only whether
        its key is a slow one can still be told; so if enough was compared that is not much older,
        the rest is left out.
    """
    nearby = bucket(2.0 * about) + 1
    if math.fsum(changed.counts[:nearby]) < ENOUGH_CHANGED:
        nearby = BUCKETS
    differing, same = changed.spread(nearby), unchanged.spread(nearby)
    seen = math.fsum(count for _, count in differing)
    compared = seen + math.fsum(count for _, count in same)
    if compared < _FADED:
        return None
    still = math.fsum(age * count for age, count in same)
    likely = _solve(differing, still)
    upper = likely * (1.0 + _SIGMAS / math.sqrt(max(1.0, seen)))
    if seen < 1.0:
        looked = still + math.fsum(age * count for age, count in differing)
        upper = max(upper, min(_NONE_SEEN / looked, _HIGHEST_RATE))
    return Rate(likely, upper, compared, seen)


def surprise(known: Rate, changed: Ages, unchanged: Ages) -> float:
    """By how many standard deviations more values changed than was to be expected; negative: fewer.

    Deviations of what is counted now and of what the rate was learnt from, together.
    """
    mean = variance = 0.0
    for ages in (changed, unchanged):
        for age, count in ages.spread():
            stays = math.exp(-known.likely * age)
            mean += count * (1.0 - stays)
            variance += count * stays * (1.0 - stays)
    variance += mean * mean / (known.changed + 0.5)
    # One more in the variance: a handful proves nothing.
    return (changed.count() - mean) / math.sqrt(variance + 1.0)


def _solve(differing: Sequence[tuple[float, float]], still: float) -> float:
    """The root of a falling function, by halving, on a logarithmic scale."""
    low, high = math.log(_LOWEST_RATE), math.log(_HIGHEST_RATE)
    for _ in range(36):
        middle = (low + high) / 2.0
        guess = math.exp(middle)
        found = 0.5 / guess
        for age, count in differing:
            exponent = guess * age
            found += count * age / math.expm1(exponent) if exponent < 500.0 else 0.0
        if found > still:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2.0)
