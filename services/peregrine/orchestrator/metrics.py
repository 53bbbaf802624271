"""What the orchestrator counts: the agent metrics of every service, and its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.telemetry import AgentMetrics
from peregrine.orchestrator.journal import Journal

_STATUS = {
    pb.RUN_STATE_SUCCEEDED: "success",
    pb.RUN_STATE_FAILED: "error",
    pb.RUN_STATE_CANCELLED: "cancelled",
}
# A run's own work, without what it waited for.
_OVERHEAD_KINDS = frozenset(
    {
        pb.SPAN_KIND_NETWORK,
        pb.SPAN_KIND_CONTEXT,
        pb.SPAN_KIND_PROMPT_BUILD,
        pb.SPAN_KIND_PARSE,
        pb.SPAN_KIND_PERSIST,
    }
)


class Metrics:
    def __init__(self, registry: CollectorRegistry, *, tools_pool: str = "default") -> None:
        self.agents = AgentMetrics(registry)
        self.live = Gauge(
            "peregrine_runs_live", "Runs this process owns and works on", registry=registry
        )
        self.takeovers = Counter(
            "peregrine_run_takeovers_total", "Runs taken over from another owner", registry=registry
        )
        self.failures = Counter(
            "peregrine_run_internal_errors_total",
            "Runs ended by an error that nobody foresaw",
            registry=registry,
        )
        self.credentials = Counter(
            "peregrine_credentials_checked_total",
            "Credentials that were looked up or verified at the door, by kind and outcome",
            ["kind", "outcome"],
            registry=registry,
        )
        for kind in ("api_key", "jwt", "bootstrap"):
            for outcome in ("accepted", "refused", "unavailable"):
                self.credentials.labels(kind, outcome)
        self.first_text = Histogram(
            "peregrine_run_first_text_seconds",
            "From the acceptance of a run to the first text of its answer",
            buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.overhead = Histogram(
            "peregrine_run_overhead_seconds",
            "The part of a run's critical path that neither model nor tools account for",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
            registry=registry,
        )

        # What the autoscaler goes by: workers count a call again when it comes back.
        self.tool_calls = Counter(
            "peregrine_tool_calls_total",
            "Tool calls, each once however often workers were asked",
            ("pool",),
            registry=registry,
        ).labels(tools_pool)
        self.tool_calls_cached = Counter(
            "peregrine_tool_calls_cached_total",
            "Tool calls that the cache answered",
            ("pool",),
            registry=registry,
        ).labels(tools_pool)
        self.tool_calls_waiting = Gauge(
            "peregrine_tool_calls_waiting",
            "Tool calls for which no worker had room and which wait to ask again",
            ("pool",),
            registry=registry,
        ).labels(tools_pool)

    @contextmanager
    def at_work(self, agent: str, journal: Journal) -> Iterator[None]:
        """Counts a run while it is at work, and what it holds in memory."""
        held = self.agents.memory_usage.labels(agent)
        held.inc(journal.bytes)
        journal.on_growth = held.inc
        try:
            with self.live.track_inprogress():
                yield
        finally:
            journal.on_growth = None
            held.dec(journal.bytes)

    def run_finished(self, agent: str, outcome: pb.RunFinished) -> None:
        waterfall = outcome.waterfall
        self.agents.request_ended(agent, _STATUS[outcome.state], waterfall.wall_ms / 1e3)
        own = sum(s.critical_ms for s in waterfall.spans if s.kind in _OVERHEAD_KINDS)
        self.overhead.observe(own / 1e3)

    def tool_finished(
        self, agent: str, tool: str, result: pb.ToolCallFinished, seconds: float
    ) -> None:
        succeeded = result.status == pb.TOOL_CALL_STATUS_SUCCEEDED
        self.agents.tool_ended(tool, agent, "success" if succeeded else "error", seconds)
