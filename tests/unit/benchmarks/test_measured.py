"""What is subtracted from what, on runs made by hand."""

import pytest
from benchmarks.measurements import eager, overhead
from benchmarks.measurements.overhead import Measured
from benchmarks.stack import Seen

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb


def tool_finished(sequence: int, milliseconds: int) -> pb.RunEvent:
    event = pb.RunEvent(sequence=sequence, tool_call_finished=pb.ToolCallFinished())
    event.tool_call_finished.execution_time.FromMilliseconds(milliseconds)
    return event


def ended(sequence: int, *spans: pb.WaterfallSpan) -> pb.RunEvent:
    finished = pb.RunFinished(state=pb.RUN_STATE_SUCCEEDED, waterfall=pb.Waterfall(spans=spans))
    return pb.RunEvent(sequence=sequence, run_finished=finished)


def seen(*events: pb.RunEvent, wall: float = 0.0) -> Seen:
    return Seen(events=list(events), first_text=0.05, ended=wall, wall=wall)


def request(*, modelled: float, started: float, finished: float) -> dict[str, float]:
    return {"modelled_seconds": modelled, "started": started, "finished": finished}


def test_overhead_is_the_wall_time_less_all_model_calls_and_the_longest_tool() -> None:
    run = Measured(
        seen(tool_finished(1, 10), tool_finished(2, 30), ended(3), wall=0.5),
        [
            request(modelled=0.1, started=1.0, finished=1.125),
            request(modelled=0.2, started=2.0, finished=2.25),
        ],
    )
    assert run.overhead == pytest.approx(0.5 - 0.1 - 0.2 - 0.03)
    assert run.played == pytest.approx(0.375)


def test_a_run_is_whole_when_nothing_is_missing_and_it_succeeded() -> None:
    assert seen(tool_finished(1, 0), ended(2)).whole
    assert not seen(tool_finished(1, 0), ended(3)).whole
    assert not seen(tool_finished(1, 0)).whole


def test_own_time_is_neither_the_models_nor_the_tools() -> None:
    spans = [
        pb.WaterfallSpan(kind=pb.SPAN_KIND_FIRST_TOKEN, name="model", critical_ms=40),
        pb.WaterfallSpan(kind=pb.SPAN_KIND_DECODE, name="model", critical_ms=10),
        pb.WaterfallSpan(kind=pb.SPAN_KIND_TOOL, name="echo", critical_ms=5),
        pb.WaterfallSpan(kind=pb.SPAN_KIND_PERSIST, name="journal", critical_ms=1.5),
        pb.WaterfallSpan(kind=pb.SPAN_KIND_PARSE, name="orchestrator", critical_ms=0.5),
    ]
    run = Measured(seen(ended(1, *spans)), [])
    assert overhead.own_by_waterfall(run) == 2.0
    assert overhead.breakdown([run, run])["persist journal"] == 1.5


def test_eager_tools_are_timed_from_the_way_to_the_last_one() -> None:
    def call(at: float) -> list[pb.WaterfallSpan]:
        return [
            pb.WaterfallSpan(kind=pb.SPAN_KIND_NETWORK, name="sleep", start_ms=at, duration_ms=2),
            pb.WaterfallSpan(
                kind=pb.SPAN_KIND_TOOL, name="sleep", start_ms=at + 2, duration_ms=1000
            ),
        ]

    waterfall = pb.Waterfall(spans=[*call(0), *call(500), *call(1000)])
    assert eager.after_last_block(waterfall) == pytest.approx(1.002)
