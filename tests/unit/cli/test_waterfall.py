"""The chart of where the time went."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli.waterfall import PLAIN, draw, kind_name, milliseconds
from tests.support.fake_orchestrator import span


def lines(waterfall: pb.Waterfall, width: int = 60) -> list[str]:
    return [line.plain for line in draw(waterfall, width=width)]


EAGER = pb.Waterfall(
    wall_ms=100,
    critical_path_ms=100,
    spans=[
        span(pb.SPAN_KIND_DECODE, "model", 0, 50, 40),
        span(pb.SPAN_KIND_TOOL, "slow", 40, 60, 60),
        span(pb.SPAN_KIND_TOOL, "fast", 45, 20, 0),
    ],
)


def test_bars_stand_where_the_time_was_and_show_what_was_overlapped() -> None:
    assert lines(EAGER, width=46) == [
        "time  100 ms, critical path 100 ms",
        "  decode  model  ████████░░··········  50.0 ms",
        "  tool    slow   ········████████████  60.0 ms",
        "  tool    fast   ·········░░░░·······  20.0 ms",
        "  █ waited for   ░ overlapped",
    ]


def test_nothing_is_said_of_overlap_where_there_is_none() -> None:
    serial = pb.Waterfall(wall_ms=10, critical_path_ms=10)
    serial.spans.append(span(pb.SPAN_KIND_TOOL, "t", 0, 10, 10))
    assert len(lines(serial)) == 2


def test_without_room_there_are_no_bars_but_all_the_numbers() -> None:
    narrow = lines(EAGER, width=28)
    assert not any("█" in line for line in narrow[1:4])
    assert [line.split()[-2:] for line in narrow[1:4]] == [
        ["50.0", "ms"],
        ["60.0", "ms"],
        ["20.0", "ms"],
    ]


def test_plain_shades_are_ascii() -> None:
    assert all(line.plain.isascii() for line in draw(EAGER, width=60, shades=PLAIN))


def test_many_short_spans_share_a_line_and_tools_never_do() -> None:
    many = pb.Waterfall(wall_ms=100, critical_path_ms=100)
    for number in range(30):
        many.spans.append(span(pb.SPAN_KIND_PARSE, "orchestrator", number, 0.5, 0.5))
    for number in range(3):
        many.spans.append(span(pb.SPAN_KIND_TOOL, f"tool{number}", 50, 0.1, 0))
    drawn = lines(many)
    assert sum("tool" in line.split()[0] for line in drawn) == 3
    assert "  and 19 shorter: 9.50 ms waited for" in drawn


def test_a_run_without_spans_has_a_title_only() -> None:
    assert lines(pb.Waterfall(wall_ms=3)) == ["time  3.00 ms, critical path 0.00 ms"]


@given(
    spans=st.lists(
        st.tuples(
            st.sampled_from(sorted(pb.SpanKind.values())),
            st.text(max_size=40),
            st.floats(0, 1e7),
            st.floats(0, 1e7),
            st.floats(0, 1),
        ),
        max_size=30,
    ),
    width=st.integers(20, 200),
)
def test_no_line_is_ever_wider_than_it_may_be(
    spans: list[tuple[pb.SpanKind, str, float, float, float]], width: int
) -> None:
    waterfall = pb.Waterfall(wall_ms=1000, critical_path_ms=1000)
    for kind, name, start, duration, share in spans:
        waterfall.spans.append(span(kind, name, start, duration, duration * share))
    for line in draw(waterfall, width=width):
        assert cell_len(line.plain) <= max(width, 60)
        assert "\n" not in line.plain


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0.00 ms"),
        (0.4234, "0.42 ms"),
        (12.34, "12.3 ms"),
        (99.94, "99.9 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (1893, "1.89 s"),
        (123_456, "123 s"),
    ],
)
def test_times_have_three_digits_that_matter(value: float, words: str) -> None:
    assert milliseconds(value) == words


def test_a_kind_of_a_newer_server_has_a_number() -> None:
    assert (kind_name(pb.SPAN_KIND_FIRST_TOKEN), kind_name(99)) == ("first token", "kind 99")
