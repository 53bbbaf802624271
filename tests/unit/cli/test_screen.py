"""What a person sees of a run."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli.screen import Screen
from peregrine.cli.words import Wrap, arguments, printable
from tests.support.fake_orchestrator import (
    finished,
    restarted,
    span,
    started,
    step,
    taken_over,
    text,
    tool_finished,
    tool_started,
    truncated,
)
from tests.unit.cli.terminal import Terminal, console, plain_console

HEADER = "assistant · claude-sonnet-5-5 · simulated model"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Sight:
    """A screen on a terminal, and events for it."""

    def __init__(self, *, width: int = 80, height: int = 24) -> None:
        self.terminal = Terminal()
        self.clock = Clock()
        self.screen = Screen(
            console(self.terminal, width=width, height=height), live=True, clock=self.clock
        )
        self._sequence = 0

    def see(self, *events: pb.RunEvent, epoch: int = 1, at: int = 0) -> list[str]:
        for event in events:
            self._sequence = at or self._sequence + 1
            at = 0
            copy = pb.RunEvent()
            copy.CopyFrom(event)
            copy.sequence, copy.epoch = self._sequence, epoch
            self.screen.event(copy)
        return self.rows()

    def rows(self) -> list[str]:
        return [row for row in self.terminal.text().splitlines() if row]


@pytest.fixture
def sight() -> Sight:
    return Sight()


def test_text_stands_as_it_came_below_the_model(sight: Sight) -> None:
    assert sight.see(started(), step(1), text(1, "Hel"), text(1, "lo\nyou"))[:3] == [
        HEADER,
        "Hello",
        "you",
    ]


def test_a_real_model_is_not_called_simulated(sight: Sight) -> None:
    assert sight.see(started(), step(1, simulated=False))[0] == "assistant · claude-sonnet-5-5"


def test_lines_break_between_words_that_come_in_pieces() -> None:
    sight = Sight(width=21)
    pieces = ("Refunds are gran", "ted ", "with", "in thir", "ty days of the day.\n", "So.")
    assert sight.see(started(), step(1), *(text(1, piece) for piece in pieces))[1:] == [
        "Refunds are granted",
        "within thirty days",
        "of the day.",
        "So.",
    ]


@given(
    st.lists(st.text(alphabet="ab 漢\n", max_size=12), max_size=12),
    st.integers(min_value=2, max_value=9),
)
def test_wrapping_loses_nothing_and_keeps_within_the_width(pieces: list[str], width: int) -> None:
    terminal, wrap = Terminal(), Wrap()
    for piece in pieces:
        terminal.write(wrap.feed(piece, width))
    said = "".join(pieces)
    assert terminal.text().split() == said.split() or width < max(map(cell_len, said.split()))
    assert "".join(terminal.text().split()) == "".join(said.split())


def test_while_the_model_is_waited_for_something_turns_and_then_is_gone(sight: Sight) -> None:
    first = sight.see(started(), step(1))[-1]
    sight.clock.now += 1.25
    sight.screen.tick()
    second = sight.rows()[-1]
    assert first.strip() != second.strip()
    assert second.endswith("claude-sonnet-5-5 1.2 s")
    assert sight.see(text(1, "there")) == [HEADER, "there"]


def test_tools_are_shown_while_they_run_and_when_they_have_finished(sight: Sight) -> None:
    sight.see(
        started(),
        step(1),
        tool_started("a", "calculator", '{"expression":"25 * 17"}'),
        tool_started("b", "clock", '{"zone":"UTC"}'),
    )
    sight.clock.now += 0.5
    sight.screen.tick()
    running = sight.rows()
    assert running[1].endswith("calculator 25 * 17 0.5 s")
    assert running[2].endswith("clock      UTC 0.5 s")
    after = sight.see(tool_finished("b", "clock", ms=12.5))
    assert after[1] == running[1]
    assert after[2] == "  ✓ clock      UTC 12.5 ms"
    after = sight.see(tool_finished("a", "calculator", failed="division by zero", ms=0.42))
    assert after[1:3] == [
        "  ✗ calculator division by zero 0.42 ms",
        "  ✓ clock      UTC 12.5 ms",
    ]
    assert sight.see(step(2), text(2, "425"))[3:] == ["425"]


def test_a_tool_that_outlives_its_lines_says_so_below(sight: Sight) -> None:
    rows = sight.see(
        started(),
        step(1),
        tool_started("a", "calculator", '{"x":"1"}'),
        text(1, "still talking"),
        tool_finished("a", "calculator", ms=3),
    )
    assert rows == [
        HEADER,
        "  ▸ calculator 1",
        "still talking",
        "  ✓ calculator 1 3.00 ms",
    ]


def test_a_reused_result_is_marked(sight: Sight) -> None:
    rows = sight.see(
        started(), tool_started("a", "search"), tool_finished("a", "search", ms=1, reused=True)
    )
    assert rows[0] == "  ✓ search 1.00 ms (reused)"


def test_long_arguments_are_cut_to_the_line(sight: Sight) -> None:
    long = '{"query":"' + "word " * 100 + '"}'
    rows = sight.see(started(), tool_started("a", "search", long))
    assert rows[0].endswith("… 0.0 s")
    assert len(rows[0]) < 80


def test_more_tools_than_rows_do_not_disturb_what_scrolled_away() -> None:
    sight = Sight(height=5)
    calls = [f"c{number}" for number in range(12)]
    sight.see(started(), step(1), *(tool_started(call, f"tool-{call}") for call in calls))
    rows = sight.see(*(tool_finished(call, f"tool-{call}", ms=1) for call in calls))
    for call in calls:
        assert sum("✓" in row and f"tool-{call} " in row for row in rows) == 1


def test_a_restarted_call_is_announced_and_its_text_comes_anew(sight: Sight) -> None:
    sight.see(started(), step(1), tool_started("a", "calculator"), text(1, "wrong ans"))
    rows = sight.see(taken_over(), restarted(2), step(1), text(1, "right"), epoch=2)
    assert "another orchestrator goes on with the run" in rows
    assert rows[-2:] == [
        "! the model's call was cut and is made again; what it just said no longer counts",
        "right",
    ]


def test_after_a_truncation_the_text_that_holds_is_said_again(sight: Sight) -> None:
    sight.see(started(), step(1), text(1, "kept "), text(1, "lost"))
    rows = sight.see(truncated(3), text(1, "found"), epoch=2, at=4)
    assert rows[-1] == "kept found"
    assert rows[-2].startswith("! the last events were lost")


def test_a_run_that_ends_says_how_and_where_the_time_went(sight: Sight) -> None:
    waterfall = pb.Waterfall(
        wall_ms=10,
        critical_path_ms=10,
        spans=[span(pb.SPAN_KIND_DECODE, "claude-sonnet-5-5", 0, 10, 10)],
    )
    rows = sight.see(started(), step(1), text(1, "done"), finished("done", waterfall=waterfall))
    assert rows[2] == "time  10.0 ms, critical path 10.0 ms"
    assert rows[3].startswith("  decode  claude-sonnet-5-5  ████")
    assert rows[4].startswith("1 step · 1,234 tokens in, 56 out")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            finished(
                "",
                state=pb.RUN_STATE_FAILED,
                error=common_pb2.Error(reason="MODEL_OVERLOADED", message="the model is busy"),
            ),
            "failed: the model is busy (MODEL_OVERLOADED)",
        ),
        (finished("", state=pb.RUN_STATE_CANCELLED), "cancelled"),
        (
            pb.RunEvent(run_finished=pb.RunFinished(truncated=True)),
            "! the agent's step limit ended the run before the model did",
        ),
        (
            pb.RunEvent(
                run_finished=pb.RunFinished(
                    degradations=[common_pb2.Degradation(what="cache", reason="REDIS_AWAY")]
                )
            ),
            "! went on without cache (REDIS_AWAY)",
        ),
        (
            pb.RunEvent(
                run_waiting=pb.RunWaiting(
                    state=pb.RUN_STATE_AWAITING_APPROVAL, call_id="c1", tool="refund"
                )
            ),
            "! refund waits for approval (call c1)",
        ),
        (
            pb.RunEvent(
                model_retrying=pb.ModelRetrying(error=common_pb2.Error(message="overloaded"))
            ),
            "! overloaded: the model is asked again in 0.00 ms",
        ),
    ],
)
def test_what_a_person_should_know_is_said(sight: Sight, event: pb.RunEvent, words: str) -> None:
    assert words in sight.see(started(), step(1), event)


def test_an_answer_that_never_streamed_is_shown_at_the_end(sight: Sight) -> None:
    assert "whole" in sight.see(started(), step(1), finished("whole"))


def test_control_characters_never_reach_the_terminal(sight: Sight) -> None:
    rows = sight.see(
        started(),
        step(1),
        tool_started("a", "t\x1b[2J", '{"x":"\\u001b[31m\\nred"}'),
        tool_finished("a", "t\x1b[2J", ms=1),
        text(1, "a\x1b]0;title\x07b\x9bc\r\x08"),
    )
    assert rows[1:] == ["  ✓ t[2J [31m red 1.00 ms", "a]0;titlebc"]


def test_in_a_pipe_there_is_one_line_a_fact_and_no_control_sequence() -> None:
    file = io.StringIO()
    screen = Screen(plain_console(file), live=False, chart=False)
    events = [
        started(),
        step(1),
        text(1, "Let me see."),
        tool_started("a", "calculator", '{"expression":"25 * 17"}'),
        tool_finished("a", "calculator", ms=0.4),
        step(2),
        text(2, "425"),
        finished("425", steps=2),
    ]
    screen.waiting()
    for sequence, event in enumerate(events, start=1):
        event.sequence, event.epoch = sequence, 1
        screen.event(event)
        screen.tick()
    screen.close()
    assert file.getvalue().splitlines() == [
        HEADER,
        "",
        "Let me see.",
        "  ▸ calculator 25 * 17",
        "  ✓ calculator 25 * 17 0.40 ms",
        "",
        "425",
        "2 steps · 1,234 tokens in, 56 out",
        "conversation 11111111-1111-4111-8111-111111111111",
    ]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('{"expression":"25 * 17"}', "25 * 17"),
        ('{"query":"refunds","limit":3}', "query=refunds, limit=3"),
        ('{"on":{"a":[1]}}', '{"a": [1]}'),
        ("{}", ""),
        ("[1]", "[1]"),
        ("not json", "not json"),
    ],
)
def test_arguments_are_shown_in_short(given: str, shown: str) -> None:
    assert arguments(given) == shown


def test_printable_keeps_text_and_newlines() -> None:
    assert printable("ä\t→\n漢\x00\x1f\x7f\x85") == "ä    →\n漢"
