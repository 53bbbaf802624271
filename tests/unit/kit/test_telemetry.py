"""A log line always comes out, as JSON, without secrets; metrics have the agreed names."""

import asyncio
import io
import json
import logging
import re
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import prometheus_client
import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from peregrine.kit import context, telemetry
from peregrine.kit.context import Identity
from peregrine.kit.errors import StartRefused
from peregrine.kit.settings import Secret
from peregrine.kit.telemetry import AgentMetrics, CustomMetrics

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    stream = io.StringIO()
    telemetry.configure_logging("kit-test", "info", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_service_event_and_the_ids_of_the_call(lines: Lines) -> None:
    with context.bind(identity=Identity("acme", "bob"), run_id="r1"):
        structlog.get_logger().info("tool_started", tool="calculator", attempt=2)
    (line,) = lines()
    assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    assert (line["level"], line["service"], line["event"]) == ("info", "kit-test", "tool_started")
    assert (line["tenant"], line["run_id"], line["attempt"]) == ("acme", "r1", 2)
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])


def test_secrets_are_masked_by_key_by_type_and_inside_text(lines: Lines) -> None:
    structlog.get_logger().info(
        "connecting",
        api_key="k1-hidden",
        nested={"Authorization": "Bearer hidden", "deep": [{"db_password": "hidden"}]},
        dsn="postgresql://u:hidden@h/d",
        target="redis://:hidden@cache:6379/0 and postgresql://app:hidden@db/x",
        header="sk-ant-hidden-hidden",
        given=Secret("hidden"),
        input_tokens=12,
    )
    (line,) = lines()
    assert "hidden" not in json.dumps(line)
    assert line["input_tokens"] == 12
    assert "cache:6379" in line["target"]


def test_an_exception_is_one_line_without_its_secrets(lines: Lines) -> None:
    try:
        raise ConnectionError("postgresql://app:hidden@db refused")
    except ConnectionError:
        structlog.get_logger().exception("failed")
    (line,) = lines()
    assert "ConnectionError" in line["exception"]
    assert "test_telemetry.py" in line["exception"]
    assert "hidden" not in line["exception"]


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    "value",
    [Unshowable(), object(), 10**30, "\ud800", b"\xff", {1: {2: {3: {4: {5: 6}}}}}, float("nan")],
)
def test_no_value_makes_logging_fail(lines: Lines, value: Any) -> None:
    structlog.get_logger().info("odd", value=value)
    (line,) = lines()
    assert line["event"] == "odd"


def test_a_value_that_contains_itself_does_not_make_logging_fail(lines: Lines) -> None:
    loop: list[Any] = []
    loop.append(loop)
    structlog.get_logger().info("odd", value=loop)
    assert len(lines()) == 1


def test_an_object_of_an_unknown_type_shows_its_type_only(lines: Lines) -> None:
    number = uuid.uuid4()
    structlog.get_logger().info("shown", known=number, unknown=io.StringIO("a prompt"))
    (line,) = lines()
    assert line["known"] == str(number)
    assert line["unknown"] == "<StringIO>"


def test_a_closed_stream_does_not_make_logging_fail(lines: Lines) -> None:
    stream = io.StringIO()
    telemetry.configure_logging("kit-test", stream=stream)
    stream.close()
    structlog.get_logger().error("into the void")


def test_lines_below_the_level_are_left_out(lines: Lines) -> None:
    structlog.get_logger().debug("too fine")
    assert lines() == []


def test_warnings_and_errors_of_libraries_come_out_in_the_same_form(lines: Lines) -> None:
    logging.getLogger("grpc._x").warning("odd %s", "thing")
    logging.getLogger("grpc._x").info("not this")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "never awaited", "exception": ValueError("lost")})

    asyncio.run(main())
    first, second = lines()
    assert (first["level"], first["logger"], first["message"]) == (
        "warning",
        "grpc._x",
        "odd thing",
    )
    assert (second["level"], second["logger"]) == ("error", "asyncio")
    assert "ValueError: lost" in second["exception"]


def test_a_library_that_logs_wrongly_is_still_heard(lines: Lines) -> None:
    record = logging.LogRecord("grpc._x", logging.ERROR, "", 0, "%d bad format", ("x",), None)
    for handler in logging.getLogger().handlers:
        if type(handler).__module__ == telemetry.__name__:
            handler.handle(record)
    assert [line["message"] for line in lines()] == ["%d bad format"]


def exposed(registry: CollectorRegistry) -> dict[str, float]:
    text = prometheus_client.generate_latest(registry).decode()
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_agent_metrics_keep_their_names_labels_and_buckets() -> None:
    registry = CollectorRegistry()
    AgentMetrics(registry).ensure_agent("a", ["t"], strategies=["trim"])
    samples = exposed(registry)
    names: dict[str, set[str]] = {}
    buckets: dict[str, set[str]] = {}
    for key in samples:
        name, labels = key.split("{", 1)
        parsed = json.loads("{" + labels)
        if "le" in parsed:
            buckets.setdefault(name, set()).add(parsed.pop("le"))
        names.setdefault(name, set()).update(parsed)
    assert names["ai_agent_requests_total"] == {"agent_id", "status"}
    assert names["ai_agent_response_time_seconds_bucket"] == {"agent_id"}
    assert names["ai_agent_memory_usage_bytes"] == {"agent_id"}
    assert names["ai_tool_executions_total"] == {"tool_name", "agent_id", "status"}
    assert names["ai_tool_execution_time_seconds_bucket"] == {"tool_name"}
    assert names["ai_context_window_size"] == {"agent_id"}
    assert names["ai_context_compressions_total"] == {"agent_id", "strategy"}
    assert buckets["ai_agent_response_time_seconds_bucket"] == {
        *("0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "30.0"),
        "+Inf",
    }
    assert buckets["ai_tool_execution_time_seconds_bucket"] == {
        *("0.01", "0.1", "0.5", "1.0", "2.0", "5.0"),
        "+Inf",
    }
    assert set(samples.values()) == {0.0}
    for status in ("success", "error", "cancelled"):
        assert f'ai_agent_requests_total{{"agent_id": "a", "status": "{status}"}}' in samples


def test_what_a_model_made_up_never_becomes_a_label() -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    metrics.ensure_agent("a", ["calculator"])
    metrics.tool_ended("calculator", "a", "success", 0.1)
    metrics.tool_ended("rm -rf", "a", "error", 0.1)
    metrics.request_ended("nobody", "error", 0.1)
    text = prometheus_client.generate_latest(registry).decode()
    assert "rm -rf" not in text
    assert "nobody" not in text
    assert 'tool_name="unknown"' in text


def test_memory_held_is_given_back_when_the_block_fails() -> None:
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    metrics.ensure_agent("a", [])
    value = lambda: registry.get_sample_value("ai_agent_memory_usage_bytes", {"agent_id": "a"})  # noqa: E731
    with pytest.raises(ValueError, match="x"), metrics.holding("a", 100):
        assert value() == 100
        raise ValueError("x")
    assert value() == 0


def test_custom_metrics_are_bounded_in_names_labels_and_label_sets() -> None:
    registry = CollectorRegistry()
    custom = CustomMetrics(registry)
    assert custom.record("rows", 3, {"table": "a"})
    assert not custom.record("rows", 3, {"other": "a"})
    assert not custom.record("Bad Name", 1)
    assert not custom.record("nan", float("nan"))
    assert not custom.record("wide", 1, {f"l{n}": "x" for n in range(11)})
    assert not custom.record("rows_quantile", 1, {"quantile": "x"})
    assert not custom.record("rows_count", 1)
    taken = sum(custom.record("rows", 1, {"table": f"t{n}"}) for n in range(200))
    assert taken == CustomMetrics.MAX_LABEL_SETS - 1
    named = sum(custom.record(f"m{n}", 1) for n in range(200))
    assert named == CustomMetrics.MAX_NAMES - 1
    sample = registry.get_sample_value
    assert sample("peregrine_custom_rows_sum", {"table": "a"}) == 3
    dropped = "peregrine_custom_metrics_dropped_total"
    assert sample(dropped, {"reason": "too_many_names"}) == 101
    assert sample(dropped, {"reason": "too_many_label_sets"}) == 101


def test_metrics_are_served_on_a_port_of_their_own_until_the_block_ends(free_port: int) -> None:
    registry = telemetry.new_registry()
    AgentMetrics(registry).ensure_agent("a", [])
    with telemetry.start_metrics_server(free_port, registry) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b'ai_agent_requests_total{agent_id="a",status="success"} 0.0' in answer.read()
        with (
            pytest.raises(StartRefused, match="PEREGRINE_METRICS_PORT"),
            telemetry.start_metrics_server(free_port, registry),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


@pytest.fixture
def free_port() -> int:
    from tests.support.ports import free_port

    return free_port()
