"""Where a run's time went, drawn as text: one row a span, bars on one time line.

The dark part of a bar is what the run waited for; the light part was overlapped by something that
lasted longer. The dark part comes first in every bar: a span that has been outlasted once stays so
until it ends. The dark parts of all rows add up to the run's time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli.words import printable

_STYLES = {
    pb.SPAN_KIND_TOOL: "green",
    pb.SPAN_KIND_FIRST_TOKEN: "blue",
    pb.SPAN_KIND_DECODE: "cyan",
    pb.SPAN_KIND_TAKEOVER: "red",
    pb.SPAN_KIND_QUEUE: "yellow",
    pb.SPAN_KIND_NETWORK: "magenta",
}
_LEAST_BAR = 10
_MOST_BAR = 60
_MOST_NAME = 24
# Beyond so many rows, the shortest spans that are not tools share one.
_MOST_ROWS = 14


@dataclass(frozen=True, slots=True)
class Shades:
    """What bars are drawn with."""

    dark: str = "█"
    light: str = "░"
    track: str = "·"


PLAIN = Shades(dark="#", light="-", track=".")


def draw(waterfall: pb.Waterfall, *, width: int, shades: Shades | None = None) -> list[Text]:
    """The chart as lines of at most `width` cells; without bars where there is no room for them."""
    shades = shades or Shades()
    lines = [_title(waterfall)]
    spans, folded = _fold(waterfall.spans)
    if not spans:
        return lines
    total = max(waterfall.wall_ms, *(span.start_ms + span.duration_ms for span in spans), 0.001)
    kinds = [kind_name(span.kind) for span in spans]
    kind_width = max(map(cell_len, kinds))
    name_width = min(max(cell_len(span.name) for span in spans), _MOST_NAME)
    times = [milliseconds(span.duration_ms) for span in spans]
    time_width = max(map(len, times))
    bar = min(width - kind_width - name_width - time_width - 8, _MOST_BAR)
    if bar < _LEAST_BAR:
        name_width = max(min(name_width, width - kind_width - time_width - 8 - _LEAST_BAR), 6)
        bar = width - kind_width - name_width - time_width - 8
    overlapped = False
    for span, kind, time in zip(spans, kinds, times, strict=True):
        text = Text(no_wrap=True)
        text.append(f"  {set_cell_size(kind, kind_width)}  ")
        text.append(_fitted(span.name, name_width), "dim")
        if bar >= _LEAST_BAR:
            text.append("  ")
            overlapped |= _bar(text, span, total, bar, shades)
        text.append(f"  {time:>{time_width}}")
        lines.append(text)
    if folded:
        rest = sum(span.critical_ms for span in folded)
        lines.append(Text(f"  and {len(folded)} shorter: {milliseconds(rest)} waited for", "dim"))
    if overlapped:
        lines.append(Text(f"  {shades.dark} waited for   {shades.light} overlapped", "dim"))
    return lines


def milliseconds(value: float) -> str:
    """A time with three digits that matter: "0.42 ms", "12.3 ms", "1.85 s"."""
    if value >= 999.5:
        return f"{value / 1e3:.2f} s" if value < 99_995 else f"{value / 1e3:.0f} s"
    if value >= 99.95:
        return f"{value:.0f} ms"
    return f"{value:.1f} ms" if value >= 9.995 else f"{value:.2f} ms"


def kind_name(kind: int) -> str:
    known = pb.SpanKind.DESCRIPTOR.values_by_number.get(kind)
    name = known.name.removeprefix("SPAN_KIND_") if known else f"kind {kind}"
    return name.lower().replace("_", " ")


def _title(waterfall: pb.Waterfall) -> Text:
    text = Text("time  ", "bold")
    text.append(milliseconds(waterfall.wall_ms), "bold")
    text.append(f", critical path {milliseconds(waterfall.critical_path_ms)}", "dim")
    return text


def _fold(
    spans: Sequence[pb.WaterfallSpan],
) -> tuple[list[pb.WaterfallSpan], list[pb.WaterfallSpan]]:
    """The spans to draw, and the ones too short to matter when there are many."""
    ordered = sorted(spans, key=lambda span: (span.start_ms, -span.duration_ms))
    short = sorted(
        (span for span in ordered if span.kind != pb.SPAN_KIND_TOOL),
        key=lambda span: span.duration_ms,
    )[: max(len(ordered) - _MOST_ROWS, 0)]
    left_out = {id(span) for span in short}
    return [span for span in ordered if id(span) not in left_out], short


def _bar(text: Text, span: pb.WaterfallSpan, total: float, width: int, shades: Shades) -> bool:
    """Draws a bar; True when a part of it was overlapped."""
    start = min(int(span.start_ms / total * width), width - 1)
    end = min(max(round((span.start_ms + span.duration_ms) / total * width), start + 1), width)
    share = span.critical_ms / span.duration_ms if span.duration_ms > 0 else 1.0
    length = end - start
    dark = length if share > 0.995 else min(round(length * share), length)
    style = _STYLES.get(span.kind, "white")
    text.append(shades.track * start, "bright_black")
    text.append(shades.dark * dark, style)
    text.append(shades.light * (length - dark), style)
    text.append(shades.track * (width - end), "bright_black")
    return dark < length


def _fitted(name: str, width: int) -> str:
    name = printable(name).replace("\n", " ").replace("\t", " ")
    return set_cell_size(name if cell_len(name) <= width else f"{name[: width - 1]}…", width)
