"""What the log says about itself."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    def __init__(self, registry: CollectorRegistry | None) -> None:
        registry = registry or CollectorRegistry()
        self.append_seconds = Histogram(
            "peregrine_eventlog_append_seconds",
            "Round trip of one pipeline of appends to Redis",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.flush_seconds = Histogram(
            "peregrine_eventlog_flush_seconds",
            "One batch of entries becoming durable in PostgreSQL",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.backlog = Gauge(
            "peregrine_eventlog_backlog_bytes",
            "Bytes appended in this process that are not durable yet",
            registry=registry,
        )
        self.owned = Gauge(
            "peregrine_eventlog_owned_logs", "Logs that this process owns", registry=registry
        )
        self.redis_up = Gauge(
            "peregrine_eventlog_redis_up", "1 while Redis takes appends", registry=registry
        )
        self.fenced = Counter(
            "peregrine_eventlog_fenced_total",
            "Logs lost to a newer owner, noticed by an append, a flush or a renewal",
            registry=registry,
        )
        self.claimed = Counter(
            "peregrine_eventlog_claimed_total",
            "Logs taken over from another owner",
            registry=registry,
        )
        self.task_failures = Counter(
            "peregrine_eventlog_task_failures_total",
            "Background tasks that ended with an unforeseen error and were started again",
            ["task"],
            registry=registry,
        )
