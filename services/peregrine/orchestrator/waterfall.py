"""Where a run's time went: spans on one time line, and the path among them that decided the end.

The critical path is found backwards in effect: at every moment, the span that will end last among
those under way is the one the run is waiting for. A tool that outlasts the model's stream owns
the time that they share; one that ends before it owns none. What no span covers is the
orchestrator's own work and becomes PARSE spans, so the parts of the path always add up to the
wall time.

Times here are seconds from the acceptance of the run; the message carries milliseconds.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

# Gaps shorter than this are added to the neighbour before them instead of becoming a span.
_SMALLEST_GAP = 0.00005


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with a cause; `end` is never before `start`."""

    kind: "pb.SpanKind"
    name: str
    step: int
    start: float
    end: float


class Recorder:
    """Collects the spans of one run.

    Args:
      origin: the reading of the caller's monotonic clock at which the run was accepted.
    """

    def __init__(self, origin: float, spans: Iterable[Span] = ()) -> None:
        self.origin = origin
        self._spans = list(spans)

    def add(self, kind: "pb.SpanKind", name: str, step: int, start: float, end: float) -> None:
        """Notes a span by readings of the clock; an empty one is left out."""
        start = max(start - self.origin, 0.0)
        end -= self.origin
        if end > start:
            self._spans.append(Span(kind, name, step, start, end))

    def finish(self, now: float) -> pb.Waterfall:
        return build(self._spans, max(now - self.origin, 0.0))


def build(spans: Iterable[Span], wall: float) -> pb.Waterfall:
    """The waterfall of a run that took `wall` seconds, with PARSE spans where nothing else was."""
    known = sorted(
        (
            Span(s.kind, s.name, s.step, s.start, min(s.end, wall))
            for s in spans
            if s.start < wall and s.end > s.start
        ),
        key=lambda span: (span.start, span.end),
    )
    critical = [0.0] * len(known)
    gaps: list[Span] = []
    waiting: list[tuple[float, int]] = []  # a heap of (-end, index): the last to end on top
    arriving = 0
    now = 0.0
    last = -1
    while now < wall:
        while arriving < len(known) and known[arriving].start <= now:
            heapq.heappush(waiting, (-known[arriving].end, arriving))
            arriving += 1
        while waiting and -waiting[0][0] <= now:
            heapq.heappop(waiting)
        following = known[arriving].start if arriving < len(known) else wall
        if waiting:
            last = waiting[0][1]
            until = min(-waiting[0][0], following, wall)
            critical[last] += until - now
        else:
            until = min(following, wall)
            if until - now < _SMALLEST_GAP and last >= 0:
                critical[last] += until - now
            else:
                gaps.append(
                    Span(pb.SPAN_KIND_PARSE, "orchestrator", _step(known, last), now, until)
                )
        now = until
    result = pb.Waterfall(wall_ms=wall * 1e3)
    rows = [(span, part) for span, part in zip(known, critical, strict=True)]
    rows += [(gap, gap.end - gap.start) for gap in gaps]
    rows.sort(key=lambda row: row[0].start)
    for span, part in rows:
        result.spans.add(
            kind=span.kind,
            name=span.name,
            step=span.step,
            start_ms=span.start * 1e3,
            duration_ms=(span.end - span.start) * 1e3,
            critical_ms=part * 1e3,
        )
    result.critical_path_ms = sum(part for _, part in rows) * 1e3
    return result


def _step(known: list[Span], index: int) -> int:
    return known[index].step if index >= 0 else 0


def recorded(events: Iterable[pb.RunEvent], age: float, now: float) -> list[Span]:
    """What a former owner's events tell of where the time went, for the run's new owner.

    Args:
      age: seconds since the acceptance of the run.
      now: the wall clock, in seconds; the clocks of two owners may differ by a little.
    """
    accepted = now - age
    spans: list[Span] = []
    steps: dict[int, float] = {}
    calls: dict[str, float] = {}
    last = 0.0
    for event in events:
        at = min(max(event.create_time.ToNanoseconds() / 1e9 - accepted, last), age)
        kind = event.WhichOneof("payload")
        if kind == "run_started":
            spans.append(Span(pb.SPAN_KIND_CONTEXT, "memory", 0, 0.0, at))
        elif kind == "step_started":
            number = event.step_started.step
            spans.append(Span(pb.SPAN_KIND_FIRST_TOKEN, event.step_started.model, number, last, at))
            steps[number] = at
        elif kind == "step_finished":
            number = event.step_finished.step
            spans.append(Span(pb.SPAN_KIND_DECODE, "model", number, steps.get(number, last), at))
        elif kind == "tool_call_started":
            calls[event.tool_call_started.call_id] = at
        elif kind == "tool_call_finished":
            result = event.tool_call_finished
            begun = calls.get(result.call_id, at)
            spans.append(Span(pb.SPAN_KIND_TOOL, result.tool, result.step, begun, at))
        last = at
    spans.append(Span(pb.SPAN_KIND_TAKEOVER, "lease", 0, last, age))
    return [span for span in spans if span.end > span.start]
