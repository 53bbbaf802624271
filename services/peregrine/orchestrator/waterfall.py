"""Where a run's time went: spans on one time line, and the path among them that decided the end.

The path is walked backwards from the end. At each moment the run was waiting for the span that
was under way just before and had begun first: a tool that outlasts the model's stream owns the
time from its own start, and what came before is the stream that asked for it. Spans beside the
path own none of it. Where no span was under way the orchestrator itself was at work: such a
stretch becomes a PARSE span. So the parts of the path always add up to the wall time.

Times here are seconds from the acceptance of the run; the message carries milliseconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
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

    def add_generation(
        self,
        step: int,
        model: str,
        times: llm.GenerationTimes,
        *,
        begun: float,
        first: float | None,
        ended: float,
    ) -> None:
        """Lays the gateway's own times into the stretch that was seen from here.

        Args:
          begun, first, ended: readings of the clock at the request, at the first content (None
            when none came), and at the end.
        """
        first = ended if first is None else first
        parts = (
            (pb.SPAN_KIND_QUEUE, times.queue_ms),
            (pb.SPAN_KIND_CACHE, times.cache_ms),
            (pb.SPAN_KIND_PROMPT_BUILD, times.build_ms),
            (pb.SPAN_KIND_CONNECT, times.connect_ms),
            (pb.SPAN_KIND_FIRST_TOKEN, times.first_token_ms),
        )
        inside = sum(part for _, part in parts) / 1e3
        cursor = max(first - inside, begun)
        self.add(pb.SPAN_KIND_NETWORK, "llm-gateway", step, begun, cursor)
        for kind, part in parts:
            until = min(cursor + part / 1e3, first)
            self.add(kind, model, step, cursor, until)
            cursor = until
        self.add(pb.SPAN_KIND_DECODE, model, step, first, ended)

    def finish(self, now: float) -> pb.Waterfall:
        return build(self._spans, max(now - self.origin, 0.0))


def build(spans: Iterable[Span], wall: float) -> pb.Waterfall:
    """The waterfall of a run that took `wall` seconds, with PARSE spans where nothing else was."""
    known = [
        Span(s.kind, s.name, s.step, s.start, min(s.end, wall))
        for s in spans
        if s.start < wall and s.end > s.start
    ]
    known.sort(key=lambda span: span.start)
    critical = [0.0] * len(known)
    gaps: list[Span] = []
    now = wall
    while now > 0:
        # By start, so the first one found is the one that began first.
        index = next((i for i, s in enumerate(known) if s.start < now <= s.end), None)
        if index is not None:
            begun = known[index].start
            critical[index] += now - begun
        else:
            index = max(
                (i for i, s in enumerate(known) if s.end <= now),
                key=lambda i: known[i].end,
                default=None,
            )
            begun = known[index].end if index is not None else 0.0
            if index is not None and now - begun < _SMALLEST_GAP:
                critical[index] += now - begun
            else:
                step = known[index].step if index is not None else 0
                gaps.append(Span(pb.SPAN_KIND_PARSE, "orchestrator", step, begun, now))
        now = begun
    result = pb.Waterfall(wall_ms=wall * 1e3)
    rows = list(zip(known, critical, strict=True))
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
