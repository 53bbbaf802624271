"""Logs and metrics of a process.

Logs are JSON, one line per event on stderr, with UTC time, level, service and the ids of the
current call (trace, tenant, run, conversation). A log call never raises and never shows a secret:
values under keys that are named like secrets are masked, and so are credentials inside URLs. An
object of a type that is not known to be harmless shows its type only. Prompts, tool arguments and
results are not logged at all; that is up to the caller.

Modules say `log = structlog.get_logger(__name__)` and `log.info("event_name", key=value)`. Warnings
and errors of libraries (grpc, asyncio) come out in the same form.

Metrics follow the conventions of Prometheus, on a port of their own. A process has one registry; it
is made by whoever wires the process and handed down. Label sets are created when an agent or a tool
is applied, so that no load is a present 0, and a label never takes a value that a caller or a model
made up.
"""

import contextlib
import logging
import math
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO
from uuid import UUID

import orjson
import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from peregrine.kit import context
from peregrine.kit.errors import StartRefused
from peregrine.kit.settings import Secret

MASK = "***"

_SECRET_KEY = re.compile(
    r"(?:^|[_.-])(?:password|passwd|passphrase|secret|token|api_?key|private_?key|authorization|"
    r"cookie|credentials?|dsn|bearer)$",
    re.IGNORECASE,
)
# Passwords in URLs, keys of the provider, our own keys, tokens.
_SECRET_TEXT = re.compile(
    r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)|\bsk-[A-Za-z0-9_-]{8,}|(?<=\bpk_)[A-Za-z0-9]+_[A-Za-z0-9]{8,}"
    r"|\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
)
_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MAX_TEXT = 8192
_SHOWN = (BaseException, UUID, date, timedelta, PurePath, Enum, Secret)
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logging(service: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Sends all logs of this process to `stream` (stderr) as JSON lines from `level` up."""
    structlog.configure(
        processors=[
            _Common(service),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            _redact,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(_LEVELS[level], logging.WARNING))


class _Common:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        # What the line itself says wins over the context.
        return {"service": self._service, **context.log_fields(), **event}


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _shown(key, value, 4) for key, value in event.items()}


def _shown(key: str, value: Any, depth: int) -> Any:
    if _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, str):
        text = value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
        return _SECRET_TEXT.sub(MASK, text)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth > 0 and isinstance(value, Mapping):
        return {str(name): _shown(str(name), each, depth - 1) for name, each in value.items()}
    if depth > 0 and isinstance(value, list | tuple | set | frozenset):
        return [_shown("", each, depth - 1) for each in value]
    return _shown("", str(value) if isinstance(value, _SHOWN) else f"<{type(value).__name__}>", 0)


def _render(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    first = {key: event.pop(key, "") for key in ("time", "level", "service", "event")}
    line = {**first, **event}
    try:
        return orjson.dumps(line).decode()
    except (TypeError, ValueError):
        return orjson.dumps(
            {
                key.encode("ascii", "replace").decode(): _encodable(value)
                for key, value in line.items()
            }
        ).decode()


def _encodable(value: Any) -> Any:
    """For what JSON cannot hold: an integer beyond 64 bits, a lone surrogate."""
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        return ascii(value)
    return value


class _Lines:
    """The logger under structlog; a stream that is closed or full is not the caller's failure."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    log = debug = info = warning = warn = error = critical = exception = fatal = failure = msg


class _Bridge(logging.Handler):
    """Turns records of the standard library's logging into the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        structlog.get_logger().log(
            _LEVELS[level],
            "library_message",
            logger=record.name,
            message=message,
            exc_info=record.exc_info or None,
        )


def new_registry() -> CollectorRegistry:
    """A registry with the process's own metrics (CPU, memory, file descriptors, GC)."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs
    registry = CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    return registry


@contextmanager
def start_metrics_server(
    port: int, registry: CollectorRegistry, *, host: str = "127.0.0.1"
) -> Iterator[int]:
    """Serves `registry` on `port` while the block runs; port 0 opens none. Gives the port.

    Raises:
      StartRefused: the port cannot be bound.
    """
    if port == 0:
        yield 0
        return
    try:
        server, thread = prometheus_client.start_http_server(port, host, registry)
    except OSError as error:
        raise StartRefused(
            f"metrics cannot be served on {host}:{port} ({error.strerror or error}): "
            "set PEREGRINE_METRICS_PORT to a free port, or to 0 for none"
        ) from None
    try:
        yield server.server_port
    finally:
        _end(server, thread)


def _end(server: Any, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


class AgentMetrics:
    """The `ai_*` metrics. `ensure_agent` is called when an agent is applied, before any request."""

    STATUSES = ("success", "error", "cancelled")
    UNKNOWN = "unknown"

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "ai_agent_requests_total",
            "Runs that ended, by how",
            ["agent_id", "status"],
            registry=registry,
        )
        self.response_time = Histogram(
            "ai_agent_response_time_seconds",
            "Time from a run's start to its end",
            ["agent_id"],
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self.memory_usage = Gauge(
            "ai_agent_memory_usage_bytes",
            "Bytes held by this process for the agent's live runs",
            ["agent_id"],
            registry=registry,
        )
        self.tool_executions = Counter(
            "ai_tool_executions_total",
            "Tool executions that ended, by how",
            ["tool_name", "agent_id", "status"],
            registry=registry,
        )
        self.tool_time = Histogram(
            "ai_tool_execution_time_seconds",
            "Time of a tool execution",
            ["tool_name"],
            buckets=(0.01, 0.1, 0.5, 1, 2, 5),
            registry=registry,
        )
        self.context_window = Gauge(
            "ai_context_window_size",
            "Tokens of the last context that was sent to the model",
            ["agent_id"],
            registry=registry,
        )
        self.compressions = Counter(
            "ai_context_compressions_total",
            "Contexts that were made smaller, by strategy",
            ["agent_id", "strategy"],
            registry=registry,
        )
        self._agents: set[str] = set()
        self._tools: set[str] = set()

    def ensure_agent(
        self, agent_id: str, tools: Iterable[str], *, strategies: Iterable[str] = ()
    ) -> None:
        """Creates the label sets of an agent and its tools, all at zero. Idempotent."""
        self._agents.add(agent_id)
        for status in self.STATUSES:
            self.requests.labels(agent_id, status)
        self.response_time.labels(agent_id)
        self.memory_usage.labels(agent_id)
        self.context_window.labels(agent_id)
        for strategy in strategies:
            self.compressions.labels(agent_id, strategy)
        for tool_name in tools:
            self._tools.add(tool_name)
            self.tool_time.labels(tool_name)
            for status in self.STATUSES:
                self.tool_executions.labels(tool_name, agent_id, status)

    def request_ended(self, agent_id: str, status: str, seconds: float) -> None:
        agent_id = self._agent(agent_id)
        self.requests.labels(agent_id, status).inc()
        self.response_time.labels(agent_id).observe(seconds)

    def tool_ended(self, tool_name: str, agent_id: str, status: str, seconds: float) -> None:
        """A tool that no applied agent has (a model may ask for any) is counted as `unknown`."""
        tool_name = tool_name if tool_name in self._tools else self.UNKNOWN
        self.tool_executions.labels(tool_name, self._agent(agent_id), status).inc()
        self.tool_time.labels(tool_name).observe(seconds)

    @contextmanager
    def holding(self, agent_id: str, size: int) -> Iterator[None]:
        """Counts `size` bytes as held for the agent while the block runs."""
        gauge = self.memory_usage.labels(self._agent(agent_id))
        gauge.inc(size)
        try:
            yield
        finally:
            gauge.dec(size)

    def context_sent(self, agent_id: str, tokens: int) -> None:
        self.context_window.labels(self._agent(agent_id)).set(tokens)

    def context_compressed(self, agent_id: str, strategy: str) -> None:
        self.compressions.labels(self._agent(agent_id), strategy).inc()

    def _agent(self, agent_id: str) -> str:
        return agent_id if agent_id in self._agents else self.UNKNOWN


class CustomMetrics:
    """Metrics that tools and agents record under names of their own, bounded on every side.

    Each is a summary (count and sum) called `peregrine_custom_<name>`. Its first record fixes its
    label names. What does not fit is dropped and counted by reason, never raised: a metric must not
    fail the work that it describes.
    """

    MAX_NAMES = 100
    MAX_LABELS = 10
    MAX_LABEL_SETS = 100

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._summaries: dict[str, tuple[Summary, tuple[str, ...], set[tuple[str, ...]]]] = {}
        self._dropped = Counter(
            "peregrine_custom_metrics_dropped_total",
            "Custom metric records that were refused, by reason",
            ["reason"],
            registry=registry,
        )

    def record(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> bool:
        """Records one value; False when it was dropped.

        Args:
          name: `[a-z][a-z0-9_]{0,62}`, at most 100 names in a process.
          value: finite.
          labels: at most 10, with values cut at 100 characters; at most 100 sets for a name.
        """
        reason = self._record(name, value, dict(labels or {}))
        if reason:
            self._dropped.labels(reason).inc()
        return not reason

    def _record(self, name: str, value: float, labels: dict[str, str]) -> str:
        if not _METRIC_NAME.fullmatch(name):
            return "bad_name"
        if not isinstance(value, int | float) or not math.isfinite(value):
            return "bad_value"
        if len(labels) > self.MAX_LABELS or not all(map(_METRIC_NAME.fullmatch, labels)):
            return "bad_labels"
        names = tuple(sorted(labels))
        known = self._summaries.get(name)
        if known is None:
            if len(self._summaries) >= self.MAX_NAMES:
                return "too_many_names"
            try:
                summary = Summary(
                    f"peregrine_custom_{name}",
                    "Recorded by a tool or an agent",
                    names,
                    registry=self._registry,
                )
            except ValueError:  # a reserved label, or `x_count` beside `x`
                return "bad_name"
            known = self._summaries[name] = (summary, names, set())
        summary, expected, seen = known
        if names != expected:
            return "other_labels"
        values = tuple(str(labels[each])[:100] for each in names)
        if values not in seen:
            if len(seen) >= self.MAX_LABEL_SETS:
                return "too_many_label_sets"
            seen.add(values)
        (summary.labels(*values) if names else summary).observe(value)
        return ""
