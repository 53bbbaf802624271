"""The metrics that the code declares, read from its source, and the rules for their names."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.contract.repository import Module, dotted

KINDS = ("Counter", "Gauge", "Histogram", "Summary")

# Names that dashboards outside rely on, with their labels and the buckets of histograms.
AGENT_METRICS: Mapping[str, tuple[tuple[str, ...], tuple[float, ...] | None]] = {
    "ai_agent_requests_total": (("agent_id", "status"), None),
    "ai_agent_response_time_seconds": (("agent_id",), (0.1, 0.5, 1, 2, 5, 10, 30)),
    "ai_agent_memory_usage_bytes": (("agent_id",), None),
    "ai_tool_executions_total": (("tool_name", "agent_id", "status"), None),
    "ai_tool_execution_time_seconds": (("tool_name",), (0.01, 0.1, 0.5, 1, 2, 5)),
    "ai_context_window_size": (("agent_id",), None),
    "ai_context_compressions_total": (("agent_id", "strategy"), None),
}
# One series per value for ever: these belong into logs.
UNBOUNDED = frozenset(
    {"run_id", "conversation_id", "request_id", "call_id", "trace_id", "tenant", "user", "message"}
)


@dataclass(frozen=True)
class Metric:
    kind: str
    name: str
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] | None
    where: str
    unit: str


def declared(modules: Iterable[Module]) -> Iterator[Metric]:
    """Every `Counter("name", "help", [labels])` of modules that import prometheus_client."""
    for one in modules:
        if not _imports_prometheus(one.tree):
            continue
        constants = {
            target.id: node.value
            for node in one.tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(one.tree):
            match node:
                case ast.Call(args=[ast.Constant(value=str(name)), *rest]) if (
                    kind := dotted(node.func).rpartition(".")[2]
                ) in KINDS:
                    labels = rest[1] if len(rest) > 1 else _keyword(node, "labelnames")
                    yield Metric(
                        kind=kind,
                        name=name,
                        help=_text(rest[0]) if rest else "",
                        labels=tuple(map(str, _values(labels, constants))),
                        buckets=tuple(_values(_keyword(node, "buckets"), constants)) or None,
                        where=f"{one.where}:{node.lineno}",
                        unit=one.unit,
                    )


def complaints(metrics: Iterable[Metric]) -> Iterator[str]:
    seen: dict[str, Metric] = {}
    for metric in metrics:
        at = f"{metric.where}: {metric.name}"
        if metric.name.startswith("ai_"):
            if (metric.labels, metric.buckets) != AGENT_METRICS.get(metric.name):
                yield f"{at} is not one of the agent metrics with its labels and buckets"
        elif not metric.name.startswith("peregrine_"):
            yield f"{at} does not begin with peregrine_"
        if (metric.kind == "Counter") != metric.name.endswith("_total"):
            yield f"{at} is a {metric.kind}: counters, and only they, end in _total"
        if metric.name.endswith(("_ms", "_milliseconds", "_kb", "_mb", "_percent")):
            yield f"{at} is not in base units (seconds, bytes, ratios)"
        if not metric.help:
            yield f"{at} has no help"
        for label in UNBOUNDED.intersection(metric.labels):
            yield f"{at} has the label {label}, which takes any number of values"
        if metric.name in seen:
            yield f"{at} is declared at {seen[metric.name].where}, too"
        seen[metric.name] = metric


def _imports_prometheus(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for node in ast.walk(tree)
    )


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _values(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> list[float]:
    if isinstance(node, ast.Name):
        node = constants.get(node.id)
    if not isinstance(node, ast.List | ast.Tuple):
        return []
    return [element.value for element in node.elts if isinstance(element, ast.Constant)]  # type: ignore[misc] # labels are text, buckets numbers


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
