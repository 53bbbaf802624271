"""What every simulation shares: its seeds, all cores to run on, and rows of which the worst counts.

A simulation is a generator of rows, `rows(experiment)`, listed in `__main__`. It runs its cases by
`experiment.map(function, cases)`, with the seed as part of a case, and gives for each claim one row
that holds the worst value over all seeds: a law that holds on average fails somebody every day.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.rows import Bound, Row

Case = TypeVar("Case")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """`with Experiment(...)`: the processes end with it."""

    seeds: Sequence[int]
    images: Path | None
    """Where plots go; None: none are drawn."""
    pool: ProcessPoolExecutor | None = None

    @classmethod
    def begin(cls, *, seeds: int, images: Path | None, processes: int | None = None) -> Self:
        """One process per core, unless told otherwise."""
        count = processes or os.cpu_count() or 1
        return cls(
            seeds=range(1, seeds + 1),
            images=images,
            pool=ProcessPoolExecutor(count) if count > 1 else None,
        )

    def map(self, function: Callable[[Case], Result], cases: Iterable[Case]) -> list[Result]:
        """`function` of every case, in order. It has to be a function of a module."""
        if self.pool is None:
            return [function(case) for case in cases]
        return list(self.pool.map(function, cases))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def worst(
    name: str,
    values: Mapping[int, float],
    bound: Bound,
    *,
    unit: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Row:
    """The row of the seed that comes nearest to breaking the bound; all seeds are in its detail."""
    if not values:
        return Row(name=name, unit=unit, bound=bound, broken="no seed was run")
    pick = max if bound.at_most is not None else min
    seed = pick(values, key=lambda seed: values[seed])
    if bound.at_most is not None and bound.at_least is not None:
        raise ValueError("the worst of a range is not defined; make two rows")
    return Row(
        name=name,
        value=values[seed],
        unit=unit,
        bound=bound,
        detail={"worst_seed": seed, "by_seed": dict(values), **(detail or {})},
    )


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
