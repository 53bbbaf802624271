"""The critical path: always as long as the run, and given to what the run waited for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.orchestrator import waterfall
from peregrine.orchestrator.waterfall import Recorder, Span


def spans_of(result: pb.Waterfall, kind: "pb.SpanKind") -> list[pb.WaterfallSpan]:
    return [span for span in result.spans if span.kind == kind]


def test_a_run_without_spans_is_all_the_orchestrators_own() -> None:
    result = waterfall.build([], 0.01)
    assert [span.kind for span in result.spans] == [pb.SPAN_KIND_PARSE]
    assert result.spans[0].critical_ms == pytest.approx(10)
    assert result.critical_path_ms == pytest.approx(result.wall_ms) == pytest.approx(10)


def test_a_tool_that_outlasts_the_stream_owns_the_time_from_its_own_start() -> None:
    decode = Span(pb.SPAN_KIND_DECODE, "model", 1, 0.0, 0.5)
    short = Span(pb.SPAN_KIND_TOOL, "short", 1, 0.1, 0.3)
    long = Span(pb.SPAN_KIND_TOOL, "long", 1, 0.2, 1.2)
    result = waterfall.build([long, short, decode], 1.2)
    parts = {span.name: span.critical_ms for span in result.spans}
    assert parts == {
        "model": pytest.approx(200),
        "short": pytest.approx(0),
        "long": pytest.approx(1000),
    }


def test_three_eager_tools_cost_one_second_after_the_last_block() -> None:
    decode = Span(pb.SPAN_KIND_DECODE, "model", 1, 0.0, 1.5)
    tools = [Span(pb.SPAN_KIND_TOOL, f"t{i}", 1, i / 2, i / 2 + 1) for i in (1, 2, 3)]
    result = waterfall.build([decode, *tools], 2.5)
    parts = {span.name: span.critical_ms for span in result.spans}
    assert parts == {
        "model": pytest.approx(1500),
        "t1": 0,
        "t2": 0,
        "t3": pytest.approx(1000),
    }
    assert result.spans[-1].start_ms + result.spans[-1].duration_ms == pytest.approx(2500)


def test_what_nothing_covers_is_a_span_of_its_own_between_its_neighbours() -> None:
    first = Span(pb.SPAN_KIND_CONTEXT, "memory", 0, 0.001, 0.003)
    second = Span(pb.SPAN_KIND_FIRST_TOKEN, "model", 1, 0.005, 0.045)
    result = waterfall.build([second, first], 0.05)
    assert [(s.kind, s.start_ms) for s in result.spans] == [
        (pb.SPAN_KIND_PARSE, pytest.approx(0)),
        (pb.SPAN_KIND_CONTEXT, pytest.approx(1)),
        (pb.SPAN_KIND_PARSE, pytest.approx(3)),
        (pb.SPAN_KIND_FIRST_TOKEN, pytest.approx(5)),
        (pb.SPAN_KIND_PARSE, pytest.approx(45)),
    ]


def test_a_recorder_leaves_out_what_took_no_time() -> None:
    recorder = Recorder(100.0)
    recorder.add(pb.SPAN_KIND_CONNECT, "model", 1, 101.0, 101.0)
    recorder.add(pb.SPAN_KIND_TOOL, "clock", 1, 101.0, 102.0)
    result = recorder.finish(103.0)
    assert [span.name for span in result.spans] == ["orchestrator", "clock", "orchestrator"]


times = st.floats(0, 100, allow_nan=False, width=32)


@given(
    pairs=st.lists(st.tuples(times, times), max_size=40),
    wall=st.floats(0.001, 120, allow_nan=False),
)
def test_the_path_adds_up_to_the_wall_time_whatever_overlaps(
    pairs: list[tuple[float, float]], wall: float
) -> None:
    spans = [
        Span(pb.SPAN_KIND_TOOL, str(i), 1, min(pair), max(pair)) for i, pair in enumerate(pairs)
    ]
    result = waterfall.build(spans, wall)
    assert result.critical_path_ms == pytest.approx(wall * 1e3, rel=1e-6)
    assert all(
        -1e-6 <= span.critical_ms <= span.duration_ms * (1 + 1e-6) + 0.0501 for span in result.spans
    )
    assert [s.start_ms for s in result.spans] == sorted(s.start_ms for s in result.spans)


def test_a_former_owners_events_become_spans_and_a_takeover() -> None:
    events = []
    for sequence, (at, payload) in enumerate(
        [
            (10.0, {"run_started": pb.RunStarted()}),
            (10.5, {"step_started": pb.StepStarted(step=1, model="m")}),
            (10.6, {"tool_call_started": pb.ToolCallStarted(step=1, call_id="c", tool="t")}),
            (10.9, {"tool_call_finished": pb.ToolCallFinished(step=1, call_id="c", tool="t")}),
            (11.0, {"step_finished": pb.StepFinished(step=1)}),
        ],
        1,
    ):
        event = pb.RunEvent(sequence=sequence, **payload)  # type: ignore[arg-type]
        event.create_time.FromNanoseconds(int(at * 1e9))
        events.append(event)
    spans = waterfall.recorded(events, age=4.0, now=13.9)
    assert [(span.kind, round(span.start, 3), round(span.end, 3)) for span in spans] == [
        (pb.SPAN_KIND_CONTEXT, 0.0, 0.1),
        (pb.SPAN_KIND_FIRST_TOKEN, 0.1, 0.6),
        (pb.SPAN_KIND_TOOL, 0.7, 1.0),
        (pb.SPAN_KIND_DECODE, 0.6, 1.1),
        (pb.SPAN_KIND_TAKEOVER, 1.1, 4.0),
    ]
