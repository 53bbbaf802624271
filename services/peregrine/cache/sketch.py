"""Counts the most frequent of very many things in little room. Pure.

The summary of Misra and Gries (Finding repeated elements, 1982) in the mergeable form of Agarwal et
al. (Mergeable Summaries, PODS 2012): counters for twice as many things as are wanted; when they are
all taken, the count in the middle is subtracted from every one, and what has none left is dropped.
What was counted n times of N is reported with at least n - N/k, so whatever is more frequent than
one in k is there. Summaries of several processes, or hours, are added up.

Taking the counters away in batches makes counting one dictionary operation, amortised.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Frequent(Generic[K]):
    """`k`: things whose counts are to be right; up to twice as many are held."""

    __slots__ = ("_counts", "_k")

    def __init__(self, k: int) -> None:
        self._k = k
        self._counts: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, thing: K, times: int = 1) -> None:
        counts = self._counts
        counts[thing] = counts.get(thing, 0) + times
        if len(counts) >= 2 * self._k:
            self._shrink()

    def most(self, limit: int) -> list[tuple[K, int]]:
        """The most frequent ones with their counts, the most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda each: each[1], reverse=True)
        return ordered[:limit]

    def take(self) -> dict[K, int]:
        """The counts, which begin anew."""
        counts, self._counts = self._counts, {}
        return counts

    def _shrink(self) -> None:
        middle = sorted(self._counts.values(), reverse=True)[self._k]
        self._counts = {
            thing: count - middle for thing, count in self._counts.items() if count > middle
        }
