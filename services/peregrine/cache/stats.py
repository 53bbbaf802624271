"""What was asked for, per tenant and namespace, since this replica began: the figures of GetStats.

A tenant chooses its namespaces, so what is counted by name is bounded; the rest is added up as
`other`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_MAX_NAMES = 10_000
OTHER = "other"


@dataclass(slots=True)
class Counts:
    near: int = 0
    redis: int = 0
    postgres: int = 0
    misses: int = 0
    evictions: int = 0

    @property
    def total(self) -> int:
        return self.near + self.redis + self.postgres + self.misses

    @property
    def hit_rate(self) -> float:
        return 1 - self.misses / self.total if self.total else 0.0


class Stats:
    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def asked(self, tenant: str, namespace: str, tier: str) -> None:
        """`tier`: "redis", "postgres", or empty for a miss."""
        counts = self._counts.get((tenant, namespace))
        if counts is None:
            counts = self._new(tenant, namespace)
        if tier == "redis":
            counts.redis += 1
        elif tier:
            counts.postgres += 1
        else:
            counts.misses += 1

    def near(self, tenant: str, namespace: str, *, hits: int, evictions: int) -> None:
        """What a caller's near cache did."""
        counts = self._counts.get((tenant, namespace)) or self._new(tenant, namespace)
        counts.near += max(hits, 0)
        counts.evictions += max(evictions, 0)

    def of(self, tenant: str, namespace: str) -> Iterator[tuple[str, Counts]]:
        """By namespace; of one only, unless its name is empty."""
        for (owner, name), counts in sorted(self._counts.items()):
            if owner == tenant and namespace in ("", name):
                yield name, counts

    def _new(self, tenant: str, namespace: str) -> Counts:
        if len(self._counts) >= _MAX_NAMES:
            namespace = OTHER
        return self._counts.setdefault((tenant, namespace), Counts())
