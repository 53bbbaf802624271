"""Metrics keep the names that others rely on, and the conventions."""

import pytest

from tests.contract.metric_rules import AGENT_METRICS, complaints, declared
from tests.contract.repository import module, product


def test_metrics_keep_the_conventions() -> None:
    assert list(complaints(declared(product()))) == []


def test_every_agent_metric_is_declared() -> None:
    assert AGENT_METRICS.keys() <= {metric.name for metric in declared(product())}


@pytest.mark.parametrize(
    "source",
    [
        'Counter("runs_total", "Runs")',
        'Counter("peregrine_runs", "Runs")',
        'Gauge("peregrine_runs_total", "Runs")',
        'Histogram("peregrine_run_ms", "Time of a run")',
        'Gauge("peregrine_runs", "")',
        'Gauge("peregrine_runs", "Runs", ["run_id"])',
        'LABELS = ("tenant",)\nGauge("peregrine_runs", "Runs", LABELS)',
        'Gauge("peregrine_runs", "Runs", labelnames=("user",))',
        'Gauge("peregrine_runs", "Runs")\nGauge("peregrine_runs", "Runs")',
        'Counter("ai_agent_requests_total", "Runs", ["agent", "status"])',
        'Histogram("ai_agent_response_time_seconds", "Time", ["agent_id"], buckets=(1, 2))',
    ],
)
def test_a_bad_metric_is_found(source: str) -> None:
    source = f"from prometheus_client import Counter, Gauge, Histogram\n{source}"
    assert list(complaints(declared([module("peregrine.tools.metrics", source)])))
