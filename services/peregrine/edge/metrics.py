"""What the edge counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class EdgeMetrics:
    """Label values come from the routes that exist, never from what was asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "peregrine_edge_requests_total",
            "HTTP requests that were answered, by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "peregrine_edge_request_seconds",
            "Time from a request to the first byte of its answer",
            ["route"],
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.streams = Gauge(
            "peregrine_edge_streams", "Event streams that are open", registry=registry
        )
        self.events = Counter(
            "peregrine_edge_events_total", "Events that were sent to readers", registry=registry
        )
        self.cut = Counter(
            "peregrine_edge_readers_cut_total",
            "Connections that were cut because their reader did not read",
            registry=registry,
        )
