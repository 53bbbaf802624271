"""What is known of a namespace: counters of the last minutes, and what they say of every TTL.

Workers count for a sample of keys what caches with other times to live would have done (ghosts:
misses, and the ages of hits), and for every value that was fetched again its age and whether it had
changed. Each minute brings a `Sample` of increases; `Evidence` adds it to what is left of the ones
before, of which half is forgotten every quarter of an hour. From it come, for every time to live,
the share of answers that would be stale and what a request would cost (`curve`).

Two corrections. When values change much more, or less, often than what is remembered says, then
what is remembered of a slower or faster world is no evidence any more and is dropped (`surprised`):
waiting until it is forgotten would serve stale answers for a quarter of an hour. And a sample of
keys has too many or too few of the most popular ones: the difference to the sixteenth of requests
that there should be is taken as hits (SHARDS-adj, Waldspurger et al. 2015).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peregrine_operator import changes
from peregrine_operator.changes import BUCKETS, Ages, Rate

FIRST = 5.0
"""The shortest time to live of the grid; each next one is twice as long."""
SAMPLED = 1.0 / 16.0
HALF_LIFE = 900.0
# Deviations beyond which what is remembered is dropped. One minute in 30,000 does so by chance.
_SURPRISE = 4.0
_NONE = Ages()


def grid(highest: float) -> tuple[float, ...]:
    """The times to live up to `highest` seconds."""
    ttls, ttl = [FIRST], 2.0 * FIRST
    while ttl <= highest:
        ttls.append(ttl)
        ttl *= 2.0
    return tuple(ttls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What Prometheus says of one namespace: increases over the `seconds` before `time`, summed
    over all processes. Times to live are in seconds."""

    time: float
    """Unix time of the newest scrape in it."""
    seconds: float
    ghost_requests: float
    ghost_misses: Mapping[float, float]
    """By time to live."""
    ghost_hit_ages: Mapping[float, Sequence[float]]
    """By time to live: how many by bucket of `changes.EDGES`; missing buckets are empty."""
    changed: Ages
    unchanged: Ages
    misses: float
    miss_seconds: float
    """What they took together."""
    requests: float | None = None
    """All, sampled or not; None: not known."""
    entry_bytes: float = 0.0
    memory_used: float | None = None
    """Of what the shared tier may use, 0 to 1; None: not known."""
    evicted: float | None = None
    """Share of entries evicted per minute."""


@dataclass(frozen=True, slots=True)
class NoData:
    """Prometheus gave nothing to go by; `why` in a few words."""

    why: str


@dataclass(frozen=True, slots=True)
class Point:
    """What one time to live would do, per request."""

    ttl: float
    misses: float
    stale: float
    """At most, with 95 %."""
    likely_stale: float
    cost: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Counts with what is older weighing less. By place in the grid where they are tuples."""

    newest: float = 0.0
    """`time` of the last sample."""
    requests: float = 0.0
    misses: tuple[float, ...] = ()
    hit_ages: tuple[tuple[float, ...], ...] = ()
    changed: Ages = _NONE
    unchanged: Ages = _NONE
    all_requests: float = 0.0
    fetches: float = 0.0
    fetch_seconds: float = 0.0
    entry_bytes: float = 0.0

    def plus(self, sample: Sample, *, ttls: Sequence[float], passed: float) -> "Evidence":
        """With a sample that came `passed` seconds after the one before."""
        kept = 0.5 ** (max(passed, 0.0) / HALF_LIFE)
        kept_changes = 0.0 if self.surprised(sample) else kept
        known = sample.requests if sample.requests is not None else 0.0
        return Evidence(
            newest=sample.time,
            requests=_short(kept * self.requests + sample.ghost_requests),
            misses=tuple(
                _short(kept * old + sample.ghost_misses.get(ttl, 0.0))
                for ttl, old in zip(ttls, _filled(self.misses, len(ttls), 0.0), strict=True)
            ),
            hit_ages=tuple(
                _added(old, sample.ghost_hit_ages.get(ttl, ()), kept, changes.bucket(ttl) + 1)
                for ttl, old in zip(ttls, _filled(self.hit_ages, len(ttls), ()), strict=True)
            ),
            changed=_shortened(self.changed.plus(sample.changed, kept=kept_changes)),
            unchanged=_shortened(self.unchanged.plus(sample.unchanged, kept=kept_changes)),
            all_requests=_short(kept * self.all_requests + known),
            fetches=_short(kept * self.fetches + sample.misses),
            fetch_seconds=_short(kept * self.fetch_seconds + sample.miss_seconds),
            entry_bytes=_short(sample.entry_bytes or self.entry_bytes),
        )

    def surprised(self, sample: Sample) -> bool:
        """Whether values change at another rate now than in what is remembered."""
        before = changes.rate(self.changed, self.unchanged)
        if before is None:
            return False
        found = changes.surprise(before, sample.changed, sample.unchanged)
        return abs(found) > _SURPRISE

    def rate(self, ttl: float = math.inf) -> Rate | None:
        """For answers up to the age of `ttl`; None when nothing was compared."""
        return changes.rate(self.changed, self.unchanged, about=ttl)

    @property
    def miss_cost(self) -> float | None:
        """Seconds; None when nothing was fetched."""
        return self.fetch_seconds / self.fetches if self.fetches > 0.0 else None

    def curve(
        self,
        *,
        least: float,
        ttls: Sequence[float],
        rate: Rate,
        miss_cost: float,
        stale_cost: float,
        byte_price: float,
    ) -> list[Point]:
        """A point for each time to live.

        Args:
          least: requests seen below which a time to live is left out.
          byte_price: of a byte kept for a second.
        """
        more = self.all_requests * SAMPLED - self.requests if self.all_requests > 0.0 else 0.0
        points = []
        for ttl, misses, hits in zip(ttls, self.misses, self.hit_ages, strict=True):
            counted = misses + math.fsum(hits)
            if counted < least:
                continue
            # Popular keys are nearly always hits, of any age up to the time to live.
            extra = max(more, misses - counted) * min(2.0 - 2.0 * misses / counted, 1.0)
            requests = counted + extra
            middles = changes.middles(ttl)[: len(hits)]
            # Ghosts that were all fetched of late, as after a start, have not grown old yet. In the
            # long run requests find every age up to the time to live equally often.
            likely, upper = (
                max(
                    _stale(hits, middles, one) + extra * _uniformly(one * ttl),
                    max(requests - misses, 0.0) * _uniformly(one * ttl),
                )
                for one in (rate.likely, rate.upper)
            )
            kept = misses * ttl * self.entry_bytes * byte_price
            points.append(
                Point(
                    ttl,
                    misses / requests,
                    upper / requests,
                    likely / requests,
                    (misses * miss_cost + likely * stale_cost + kept) / requests,
                )
            )
        return points

    def to_status(self) -> dict[str, Any]:
        return {
            "newest": self.newest,
            "requests": self.requests,
            "misses": list(self.misses),
            "hitAges": [list(row) for row in self.hit_ages],
            "changed": _ages_to_status(self.changed),
            "unchanged": _ages_to_status(self.unchanged),
            "allRequests": self.all_requests,
            "fetches": self.fetches,
            "fetchSeconds": self.fetch_seconds,
            "entryBytes": self.entry_bytes,
        }

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> "Evidence":
        """Raises KeyError, TypeError or ValueError for what `to_status` did not write."""
        return cls(
            newest=_number(status["newest"]),
            requests=_number(status["requests"]),
            misses=_numbers(status["misses"]),
            hit_ages=tuple(_numbers(row) for row in status["hitAges"]),
            changed=_ages_from_status(status["changed"]),
            unchanged=_ages_from_status(status["unchanged"]),
            all_requests=_number(status["allRequests"]),
            fetches=_number(status["fetches"]),
            fetch_seconds=_number(status["fetchSeconds"]),
            entry_bytes=_number(status["entryBytes"]),
        )


def problem(
    sample: Sample, *, needed: Sequence[float], now: float, oldest: float, after: float
) -> str:
    """Why nothing may be concluded from it; empty when all is well.

    Args:
      needed: the times to live of which there have to be ghosts.
      oldest: seconds of age beyond which it is not of now.
      after: Unix time of the sample before, in which it must not have been contained.
    """
    for ttl in (*needed, *sample.ghost_misses, *sample.ghost_hit_ages):
        if ttl not in sample.ghost_misses or ttl not in sample.ghost_hit_ages:
            return f"incomplete: no ghosts of {ttl:g} s"
    numbers = [
        sample.time,
        sample.seconds,
        sample.ghost_requests,
        *sample.ghost_misses.values(),
        *(count for row in sample.ghost_hit_ages.values() for count in row),
        *(part for ages in (sample.changed, sample.unchanged) for part in ages.counts),
        *(sample.changed.total, sample.unchanged.total, sample.misses, sample.miss_seconds),
        *(sample.entry_bytes, sample.requests or 0.0),
        *(sample.memory_used or 0.0, sample.evicted or 0.0),
    ]
    if not all(map(math.isfinite, numbers)):
        return "not a number"
    if min(numbers) < 0.0:
        return "a negative count"
    if sample.seconds <= 0.0:
        return "covers no time"
    if abs(now - sample.time) > oldest:
        return f"stale: {now - sample.time:.0f} s old"
    if sample.time <= after:
        return "stale: no scrape since the last decision"
    # Increases are extrapolated, each series by itself; more than that is no rounding.
    most = 1.05 * sample.ghost_requests + 1.0
    for ttl, misses in sample.ghost_misses.items():
        if misses + math.fsum(sample.ghost_hit_ages[ttl]) > 1.5 * most:
            return f"more ghosts of {ttl:g} s than requests"
    if sample.ghost_requests <= 0.0 and not sample.requests:
        return "empty: no requests"
    return ""


def _stale(hits: Sequence[float], ages: Sequence[float], rate: float) -> float:
    return math.fsum(
        -count * math.expm1(-rate * age) for count, age in zip(hits, ages, strict=True)
    )


def _uniformly(changes_: float) -> float:
    """The share of hits that are stale when all ages up to the time to live are as frequent."""
    if changes_ < 1e-6:
        return changes_ / 2.0
    return 1.0 + math.expm1(-changes_) / changes_


def _added(
    old: Sequence[float], new: Sequence[float], kept: float, buckets: int
) -> tuple[float, ...]:
    before = _filled(old, buckets, 0.0)
    more = _filled(new, buckets, 0.0)
    return tuple(_short(kept * a + b) for a, b in zip(before, more, strict=True))


def _filled(row: Sequence[Any], length: int, empty: Any) -> list[Any]:
    return [*row[:length], *([empty] * (length - len(row)))]


def _short(value: float) -> float:
    """Six digits, so that a status stays small and what is read from it is what was known."""
    return float(f"{value:.6g}")


def _shortened(ages: Ages) -> Ages:
    return Ages(tuple(map(_short, ages.counts)), _short(ages.total))


def _ages_to_status(ages: Ages) -> dict[str, Any]:
    return {"counts": list(ages.counts), "total": ages.total}


def _ages_from_status(status: Mapping[str, Any]) -> Ages:
    counts = _numbers(status["counts"])
    if len(counts) != BUCKETS:
        raise ValueError(f"{len(counts)} buckets in place of {BUCKETS}")
    return Ages(counts, _number(status["total"]))


def _numbers(row: Any) -> tuple[float, ...]:
    return tuple(map(_number, row))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0.0:
        raise ValueError(f"{value!r} is no count")
    return number
