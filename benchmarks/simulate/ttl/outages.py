"""Prometheus on bad days: what arrives of a sample, by how it fails.

Each outage lasts half an hour, then a quarter of an hour all is well. In four hours there is one of
each kind; which comes first is the seed's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.simulate.ttl.tuned import EPOCH
from peregrine_operator.evidence import NoData, Sample

KINDS = ("down", "empty", "stale", "NaN", "flapping")
FIRST, LONG, PAUSE = 900.0, 1800.0, 840.0


@dataclass(slots=True)
class Outages:
    """A scrape that goes wrong by the time of day."""

    turn: int
    """How far the kinds are rotated."""
    last: Sample | None = None
    minute: int = 0
    """Of the outage."""

    def at(self, time: float) -> str:
        """Which kind; empty when all is well."""
        number, since = divmod(time - FIRST, LONG + PAUSE)
        if time < FIRST or number >= len(KINDS) or since > LONG:
            return ""
        return KINDS[(int(number) + self.turn) % len(KINDS)]

    def __call__(self, sample: Sample) -> Sample | NoData:
        kind = self.at(sample.time - EPOCH)
        if not kind:
            self.last, self.minute = sample, 0
            return sample
        spoilt = _SPOIL[kind](self, sample)
        self.minute += 1
        return spoilt


def _down(_: Outages, __: Sample) -> NoData:
    return NoData("down: connection refused")


def _empty(_: Outages, sample: Sample) -> Sample:
    """Prometheus is there and knows no worker."""
    return replace(sample, ghost_requests=0.0, ghost_misses={}, ghost_hit_ages={}, requests=None)


def _stale(outages: Outages, sample: Sample) -> Sample:
    """The newest that it has is from before."""
    return outages.last or replace(sample, time=sample.time - 600.0)


def _nan(_: Outages, sample: Sample) -> Sample:
    return replace(sample, ghost_misses=dict.fromkeys(sample.ghost_misses, math.nan))


def _flapping(outages: Outages, sample: Sample) -> Sample | NoData:
    """There for one to four minutes, then away for one or two."""
    if outages.minute % 7 in (0, 1, 4):
        return NoData("down: timeout")
    return sample


_SPOIL: dict[str, Callable[[Outages, Sample], Sample | NoData]] = dict(
    zip(KINDS, (_down, _empty, _stale, _nan, _flapping), strict=True)
)
