"""What the operator counts. Label sets of kinds exist from the start."""

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

KINDS = ("Agent", "Tool", "ToolPool", "CachePolicy")
OUTCOMES = ("unchanged", "applied", "removed", "waiting", "refused", "failed")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "peregrine_operator_reconciles_total",
            "Looks at a resource, by how they ended",
            ["kind", "outcome"],
            registry=registry,
        )
        self.reconcile_time = Histogram(
            "peregrine_operator_reconcile_seconds",
            "One look at a resource, from the first read to the last write",
            ["kind"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10),
            registry=registry,
        )
        self.queue_time = Histogram(
            "peregrine_operator_queue_seconds",
            "From the moment that a look is due until it begins",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self.resources = Gauge(
            "peregrine_operator_resources",
            "Resources that exist, by their condition Ready",
            ["kind", "ready"],
            registry=registry,
        )
        self.drift = Counter(
            "peregrine_operator_drift_repaired_total",
            "Agents and tools that somebody else had changed or deleted in their service",
            ["kind"],
            registry=registry,
        )
        self.watch_events = Counter(
            "peregrine_operator_watch_events_total",
            "Events that watches delivered",
            ["kind"],
            registry=registry,
        )
        self.watch_missed = Counter(
            "peregrine_operator_watch_missed_total",
            "Changes that a list showed and that no watch delivered in time",
            ["kind"],
            registry=registry,
        )
        self.watch_restarts = Counter(
            "peregrine_operator_watch_restarts_total",
            "Times that all watches were begun anew because they had failed",
            registry=registry,
        )
        self.last_list = Gauge(
            "peregrine_operator_last_list_timestamp_seconds",
            "When all resources were last listed without a failure, in seconds since 1970",
            registry=registry,
        )
        self.leading = Gauge(
            "peregrine_operator_leading",
            "1 while this process holds the lease and works, 0 while it stands by",
            registry=registry,
        )
        self.api_requests = Counter(
            "peregrine_operator_api_requests_total",
            "Requests to the API server but for watches, by status; 0 is no answer",
            ["method", "status"],
            registry=registry,
        )
        self.events_dropped = Counter(
            "peregrine_operator_events_dropped_total",
            "Events that were not posted because too many were waiting",
            registry=registry,
        )
        self.desired_replicas = Gauge(
            "peregrine_tool_pool_desired_replicas",
            "Workers that the pool should have, whoever scales it",
            ["namespace", "pool"],
            registry=registry,
        )
        self.autoscaler_holds = Counter(
            "peregrine_autoscaler_hold_total",
            "Looks at a pool that could not conclude anything, by reason",
            ["namespace", "pool", "reason"],
            registry=registry,
        )
        self.scale_failures = Counter(
            "peregrine_autoscaler_scale_failures_total",
            "Scales that the API server did not take, conflicts included",
            registry=registry,
        )
        self.failures = Counter(
            "peregrine_operator_internal_errors_total",
            "Failures that nobody foresaw, in looks at resources and in background tasks",
            registry=registry,
        )
        self._holds: set[tuple[str, str, str]] = set()
        for kind in KINDS:
            for counter in (self.drift, self.watch_events, self.watch_missed):
                counter.labels(kind)
            self.reconcile_time.labels(kind)
            for outcome in OUTCOMES:
                self.reconciles.labels(kind, outcome)
            for ready in ("True", "False", "Unknown"):
                self.resources.labels(kind, ready)

    def hold(self, namespace: str, pool: str, reason: str) -> None:
        self._holds.add((namespace, pool, reason))
        self.autoscaler_holds.labels(namespace, pool, reason).inc()

    def forget_pool(self, namespace: str, pool: str) -> None:
        """A pool that is gone has no wanted size."""
        with contextlib.suppress(KeyError):  # it was never decided about
            self.desired_replicas.remove(namespace, pool)
        for each in [labels for labels in self._holds if labels[:2] == (namespace, pool)]:
            self._holds.discard(each)
            self.autoscaler_holds.remove(*each)
