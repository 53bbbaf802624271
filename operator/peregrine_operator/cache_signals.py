"""What Prometheus knows of the cache's namespaces, as a sample of the last minute for each.

One query per signal asks for all namespaces at once (`by (ns)`). Unknown never looks like zero: a
query that failed, a series that is missing where others of the namespace are there, and a number
that is none make `NoData` with a reason. Counters of all processes are summed; what one of them
counted since it began to be scraped is not lost, because increases are taken before sums.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from peregrine_operator.changes import BUCKETS, Ages, bucket
from peregrine_operator.evidence import NoData, Sample
from peregrine_operator.signals import Answer, Failure, Series

WINDOW = 60.0


_AGES = "peregrine_cache_ghost_hit_age_seconds_bucket"
_COMPARED = "peregrine_cache_reval_age_seconds"
_COST = "peregrine_cache_miss_cost_seconds"

QUERIES: Mapping[str, str] = {
    "ghost_requests": "sum by (ns) (increase(peregrine_cache_ghost_requests_total[60s]))",
    "ghost_misses": "sum by (ns, k) (increase(peregrine_cache_ghost_miss_total[60s]))",
    "ghost_ages": f"sum by (ns, k, le) (increase({_AGES}[60s]))",
    "compared": f"sum by (ns, changed, le) (increase({_COMPARED}_bucket[60s]))",
    "compared_sum": f"sum by (ns, changed) (increase({_COMPARED}_sum[60s]))",
    "cost_sum": f"sum by (ns) (increase({_COST}_sum[60s]))",
    "cost_count": f"sum by (ns) (increase({_COST}_count[60s]))",
    "requests": "sum by (ns) (increase(peregrine_cache_requests_total[60s]))",
    "memory": "max(peregrine_cache_memory_share)",
    "newest": "max by (ns) (timestamp(peregrine_cache_ghost_requests_total))",
}
"""PromQL of every signal, for all namespaces at once. All are asked at the same instant."""

_ABSURD = 1e12


class _Unusable(Exception):
    pass


def read(answers: Mapping[str, Answer], namespace: str) -> Sample | NoData:
    """The last minute of one namespace."""
    try:
        return _read(answers, namespace)
    except _Unusable as problem:
        return NoData(str(problem))


def _read(answers: Mapping[str, Answer], namespace: str) -> Sample:
    vectors: dict[str, list[Series]] = {}
    for name, answer in sorted(answers.items()):
        if isinstance(answer, Failure):
            raise _Unusable(f"{name}: {answer.message}")
        vectors[name] = [each for each in answer if each.labels.get("ns", namespace) == namespace]
    misses = {_number(each, "k"): _usable(each.value) for each in vectors["ghost_misses"]}
    ages: defaultdict[float, list[Series]] = defaultdict(list)
    for each in vectors["ghost_ages"]:
        ages[_number(each, "k")].append(each)
    compared: dict[str, list[Series]] = {"0": [], "1": []}
    for each in vectors["compared"]:
        compared.setdefault(each.labels.get("changed", ""), []).append(each)
    sums = {each.labels.get("changed"): _usable(each.value) for each in vectors["compared_sum"]}
    memory = vectors["memory"]
    requests = vectors["requests"]
    return Sample(
        time=_one(vectors, "newest"),
        seconds=WINDOW,
        ghost_requests=_one(vectors, "ghost_requests"),
        ghost_misses=misses,
        ghost_hit_ages={ttl: _buckets(found) for ttl, found in ages.items()},
        changed=Ages(_buckets(compared["1"]), sums.get("1", 0.0)),
        unchanged=Ages(_buckets(compared["0"]), sums.get("0", 0.0)),
        # Nothing was computed yet in this namespace where the histogram is not there.
        misses=_one(vectors, "cost_count") if vectors["cost_count"] else 0.0,
        miss_seconds=_one(vectors, "cost_sum") if vectors["cost_sum"] else 0.0,
        requests=_one(vectors, "requests") if requests else None,
        memory_used=_usable(memory[0].value) if len(memory) == 1 else None,
    )


def _one(vectors: Mapping[str, Sequence[Series]], name: str) -> float:
    found = vectors[name]
    if len(found) != 1:
        raise _Unusable(f"{name}: {len(found) or 'no'} series where one is expected")
    return _usable(found[0].value)


def _usable(value: float) -> float:
    if not math.isfinite(value) or value < 0 or value > _ABSURD:
        raise _Unusable(f"a value is {value}")
    return value


def _number(series: Series, label: str) -> float:
    try:
        return _usable(float(series.labels[label]))
    except (KeyError, ValueError):
        raise _Unusable(f"a series without its {label}") from None


def _buckets(found: Sequence[Series]) -> tuple[float, ...]:
    """How many between two edges, from how many up to each; missing buckets are empty."""
    upto: dict[int, float] = {}
    for each in found:
        text = each.labels.get("le", "")
        try:
            edge = float(text)
        except ValueError:
            raise _Unusable("a bucket without its edge") from None
        # An edge is written with some digits and belongs to the bucket that it nearly ends.
        place = BUCKETS - 1 if edge == math.inf else bucket(edge * 0.99)
        upto[place] = _usable(each.value)
    counts = [0.0] * BUCKETS
    before = 0.0
    for place in sorted(upto):
        counts[place] = max(upto[place] - before, 0.0)
        before = max(upto[place], before)
    return tuple(counts)
