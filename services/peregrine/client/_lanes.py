"""What a near cache counts, per tenant and namespace: hits, evictions, ghosts, and what callers may
not have stored.

The counts are plain numbers, because counting must cost next to nothing; metrics are made of them
when somebody asks. Tenants are added up there, and a caller chooses namespaces, so only the first
hundred are told apart.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peregrine.client._ghosts import EDGES, GRID, GhostNamespace
from peregrine.client._invalidations import TenantFeed

_MAX_LANES = 10_000
_MAX_NAMESPACES = 100
_OTHER = "other"


class Lane:
    """One namespace of one tenant. `hits` and `evictions` only grow; those up to `said_…` were
    reported to the service. `kept_out`: values that were not sent to be stored, by reason."""

    __slots__ = ("evictions", "feed", "ghosts", "hits", "kept_out", "said_evictions", "said_hits")

    def __init__(self, feed: TenantFeed, ghosts: GhostNamespace) -> None:
        self.feed = feed
        self.ghosts = ghosts
        self.hits = self.evictions = 0
        self.said_hits = self.said_evictions = 0
        self.kept_out = {"SENSITIVE": 0, "TOO_LARGE": 0}


class Lanes:
    """`feed_of`: the feed of a tenant."""

    def __init__(self, feed_of: Callable[[str], TenantFeed]) -> None:
        self._feed_of = feed_of
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._ghosts: dict[str, GhostNamespace] = {}

    def __iter__(self) -> Iterator[tuple[str, str, Lane]]:
        return iter([(*name, lane) for name, lane in self._lanes.items()])

    def of(self, tenant: str, namespace: str) -> Lane:
        lane = self._lanes.get((tenant, namespace))
        if lane is None:
            if len(self._lanes) >= _MAX_LANES:
                self._lanes.clear()
            lane = Lane(self._feed_of(tenant), self._ghosts_of(namespace))
            self._lanes[tenant, namespace] = lane
        return lane

    def evicted(self, near: tuple[str, str, str, bytes]) -> None:
        self.of(near[0], near[2]).evictions += 1

    def ghosts(self) -> Iterable[tuple[str, GhostNamespace]]:
        return list(self._ghosts.items())

    def _ghosts_of(self, namespace: str) -> GhostNamespace:
        if namespace not in self._ghosts and len(self._ghosts) >= _MAX_NAMESPACES:
            namespace = _OTHER
        return self._ghosts.setdefault(namespace, GhostNamespace(GRID))


class NearMetrics(Collector):
    """Shows the counts of a near cache. `size`: bytes that it holds."""

    def __init__(
        self, lanes: Lanes, *, size: Callable[[], int], evictions: Callable[[], int]
    ) -> None:
        self._lanes = lanes
        self._size = size
        self._evictions = evictions

    def collect(self) -> Iterator[Metric]:
        # Under the names of the service's, so that sums over all processes are whole.
        requests = CounterMetricFamily(
            "peregrine_cache_requests",
            "Entries asked for; level is the tier that had it, none for a miss",
            labels=["ns", "outcome", "level"],
        )
        sets = CounterMetricFamily(
            "peregrine_cache_sets",
            "Entries given to be stored; outcome is stored, or the reason why not",
            labels=["ns", "outcome"],
        )
        hits: dict[str, int] = {}
        kept_out: dict[tuple[str, str], int] = {}
        for _, namespace, lane in self._lanes:
            name = namespace if namespace in hits or len(hits) < _MAX_NAMESPACES else _OTHER
            hits[name] = hits.get(name, 0) + lane.hits
            for reason, count in lane.kept_out.items():
                kept_out[name, reason] = kept_out.get((name, reason), 0) + count
        for namespace, count in hits.items():
            requests.add_metric([namespace, "hit", "near"], count)
        for (namespace, reason), count in kept_out.items():
            sets.add_metric([namespace, reason], count)
        yield requests
        yield sets
        size = GaugeMetricFamily(
            "peregrine_cache_bytes",
            "Room that a tier takes, in all its replicas' store together",
            labels=["level"],
        )
        size.add_metric(["near"], self._size())
        yield size
        evictions = CounterMetricFamily(
            "peregrine_cache_evictions", "Entries that made room for others", labels=["level"]
        )
        evictions.add_metric(["near"], self._evictions())
        yield evictions
        yield from self._ghost_metrics()

    def _ghost_metrics(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "peregrine_cache_ghost_requests",
            "Requests for the sampled keys, one in sixteen",
            labels=["ns"],
        )
        misses = CounterMetricFamily(
            "peregrine_cache_ghost_miss",
            "Of these, what would miss if values lived for k seconds",
            labels=["ns", "k"],
        )
        ages = HistogramMetricFamily(
            "peregrine_cache_ghost_hit_age_seconds",
            "How old the others would be",
            labels=["ns", "k"],
        )
        for namespace, ghosts in self._lanes.ghosts():
            requests.add_metric([namespace], ghosts.requests)
            for ttl, missed, counts in zip(
                ghosts.ttls, ghosts.misses, ghosts.hit_ages, strict=True
            ):
                labels = [namespace, f"{ttl:.0f}"]
                misses.add_metric(labels, missed)
                ages.add_metric(labels, *_histogram(counts))
        yield requests
        yield misses
        yield ages


def _histogram(counts: list[int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets, and the sum as far as buckets tell it."""
    buckets: list[tuple[str, float]] = []
    total = 0
    summed = below = 0.0
    for edge, count in zip(EDGES, counts, strict=False):
        total += count
        summed += count * (below + edge) / 2
        below = edge
        buckets.append((f"{edge:g}", float(total)))
    buckets.append(("+Inf", float(total)))
    return buckets, summed
