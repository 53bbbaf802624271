"""Lists on wide and narrow terminals, and in pipes."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from peregrine.cli.tables import Column, ago, one_line, show
from tests.unit.cli.terminal import Terminal, console, plain_console

COLUMNS = (
    Column("RUN"),
    Column("AGENT", rank=2),
    Column("AGE", rank=1, right=True),
    Column("TITLE"),
)
ROWS = [
    ("0123456789", "assistant", "5s", "What is 25 * 17, and what time is it?"),
    ("1123456789", "a", "12m", "漢字"),
]


def on_terminal(width: int) -> list[str]:
    terminal = Terminal()
    show(console(terminal, width=width), COLUMNS, ROWS, empty="none")
    return terminal.text().splitlines()


def test_columns_are_aligned() -> None:
    assert on_terminal(80) == [
        "RUN         AGENT      AGE  TITLE",
        "0123456789  assistant   5s  What is 25 * 17, and what time is it?",
        "1123456789  a          12m  漢字",
    ]


def test_the_last_column_is_cut_before_others_go() -> None:
    assert on_terminal(52) == [
        "RUN         AGENT      AGE  TITLE",
        "0123456789  assistant   5s  What is 25 * 17, and wh…",
        "1123456789  a          12m  漢字",
    ]


def test_on_a_narrow_terminal_the_least_needed_go_first() -> None:
    assert on_terminal(41)[:2] == [
        "RUN         AGE  TITLE",
        "0123456789   5s  What is 25 * 17, and wh…",
    ]
    assert on_terminal(30) == [
        "RUN         TITLE",
        "0123456789  What is 25 * 17,…",
        "1123456789  漢字",
    ]
    assert all(len(line) <= 30 for line in on_terminal(30))


def test_in_a_pipe_nothing_is_left_out_or_cut() -> None:
    file = io.StringIO()
    show(plain_console(file, width=30), COLUMNS, ROWS, empty="none")
    assert file.getvalue().splitlines() == on_terminal(80)


def test_no_rows_are_said_in_words() -> None:
    file = io.StringIO()
    show(plain_console(file), COLUMNS, [], empty="no runs")
    assert file.getvalue() == "no runs\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")],
)
def test_ages_are_in_the_unit_that_says_something(seconds: int, words: str) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    time = Timestamp()
    time.FromDatetime(now - timedelta(seconds=seconds))
    assert ago(time, now) == words


def test_an_unset_time_has_no_age() -> None:
    assert ago(Timestamp()) == "-"


def test_one_line_has_no_breaks_and_an_end() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 300) == "x" * 199 + "…"
