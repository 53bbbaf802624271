"""What is read off a record: lateness, recovery, overshoot, flaps, cost."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from benchmarks.rows import percentile
from benchmarks.simulate.pool.world import Record

OBJECTIVE = 0.25
LATE = 1.0
FLAP_WITHIN = 600.0
_BUCKET = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of a whole run; times are seconds after the step, where there is one."""

    late: float
    """Part of the calls that waited for more than a second, those never started among them."""
    pod_hours: float
    flaps: int
    lowered: int
    """Writes that lowered the replicas, while `window` was on."""
    least: int
    """Replicas at the least in it."""
    first_write: float = math.nan
    asked: float = math.nan
    """Until nine tenths of the need were asked for."""
    recovered: float = math.nan
    peak: int = 0
    replicas: tuple[tuple[float, int], ...] = field(default=(), repr=False)
    waits: tuple[tuple[float, float], ...] = field(default=(), repr=False)


def flaps(writes: Iterable[tuple[float, int, int]]) -> int:
    """Changes of direction within ten minutes of the change before."""
    count, last, direction = 0, -math.inf, 0
    for time, before, after in writes:
        now = 1 if after > before else -1
        count += now == -direction and time - last <= FLAP_WITHIN
        last, direction = time, now
    return count


def late(record: Record, start: float, end: float) -> float:
    arrivals = record.workload.arrivals
    first, last = bisect_left(arrivals, start), bisect_left(arrivals, end)
    waits = record.waits[first:last]
    # Not started at all is late, but for those who came in the last second.
    slow = sum(wait > LATE for wait in waits) + sum(
        arrivals[first + place] < end - LATE for place, wait in enumerate(waits) if wait != wait
    )
    return slow / len(waits) if waits else 0.0


def p95(record: Record, start: float, end: float) -> list[tuple[float, float]]:
    """Of the waits, by the time of arrival, in buckets of five seconds."""
    buckets: dict[float, list[float]] = {}
    for arrival, wait in zip(record.workload.arrivals, record.waits, strict=True):
        if start <= arrival < end:
            buckets.setdefault(arrival // _BUCKET * _BUCKET, []).append(
                math.inf if math.isnan(wait) else wait
            )
    return [(time, percentile(waits, 95)) for time, waits in sorted(buckets.items())]


def replicas(record: Record) -> list[tuple[float, int]]:
    start = record.writes[0][1] if record.writes else record.scenario.start
    return [(0.0, start), *((time, after) for time, _, after in record.writes)]


def between(record: Record, start: float, end: float) -> list[tuple[float, int, int]]:
    return [write for write in record.writes if start <= write[0] < end]


def least_replicas(record: Record, start: float, end: float) -> int:
    before = [count for time, count in replicas(record) if time < start]
    return min(
        [before[-1] if before else record.scenario.start]
        + [after for _, _, after in between(record, start, end)]
    )


def figures(
    record: Record,
    *,
    window: tuple[float, float],
    step: tuple[float, float, int] | None = None,
    counted: tuple[float, float] | None = None,
    plot: bool = False,
) -> Figures:
    """`window`: in which lateness, flaps and lowering are looked for. `step`: its time and end, and
    how many workers it takes. `counted`: in which pod-hours are; else in the whole run."""
    start, end = window
    found = Figures(
        late=late(record, start, end),
        pod_hours=record.pod_seconds / 3600 if counted is None else pod_hours(record, *counted),
        flaps=flaps(between(record, start, end)),
        lowered=sum(after < before for _, before, after in between(record, start, end)),
        least=least_replicas(record, start, end),
        replicas=tuple(replicas(record)) if plot else (),
        waits=tuple(p95(record, 0.0, record.scenario.trace.seconds)) if plot else (),
    )
    return _of_step(found, record, *step) if step else found


def pod_hours(record: Record, start: float, end: float) -> float:
    seconds = sum(
        max(0.0, min(worker.gone_at, end) - max(worker.created, start)) for worker in record.workers
    )
    return seconds / 3600


def _of_step(found: Figures, record: Record, at: float, end: float, need: int) -> Figures:
    writes = between(record, at, end)
    raised = [(time - at, after) for time, before, after in writes if after > before]
    enough = math.ceil(0.9 * need)
    slow = _slow_buckets(record, at, end)
    return replace(
        found,
        first_write=raised[0][0] if raised else math.inf,
        asked=next((time for time, after in raised if after >= enough), math.inf),
        recovered=slow[-1] + _BUCKET - at if slow else 0.0,
        peak=max((after for _, after in raised), default=0),
    )


def _slow_buckets(record: Record, start: float, end: float) -> list[float]:
    """Those of `p95` that are above the objective, found without sorting all the others."""
    arrivals = record.workload.arrivals
    first, last = bisect_left(arrivals, start), bisect_left(arrivals, end)
    waited = Counter(
        arrivals[first + place] // _BUCKET * _BUCKET
        for place, wait in enumerate(record.waits[first:last])
        if not wait <= OBJECTIVE
    )
    found = []
    for time, count in sorted(waited.items()):
        low = bisect_left(arrivals, max(time, start))
        total = bisect_left(arrivals, min(time + _BUCKET, end)) - low
        if total - count < math.ceil(0.95 * total):
            found.append(time)
    return found
