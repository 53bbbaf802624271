"""What callers of the cache hold: keys, values found, and times as the contract writes them."""

import time
from typing import NamedTuple

from google.protobuf import duration_pb2, timestamp_pb2

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.client._lanes import Lane
from peregrine.kit.context import Identity


class CacheKey(NamedTuple):
    """Where an entry lives; made by `CacheClient.key`."""

    identity: Identity
    near: tuple[str, str, str, bytes]
    message: pb.Key
    lane: Lane
    ghost: bool


class Cached(NamedTuple):
    """A value found. `born`: when it was true, on `time.monotonic()`; `cost` and `ttl` in seconds,
    `ttl` as it is now. `stale`: past its time, and the policy allows it. `absent`: it says that
    there is nothing. TIER_NONE: it was computed for this call."""

    value: bytes
    tier: pb.Tier
    born: float
    cost: float
    ttl: float = 0.0
    stale: bool = False
    absent: bool = False
    tags: tuple[str, ...] = ()
    epoch: int = 0

    @property
    def age(self) -> float:
        """Seconds."""
        return max(time.monotonic() - self.born, 0.0)


class Look(NamedTuple):
    """`epoch`: what a computation that begins now is to give to `CacheClient.set`; None when the
    cache is away."""

    cached: Cached | None
    epoch: int | None


def seconds_of(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def duration(seconds: float) -> duration_pb2.Duration:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=nanos)
