"""The worker's metrics, by tool and pool, as the autoscaler reads them.

The label sets of a tool are made when it is registered, so that no load is a present 0 and a
missing series means a fault. `requests` counts what arrived for a known tool with usable arguments,
including what was refused, but not what the cache answered; `inflight` counts what runs, including
what was given up and has not ended. All tools of a worker share its slots, so slots have the label
`pool` only.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LABELS = ("tool", "pool")
_EXECUTION_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)


class ToolMeters:
    """The metrics of one tool."""

    __slots__ = (
        "cached",
        "completed",
        "execution",
        "inflight",
        "refused",
        "requests",
        "shed",
        "started",
        "wait",
    )

    def __init__(self, metrics: "ToolMetrics", tool: str, pool: str) -> None:
        self.requests = metrics.requests.labels(tool, pool)
        self.started = metrics.started.labels(tool, pool)
        self.completed = metrics.completed.labels(tool, pool)
        self.shed = metrics.shed.labels(tool, pool)
        self.refused = metrics.refused.labels(tool, pool)
        self.execution = metrics.execution.labels(tool, pool)
        self.wait = metrics.wait.labels(tool, pool)
        self.inflight = metrics.inflight.labels(tool, pool)
        # By the tier that had the result; of a tool whose results are kept, "none" for a miss.
        self.cached = {
            level: metrics.cached.labels(tool, pool, level)
            for level in ("near", "redis", "postgres", "none")
        }


class ToolMetrics:
    """All of a worker."""

    def __init__(self, *, registry: CollectorRegistry, pool: str, slots: int) -> None:
        self._pool = pool
        self.requests = Counter(
            "peregrine_tool_requests_total", "Calls that arrived", _LABELS, registry=registry
        )
        self.started = Counter(
            "peregrine_tool_started_total", "Executions that started", _LABELS, registry=registry
        )
        self.completed = Counter(
            "peregrine_tool_completed_total",
            "Executions that ended, in whatever way",
            _LABELS,
            registry=registry,
        )
        self.shed = Counter(
            "peregrine_tool_shed_total",
            "Calls refused because the queue was too long",
            _LABELS,
            registry=registry,
        )
        self.refused = Counter(
            "peregrine_tool_circuit_refused_total",
            "Calls that were not made because the tool keeps failing",
            _LABELS,
            registry=registry,
        )
        self._circuits = Gauge(
            "peregrine_tool_circuit_open",
            "Tools of this name that are left alone because they keep failing",
            _LABELS,
            registry=registry,
        )
        self.execution = Histogram(
            "peregrine_tool_exec_seconds",
            "Time of an execution without waiting",
            _LABELS,
            buckets=_EXECUTION_BUCKETS,
            registry=registry,
        )
        self.wait = Histogram(
            "peregrine_tool_queue_wait_seconds",
            "Time between a call's arrival and its start",
            _LABELS,
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.inflight = Gauge(
            "peregrine_tool_inflight", "Executions under way", _LABELS, registry=registry
        )
        self.cached = Counter(
            "peregrine_tool_cache_lookups_total",
            "Results looked for in the cache; level is the tier that had it, none for a miss",
            (*_LABELS, "level"),
            registry=registry,
        )
        self._unstored = Counter(
            "peregrine_tool_cache_unstored_total",
            "Results that were not stored though they may be kept, by reason",
            ("pool", "reason"),
            registry=registry,
        )
        self._near_bytes = Gauge(
            "peregrine_tool_near_cache_bytes",
            "Bytes of results in the worker's near cache",
            ("pool",),
            registry=registry,
        )
        self._near_evictions = Gauge(
            "peregrine_tool_near_cache_evictions",
            "Results that the near cache gave up for newer ones, since the start",
            ("pool",),
            registry=registry,
        )
        self.queue_depth = Gauge(
            "peregrine_tool_queue_depth", "Calls waiting for a slot", _LABELS, registry=registry
        )
        slots_gauge = Gauge(
            "peregrine_tool_slots",
            "Executions that the worker runs at the same time",
            ("pool",),
            registry=registry,
        )
        slots_gauge.labels(pool).set(slots)
        self._draining = Gauge(
            "peregrine_tool_draining", "1 while the worker shuts down", ("pool",), registry=registry
        )
        self._draining.labels(pool).set(0)

    def of_tool(
        self, tool: str, *, queued: Callable[[], int], broken: Callable[[], int]
    ) -> ToolMeters:
        """The metrics of `tool`, present from now on; what waits and what is broken is read when
        scraped."""
        self.queue_depth.labels(tool, self._pool).set_function(queued)
        self._circuits.labels(tool, self._pool).set_function(broken)
        return ToolMeters(self, tool, self._pool)

    def unstored(self, reason: str) -> None:
        self._unstored.labels(self._pool, reason).inc()

    def near_cache(self, held: Callable[[], int], evictions: Callable[[], int]) -> None:
        """Bytes and evictions of the near cache, read when scraped."""
        self._near_bytes.labels(self._pool).set_function(held)
        self._near_evictions.labels(self._pool).set_function(evictions)

    def drain(self) -> None:
        self._draining.labels(self._pool).set(1)
