"""What Prometheus knows of the pools, read so that unknown never looks like zero.

One query per signal asks for all pools at once (`by (pool)`); `by_pool` sorts the answers and
`read` judges those of one pool. It gives `Signals`, or `NoData` with the reason why nothing may be
concluded: the query failed, there is no series where one must be (exporters create every label set
when they start, so no load is a present 0), a value is not a number, there are several series where
one was asked for, the newest sample of some worker is old (an instant query may go back 5 minutes),
or less than half of the workers that are ready are among the series.

If half of the workers or more are there, what workers count is scaled up to all of them, and
`coverage` says that it was: good enough to grow, not to shrink.

Demand is counted by callers, each call once, when they first ask: workers count a call again when
it comes back after a refusal, and what waits with a caller until it may come back is queued as well
as what waits at a worker. Where no caller counts, what arrived at the workers is taken; so it is
where clearly more arrives than callers count and nothing was refused, because then somebody else
calls, too. What
the workers started is used only as a second opinion before shrinking, so that callers who are not
scraped do not shrink a busy pool.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["error", "empty", "nonfinite", "shape", "stale", "coverage"]

MAX_AGE = 20.0
"""Seconds after which the oldest of the newest samples is too old."""
MIN_COVERAGE = 0.5
MIN_EXECUTIONS = 20
"""Executions in five minutes below which their mean time means nothing."""
_ABSURD = 1e9
_CLEARLY = 1.25

_FRESH = f"peregrine_tool_slots and (time() - timestamp(peregrine_tool_slots) < {MAX_AGE:g})"


def _demand(window: str) -> str:
    return (
        f"sum by (pool) (rate(peregrine_tool_calls_total[{window}]))"
        f" - sum by (pool) (rate(peregrine_tool_calls_cached_total[{window}]))"
    )


def _arrived(window: str) -> str:
    return f"sum by (pool) (rate(peregrine_tool_requests_total[{window}]))"


QUERIES: Mapping[str, str] = {
    **{f"demand_{window}": _demand(window) for window in ("10s", "15s", "60s")},
    **{f"arrived_{window}": _arrived(window) for window in ("10s", "15s", "60s")},
    "shed_60s": "sum by (pool) (rate(peregrine_tool_shed_total[60s]))",
    "started_60s": "sum by (pool) (rate(peregrine_tool_started_total[60s]))",
    "busy_5m": "sum by (pool) (increase(peregrine_tool_exec_seconds_sum[5m]))",
    "executions_5m": "sum by (pool) (increase(peregrine_tool_exec_seconds_count[5m]))",
    "queued": "sum by (pool) (peregrine_tool_queue_depth)",
    "waiting": "sum by (pool) (peregrine_tool_calls_waiting)",
    "inflight": "sum by (pool) (peregrine_tool_inflight)",
    "workers": f"count by (pool) ({_FRESH})",
    "age": "time() - min by (pool) (timestamp(peregrine_tool_slots))",
    "waits_60s": "sum by (pool, le) (rate(peregrine_tool_queue_wait_seconds_bucket[60s]))",
}
"""PromQL of every signal, for all pools at once. All are asked at the same instant."""


@dataclass(frozen=True, slots=True)
class Series:
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The query was not answered: connection, timeout, status, or an answer that is no vector."""

    message: str


Answer = Sequence[Series] | Failure
Answers = Mapping[str, Answer]
"""By the names of `QUERIES`."""
_Vectors = Mapping[str, Sequence[Series]]


@dataclass(frozen=True, slots=True)
class NoData:
    """Nothing may be concluded; hold."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Rates per second, times in seconds."""

    demand_fast: float
    demand_stable: float
    started_stable: float
    service: float | None
    """Mean time of an execution; None: too few to tell."""
    queued: float
    inflight: float
    wait_p95: float | None
    """Of the last minute; None: nothing started in it."""
    coverage: float
    """The part of the ready workers that is seen, 0.5 to 1."""
    by_callers: bool = True
    """Demand is counted by callers; else by workers, which come and go."""


class Answered:
    """The answers to all queries, by pool."""

    def __init__(self, answers: Answers) -> None:
        self._failures = {
            name: answer for name, answer in answers.items() if isinstance(answer, Failure)
        }
        self._vectors: dict[str, dict[str, list[Series]]] = {}
        for name, answer in answers.items():
            if not isinstance(answer, Failure):
                by_pool: defaultdict[str, list[Series]] = defaultdict(list)
                self._vectors[name] = by_pool
                for series in answer:
                    by_pool[series.labels.get("pool", "")].append(series)

    def of(self, pool: str) -> Answers:
        vectors = {name: found.get(pool, ()) for name, found in self._vectors.items()}
        return {**vectors, **self._failures}


class _Unusable(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.no_data = NoData(reason, message)


def read(answers: Answers, *, fast: int, workers: int) -> Signals | NoData:
    """The signals of one pool.

    `fast` is the profile's fast window in seconds (10 or 15). `workers` is how many workers have to
    be among the series: those that are ready, are not terminating, and have been ready for longer
    than a scrape takes to find them; with none of them, only callers are asked.
    """
    try:
        return _read(answers, fast, workers)
    except _Unusable as unusable:
        return unusable.no_data


def _read(answers: Answers, fast: int, workers: int) -> Signals:
    vectors: dict[str, Sequence[Series]] = {}
    for name, answer in sorted(answers.items()):
        if isinstance(answer, Failure):
            raise _Unusable("error", f"{name}: {answer.message}")
        vectors[name] = answer
    fast_window, called = f"{fast}s", bool(vectors.get("demand_60s"))
    demand_fast = demand_stable = None
    waiting = 0.0
    if called:
        waiting = _one(vectors, "waiting")
        demand_fast = _one(vectors, f"demand_{fast_window}", least=-math.inf)
        demand_stable = _one(vectors, "demand_60s", least=-math.inf)
    if workers == 0:
        if demand_fast is None or demand_stable is None:
            raise _Unusable("empty", "no worker is ready, and no caller counts its calls")
        return Signals(
            demand_fast=max(demand_fast, 0.0),
            demand_stable=max(demand_stable, 0.0),
            started_stable=0.0,
            service=None,
            queued=waiting,
            inflight=0.0,
            wait_p95=None,
            coverage=1.0,
        )
    age = _one(vectors, "age", least=-math.inf)
    if age > MAX_AGE:
        raise _Unusable("stale", f"the oldest sample is {age:.0f} s old")
    seen = min(_one(vectors, "workers") / workers, 1.0)
    if seen < MIN_COVERAGE:
        raise _Unusable("coverage", f"{seen:.0%} of {workers} ready workers are seen")
    if demand_fast is None or demand_stable is None or _others_call(vectors, demand_stable * seen):
        called = False
        demand_fast = _one(vectors, f"arrived_{fast_window}") / seen
        demand_stable = _one(vectors, "arrived_60s") / seen
    busy, executions = _one(vectors, "busy_5m"), _one(vectors, "executions_5m")
    return Signals(
        demand_fast=max(demand_fast, 0.0),
        demand_stable=max(demand_stable, 0.0),
        started_stable=_one(vectors, "started_60s") / seen,
        service=busy / executions if executions >= MIN_EXECUTIONS else None,
        queued=_one(vectors, "queued") / seen + waiting,
        inflight=_one(vectors, "inflight") / seen,
        wait_p95=_quantile(vectors.get("waits_60s", ()), 0.95),
        coverage=seen,
        by_callers=called,
    )


def _others_call(vectors: _Vectors, counted: float) -> bool:
    refused = _one(vectors, "shed_60s")
    return refused == 0 and _one(vectors, "arrived_60s") > _CLEARLY * max(counted, 0.0) + 0.1


def _one(vectors: _Vectors, name: str, *, least: float = 0.0) -> float:
    answer = vectors.get(name, ())
    if not answer:
        raise _Unusable("empty", f"{name}: no series")
    if len(answer) > 1:
        raise _Unusable("shape", f"{name}: {len(answer)} series instead of one")
    return _usable(name, answer[0].value, least)


def _usable(name: str, value: float, least: float = 0.0) -> float:
    if not math.isfinite(value) or value < least or value > _ABSURD:
        raise _Unusable("nonfinite", f"{name}: {value}")
    return value


def _quantile(answer: Sequence[Series], part: float) -> float | None:
    """Of a histogram's rates by `le`, linear within a bucket, as `histogram_quantile` does."""
    buckets: dict[float, float] = {}
    for series in answer:
        try:
            edge = float(series.labels["le"])
        except (KeyError, ValueError):
            raise _Unusable("shape", "waits_60s: a bucket without its edge") from None
        if edge in buckets:
            raise _Unusable("shape", f"waits_60s: the bucket {edge:g} twice")
        buckets[edge] = _usable("waits_60s", series.value)
    total = buckets.get(math.inf, 0.0)
    if total == 0:
        return None
    below, lower = 0.0, 0.0
    for edge, count in sorted(buckets.items()):
        if count >= part * total:
            if edge == math.inf:
                return lower
            within = (part * total - below) / (count - below) if count > below else 1.0
            return lower + (edge - lower) * within
        below, lower = count, edge
    return lower
