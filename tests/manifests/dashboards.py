"""Two Grafana dashboards, made from what they show: for owners of agents, and for operators.

    python -m tests.manifests.dashboards

A panel is a title, a unit and queries; where it stands follows from the order. Written down like
this, a dashboard can be read and reviewed, which its JSON cannot.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.manifests.rendered import K8S

PLACE = K8S / "components" / "grafana"
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """`queries`: legend -> PromQL."""

    title: str
    queries: dict[str, str]
    unit: str = "short"


def p(quantile: float, metric: str, by: str = "", rate: str = "5m") -> str:
    """A quantile of a histogram; `by`: labels to keep, and a selector behind a `|`."""
    labels, _, selector = by.partition("|")
    kept = ", ".join(filter(None, (labels, "le")))
    chosen = f"{{{selector}}}" if selector else ""
    return (
        f"histogram_quantile({quantile}, sum by ({kept}) (rate({metric}_bucket{chosen}[{rate}])))"
    )


AGENT = 'agent_id=~"$agent"'
AGENTS = (
    Panel(
        "Runs by how they ended, per second",
        {
            "{{status}}": f"sum by (status) (rate(ai_agent_requests_total{{{AGENT}}}[5m]))",
        },
        "reqps",
    ),
    Panel(
        "Share of runs that fail",
        {
            "{{agent_id}}": "sum by (agent_id) (rate(ai_agent_requests_total"
            f'{{status="error",{AGENT}}}[5m])) / sum by (agent_id) '
            f"(rate(ai_agent_requests_total{{{AGENT}}}[5m]))",
        },
        "percentunit",
    ),
    Panel(
        "Time to the whole answer",
        {
            "p50": p(0.5, "ai_agent_response_time_seconds", f"|{AGENT}"),
            "p95": p(0.95, "ai_agent_response_time_seconds", f"|{AGENT}"),
        },
        "s",
    ),
    Panel(
        "Time to the first word",
        {
            "p50": p(0.5, "peregrine_run_first_text_seconds"),
            "p95": p(0.95, "peregrine_run_first_text_seconds"),
        },
        "s",
    ),
    Panel(
        "Tool calls per second",
        {
            "{{tool_name}} {{status}}": "sum by (tool_name, status) "
            f"(rate(ai_tool_executions_total{{{AGENT}}}[5m]))",
        },
        "reqps",
    ),
    Panel(
        "Tool time, p95",
        {"{{tool_name}}": p(0.95, "ai_tool_execution_time_seconds", "tool_name")},
        "s",
    ),
    Panel("Tokens in the context", {"{{agent_id}}": f"ai_context_window_size{{{AGENT}}}"}),
    Panel(
        "Tokens per second",
        {"{{model}} {{kind}}": "sum by (model, kind) (rate(peregrine_llm_tokens_total[5m]))"},
    ),
)
OPERATIONS = (
    Panel("Live runs", {"{{instance}}": "peregrine_runs_live"}),
    Panel(
        "Peregrine's own time per run",
        {
            "p50": p(0.5, "peregrine_run_overhead_seconds"),
            "p95": p(0.95, "peregrine_run_overhead_seconds"),
        },
        "s",
    ),
    Panel(
        "Edge: requests per second",
        {"{{status}}": "sum by (status) (rate(peregrine_edge_requests_total[5m]))"},
        "reqps",
    ),
    Panel("Edge: readers of streams", {"{{instance}}": "peregrine_edge_streams"}),
    Panel(
        "Model calls per second",
        {"{{model}} {{status}}": "sum by (model, status) (rate(peregrine_llm_requests_total[5m]))"},
        "reqps",
    ),
    Panel(
        "First token, p95",
        {"{{model}}": p(0.95, "peregrine_llm_first_token_seconds", "model")},
        "s",
    ),
    Panel(
        "Tools: places, in use, wanted",
        {
            "places {{pool}}": "sum by (pool) (peregrine_tool_slots)",
            "in use {{pool}}": "sum by (pool) (peregrine_tool_inflight)",
            "waiting {{pool}}": "sum by (pool) (peregrine_tool_queue_depth)",
        },
    ),
    Panel(
        "Tools: wait for a place, p95",
        {"{{pool}}": p(0.95, "peregrine_tool_queue_wait_seconds", "pool")},
        "s",
    ),
    Panel(
        "Pools: replicas wanted",
        {
            "{{namespace}}/{{pool}}": "max by (namespace, pool) "
            "(peregrine_tool_pool_desired_replicas)"
        },
    ),
    Panel(
        "Cache: share of hits by level",
        {
            "{{level}}": 'sum by (level) (rate(peregrine_cache_requests_total{outcome="hit"}[5m])) '
            "/ scalar(sum(rate(peregrine_cache_requests_total[5m])))",
        },
        "percentunit",
    ),
    Panel(
        "Database: statements, p99",
        {"{{statement}}": p(0.99, "peregrine_db_query_seconds", "statement")},
        "s",
    ),
    Panel(
        "Events waiting for PostgreSQL",
        {"{{instance}}": "peregrine_eventlog_backlog_bytes"},
        "bytes",
    ),
    Panel(
        "Stores that answer",
        {
            "Redis of logs {{instance}}": "peregrine_eventlog_redis_up",
            "cache {{level}}": "min by (level) (peregrine_cache_tier_up)",
        },
    ),
    Panel(
        "Operator: reconciles, p95",
        {"{{kind}}": p(0.95, "peregrine_operator_reconcile_seconds", "kind")},
        "s",
    ),
)
DASHBOARDS = {
    "agents.json": ("Peregrine: agents", AGENTS, ("ai_agent_requests_total", "agent_id", "agent")),
    "operations.json": ("Peregrine: operations", OPERATIONS, None),
}


def made(file: str) -> str:
    title, panels, variable = DASHBOARDS[file]
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"}
    ]
    if variable:
        metric, label, name = variable
        variables.append(
            {
                "name": name,
                "type": "query",
                "datasource": _DATASOURCE,
                "query": f"label_values({metric}, {label})",
                "includeAll": True,
                "multi": True,
                "refresh": 2,
            }
        )
    dashboard = {
        "title": title,
        "uid": title.lower().replace(": ", "-"),
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": number % _COLUMNS * _WIDTH,
            "y": number // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + index), "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def queries() -> list[str]:
    return [
        query
        for _, panels, _ in DASHBOARDS.values()
        for panel in panels
        for query in panel.queries.values()
    ]


if __name__ == "__main__":
    for name in DASHBOARDS:
        (PLACE / name).write_text(made(name), encoding="utf-8")
