"""What the cache says about itself: requests by namespace and tier, and how the tiers do.

A namespace is a name that callers choose, so only the first two hundred get series of their own.
"""

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_MAX_NAMESPACES = 200
_OTHER = "other"
_OPERATIONS = ("read", "write", "remove", "lease", "publish", "roll", "info")
# 5 s, doubled or halved, lies in the middle of a bucket: ages gather at the times to live.
AGE_BUCKETS = tuple(5 * 2 ** (step + 0.5) for step in range(-3, 20))
_COST_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class CacheMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._namespaces: set[str] = set()
        # By name and tier: looking a child up by its labels costs more than counting in it.
        self._asked: dict[tuple[str, str], Counter] = {}
        self._requests = Counter(
            "peregrine_cache_requests_total",
            "Entries asked for; level is the tier that had it, none for a miss",
            ["ns", "outcome", "level"],
            registry=registry,
        )
        self._sets = Counter(
            "peregrine_cache_sets_total",
            "Entries given to be stored; outcome is stored, or the reason why not",
            ["ns", "outcome"],
            registry=registry,
        )
        self._bytes = Counter(
            "peregrine_cache_transferred_bytes_total",
            "Bytes read from and written to a tier",
            ["level", "direction"],
            registry=registry,
        )
        self._moved = {
            (level, direction): self._bytes.labels(level, direction)
            for level in ("redis", "postgres")
            for direction in ("read", "written")
        }
        self._seconds = Histogram(
            "peregrine_cache_tier_seconds",
            "Time of one operation on a tier, also of one that got no answer",
            ["level", "operation"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._up = Gauge(
            "peregrine_cache_tier_up",
            "1 while the tier is asked, 0 while its breaker is open",
            ["level"],
            registry=registry,
        )
        self._probes = Counter(
            "peregrine_cache_tier_probes_total",
            "Times that a tier that is left out was asked whether it is back",
            ["level"],
            registry=registry,
        )
        self._refused = Counter(
            "peregrine_cache_tier_refusals_total",
            "Operations that a tier answered with an error: it is full, say",
            ["level", "operation"],
            registry=registry,
        )
        self._corrupt = Counter(
            "peregrine_cache_corrupt_total",
            "Entries whose checksum was wrong; each was a miss",
            ["level"],
            registry=registry,
        )
        self._ages = Histogram(
            "peregrine_cache_reval_age_seconds",
            "Age of values when compared with their successors, by whether these differed",
            ["ns", "changed"],
            buckets=AGE_BUCKETS,
            registry=registry,
        )
        self._costs = Histogram(
            "peregrine_cache_miss_cost_seconds",
            "What computing a value took",
            ["ns"],
            buckets=_COST_BUCKETS,
            registry=registry,
        )

    def asked(self, namespace: str, level: str) -> None:
        """One entry; `level` is empty for a miss."""
        child = self._asked.get((namespace, level))
        if child is None:
            name = self._name(namespace)
            outcome = "hit" if level else "miss"
            child = self._requests.labels(name, outcome, level or "none")
            if name != _OTHER:
                self._asked[namespace, level] = child
        child.inc()

    def given(self, namespace: str, outcome: str) -> None:
        self._sets.labels(self._name(namespace), outcome).inc()

    def compared(self, namespace: str, age: float, changed: bool) -> None:
        """A value of that age in seconds was replaced, by another or by the same."""
        self._ages.labels(self._name(namespace), "1" if changed else "0").observe(age)

    def cost(self, namespace: str, seconds: float) -> None:
        self._costs.labels(self._name(namespace)).observe(seconds)

    def read(self, level: str, size: int) -> None:
        self._moved[level, "read"].inc(size)

    def written(self, level: str, size: int) -> None:
        self._moved[level, "written"].inc(size)

    def corrupt(self, level: str) -> None:
        self._corrupt.labels(level).inc()

    def observer(self, level: str) -> Callable[[str, float], None]:
        """Takes the times of a tier's operations."""
        children = {name: self._seconds.labels(level, name) for name in _OPERATIONS}
        return lambda operation, seconds: children[operation].observe(seconds)

    def probing(
        self, level: str, probe: Callable[[], Awaitable[bool]]
    ) -> Callable[[], Awaitable[bool]]:
        """The probe, counted."""
        child = self._probes.labels(level)

        def counted() -> Awaitable[bool]:
            child.inc()
            return probe()

        return counted

    def refusals(self, level: str) -> Callable[[str], None]:
        """Takes what a tier did not."""
        children = {name: self._refused.labels(level, name) for name in _OPERATIONS}
        return lambda operation: children[operation].inc()

    def breaker(self, level: str) -> Callable[[bool], None]:
        """Takes the changes of a tier's breaker."""
        gauge = self._up.labels(level)
        gauge.set(1)
        return lambda is_open: gauge.set(0 if is_open else 1)

    def _name(self, namespace: str) -> str:
        if namespace not in self._namespaces:
            if len(self._namespaces) >= _MAX_NAMESPACES:
                return _OTHER
            self._namespaces.add(namespace)
        return namespace
