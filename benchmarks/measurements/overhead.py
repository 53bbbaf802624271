"""What Peregrine adds to a run: the client's time less what the model and the tools needed.

One run after the other, as a person sees them. The echo is measured in between, so that both meet
the same machine.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, median, percentile, spread
from benchmarks.stack import Peregrine, Seen
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

# 20 tokens a call, tool calls included: what `{"text":"a"}` takes is three.
LATENCY = {"first_token": 0.04, "tokens_per_second": 200.0}
ANSWER: dict[str, Any] = {"blocks": [{"type": "text", "tokens": 20}]}
THREE_TOOLS: dict[str, Any] = {
    "blocks": [
        {"type": "text", "tokens": 11},
        *({"type": "tool_use", "name": "echo", "input": {"text": text}} for text in "abc"),
    ]
}

_WARM_UP = 12
_BLOCKS = 8
_BLOCK_RUNS = 8

_MODEL = (pb.SPAN_KIND_FIRST_TOKEN, pb.SPAN_KIND_DECODE)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run beside what its parts recorded, in seconds."""

    seen: Seen
    requests: Sequence[Mapping[str, Any]]

    @property
    def tools(self) -> float:
        """By the tools' own account. They ran side by side, so the longest counts."""
        return max(
            (
                event.tool_call_finished.execution_time.ToNanoseconds() / 1e9
                for event in self.seen.events
                if event.HasField("tool_call_finished")
            ),
            default=0.0,
        )

    @property
    def modelled(self) -> float:
        """What the model calls would have taken on an idle machine with no network."""
        return sum(float(request["modelled_seconds"]) for request in self.requests)

    @property
    def played(self) -> float:
        """What they took by the simulator's clock, its own lateness included."""
        return sum(float(each["finished"] - each["started"]) for each in self.requests)

    @property
    def overhead(self) -> float:
        return self.seen.wall - self.modelled - self.tools


async def overhead(lab: Lab) -> AsyncIterator[Row]:
    for name, turns, limit in (
        ("2 model calls, 3 tools", (THREE_TOOLS, ANSWER), 25.0),
        ("1 model call, no tools", (ANSWER,), 15.0),
    ):
        echo = await lab.echo()
        peregrine = await lab.peregrine()
        await peregrine.simulator.play(*turns, latency=LATENCY)
        await _runs(peregrine, _WARM_UP, calls=len(turns))
        measured: list[Measured] = []
        bare, silent = [await echo.sample()], [await echo.after_silence()]
        for _ in range(_BLOCKS):
            measured += await _runs(peregrine, _BLOCK_RUNS, calls=len(turns))
            bare.append(await echo.sample())
            silent.append(await echo.after_silence())
        for row in _rows(name, measured, median(bare), median(silent), limit):
            yield row


async def _runs(peregrine: Peregrine, count: int, *, calls: int) -> list[Measured]:
    """Runs one after the other, so the simulator's records are theirs in order."""
    before = await peregrine.simulator.last()
    seen = [await peregrine.first.chat(f"What is number {number}?") for number in range(count)]
    records = await peregrine.simulator.requests(before)
    if not all(each.whole for each in seen) or len(records) != count * calls:
        raise RuntimeError(f"{count} runs made {len(records)} model calls, or did not succeed")
    return [
        Measured(each, records[index * calls : (index + 1) * calls])
        for index, each in enumerate(seen)
    ]


def _rows(
    name: str, measured: Sequence[Measured], echo: float, silent: float, limit: float
) -> list[Row]:
    own = [each.overhead for each in measured]
    by_clock = [each.seen.wall - each.played - each.tools for each in measured]
    return [
        Row(
            name=f"run overhead, {name}, p50",
            value=median(own) / echo,
            unit="echoes",
            bound=Bound(at_most=limit),
            detail={
                "echo_ms": echo * 1e3,
                "overhead_ms": milliseconds(own),
                "less_simulator_clock_ms": milliseconds(by_clock),
                "wall_ms": milliseconds([each.seen.wall for each in measured]),
                "after_terminal_ms": milliseconds(
                    [each.seen.wall - each.seen.ended for each in measured]
                ),
                "critical_ms_by_kind": breakdown(measured),
            },
        ),
        Row(
            name=f"run overhead less the simulator's lateness, {name}, p50",
            value=median(by_clock) / echo,
            unit="echoes",
        ),
        Row(
            name=f"run overhead, {name}, p50",
            value=median(own) / silent,
            unit="echoes after silence",
            detail={"echo_ms": silent * 1e3},
        ),
        Row(name=f"run overhead, {name}, p50", value=median(own) * 1e3, unit="ms"),
        Row(name=f"run overhead, {name}, p95", value=percentile(own, 95) * 1e3, unit="ms"),
        Row(
            name=f"own time by the waterfall, {name}, p50",
            value=median([own_by_waterfall(each) for each in measured]),
            unit="ms",
        ),
        Row(
            name=f"first text after the modelled first token, {name}, p50",
            value=median([_first_text(each) for each in measured]) * 1e3,
            unit="ms",
        ),
    ]


def own_by_waterfall(measured: Measured) -> float:
    """Milliseconds of the critical path that were neither the model's nor a tool's."""
    return sum(
        span.critical_ms
        for span in measured.seen.finished.waterfall.spans
        if span.kind not in (*_MODEL, pb.SPAN_KIND_TOOL)
    )


def breakdown(measured: Sequence[Measured]) -> dict[str, float]:
    """Mean milliseconds on the critical path, by kind of span and by whose it was."""
    totals: dict[str, float] = defaultdict(float)
    for each in measured:
        for span in each.seen.finished.waterfall.spans:
            kind = pb.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
            totals[f"{kind} {span.name}"] += span.critical_ms
    return {name: round(total / len(measured), 3) for name, total in sorted(totals.items())}


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return spread([each * 1e3 for each in seconds])


def _first_text(measured: Measured) -> float:
    first = measured.seen.first_text
    if first is None:
        raise RuntimeError("a run had no text")
    return first - float(measured.requests[0]["modelled_first_token_seconds"])
