"""Logs and metrics of a process.

Logs are JSON, one line per event on stderr, with UTC time, level, service and the ids of the
current call (trace, tenant, run, conversation). A log call never raises and never shows a secret:
values under keys that are named like secrets are masked, and so are credentials inside URLs. An
object of a type that is not known to be harmless shows its type only. Prompts, tool arguments and
results are not logged at all; that is up to the caller.

Modules say `log = structlog.get_logger(__name__)` and `log.info("event_name", key=value)`. Warnings
and errors of libraries (grpc, asyncio) come out in the same form.

Metrics follow the conventions of Prometheus, on a port of their own. A process has one registry; it
is made by whoever wires the process and handed down.
"""

import contextlib
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO
from uuid import UUID

import orjson
import prometheus_client
import structlog
from prometheus_client import CollectorRegistry

from peregrine.kit import context
from peregrine.kit.errors import StartRefused
from peregrine.kit.settings import Secret

MASK = "***"

_SECRET_KEY = re.compile(
    r"(?:^|[_.-])(?:password|passwd|passphrase|secret|token|api_?key|private_?key|authorization|"
    r"cookie|credentials?|dsn|bearer)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)|\bsk-[A-Za-z0-9_-]{8,}")
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
    try:
        return orjson.dumps({**first, **event}).decode()
    except (TypeError, ValueError):  # an integer beyond 64 bits, a lone surrogate
        return orjson.dumps(
            {key: ascii(value) for key, value in {**first, **event}.items()}
        ).decode()


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
