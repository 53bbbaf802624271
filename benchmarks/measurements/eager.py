"""Tools that start while the model still writes: how long after the last one was asked for all are
done. Read off the waterfall, so the client's clock has no part in it."""

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.lab import Lab
from benchmarks.measurements.overhead import ANSWER, LATENCY
from benchmarks.rows import Bound, Row, median
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

_TOOL_SECONDS = 1.0
_APART_SECONDS = 0.5
_RUNS = 3
_TURN: dict[str, Any] = {
    "blocks": [
        {
            "type": "tool_use",
            "name": "sleep",
            # Other arguments for each, or they would be the same call.
            "input": {"seconds": _TOOL_SECONDS + number / 1e6},
            "delay_before": _APART_SECONDS if number else 0.0,
        }
        for number in range(3)
    ]
}


async def eager(lab: Lab) -> AsyncIterator[Row]:
    peregrine = await lab.peregrine()
    await peregrine.simulator.play(_TURN, ANSWER, latency=LATENCY)
    after = []
    for _ in range(_RUNS):
        run = await peregrine.first.chat("Wait for three things.")
        if not run.whole:
            raise RuntimeError("a run did not succeed")
        after.append(after_last_block(run.finished.waterfall))
    yield Row(
        name="three 1 s tools, blocks 0.5 s apart: last block to last result",
        value=median(after) / _TOOL_SECONDS,
        unit="of one tool's time",
        bound=Bound(at_most=1.1),
        detail={"seconds": after},
    )


def after_last_block(waterfall: pb.Waterfall) -> float:
    """Seconds from the start of the last call to the end of all."""
    calls = [span for span in waterfall.spans if span.name == "sleep"]
    tools = [span for span in calls if span.kind == pb.SPAN_KIND_TOOL]
    if len(tools) != 3:
        raise RuntimeError(f"{len(tools)} tools in the waterfall, not 3")
    # The way to the tools service and the queue there come before the tool's own span.
    ended = max(span.start_ms + span.duration_ms for span in tools)
    last = max(tools, key=lambda span: span.start_ms)
    begun = max(
        (
            span.start_ms
            for span in calls
            if span.kind == pb.SPAN_KIND_NETWORK and span.start_ms <= last.start_ms
        ),
        default=last.start_ms,
    )
    return (ended - begun) / 1e3
