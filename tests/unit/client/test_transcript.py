"""The rules by which the events of a run add up, and by which some stop counting."""

import itertools

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import Transcript, collect
from tests.support.fake_orchestrator import (
    finished,
    restarted,
    started,
    step,
    taken_over,
    text,
    tool_finished,
    tool_started,
    truncated,
)


def numbered(*events: pb.RunEvent, first: int = 1, epoch: int = 1) -> list[pb.RunEvent]:
    placed = []
    for sequence, event in zip(itertools.count(first), events, strict=False):
        copy = pb.RunEvent()
        copy.CopyFrom(event)
        copy.sequence, copy.epoch = sequence, epoch
        placed.append(copy)
    return placed


def folded(*events: pb.RunEvent) -> Transcript:
    transcript = Transcript()
    for event in events:
        transcript.add(event)
    return transcript


def test_the_text_is_that_of_the_last_step() -> None:
    transcript = folded(
        *numbered(started(), step(1), text(1, "Let me "), text(1, "see."), step(2), text(2, "425"))
    )
    assert transcript.text == "425"
    assert transcript.step_text(1) == "Let me see."


def test_a_finished_run_has_the_text_and_state_of_its_terminal_event() -> None:
    transcript = folded(*numbered(started(), step(1), text(1, "42"), text(1, "5"), finished("425")))
    assert (transcript.text, transcript.step_text(1)) == ("425", "425")
    assert transcript.state == pb.RUN_STATE_SUCCEEDED


def test_a_tool_runs_until_its_result_came() -> None:
    events = numbered(
        tool_started("a", "calculator", '{"x":1}'), tool_finished("a", "calculator", "425", ms=2)
    )
    transcript = folded(events[0])
    assert transcript.tools["a"].running
    transcript.add(events[1])
    activity = transcript.tools["a"]
    assert not activity.running
    assert (activity.arguments, activity.text) == ('{"x":1}', "425")
    assert activity.execution_seconds == pytest.approx(0.002)


def test_a_result_whose_start_was_before_the_first_event_read_is_kept() -> None:
    transcript = folded(*numbered(tool_finished("a", "calculator"), first=7))
    assert not transcript.tools["a"].running


def test_a_restarted_generation_voids_what_it_had_said_and_its_tool_calls() -> None:
    before = numbered(started(), step(1), text(1, "wrong"), tool_started("a", "calculator"))
    again = numbered(taken_over(), restarted(2), step(1), text(1, "right"), first=5, epoch=2)
    transcript = folded(*before)
    assert transcript.add(again[0]) == []
    dropped = transcript.add(again[1])
    assert [event.sequence for event in dropped] == [2, 3, 4, 5]
    for event in again[2:]:
        transcript.add(event)
    assert transcript.text == "right"
    assert transcript.tools == {}
    assert (transcript.restarts, transcript.takeovers) == (1, 1)


def test_what_was_said_before_the_restarted_generation_stays() -> None:
    transcript = folded(
        *numbered(
            started(),
            step(1),
            tool_started("a", "calculator"),
            tool_finished("a", "calculator"),
            step(2),
            text(2, "half"),
            restarted(5, 2),
            step(2),
            text(2, "whole"),
        )
    )
    assert transcript.text == "whole"
    assert list(transcript.tools) == ["a"]


def test_a_truncated_log_goes_on_after_the_last_position_that_holds() -> None:
    transcript = folded(*numbered(started(), step(1), text(1, "kept "), text(1, "lost")))
    (cut, more) = numbered(truncated(3), text(1, "found"), first=4, epoch=2)
    assert [event.sequence for event in transcript.add(cut)] == [4]
    transcript.add(more)
    assert transcript.text == "kept found"
    assert [event.sequence for event in transcript.events] == [1, 2, 3, 4, 5]
    assert (transcript.last_sequence, transcript.last_epoch) == (5, 2)


def test_a_truncation_may_stand_before_many_events_that_were_seen() -> None:
    seen = numbered(started(), step(1), *(text(1, word) for word in "abcdef"))
    transcript = folded(*seen)
    dropped = transcript.add(numbered(truncated(2), first=3, epoch=2)[0])
    assert [event.sequence for event in dropped] == [3, 4, 5, 6, 7, 8]
    assert transcript.text == ""


def test_an_event_that_is_already_there_changes_nothing() -> None:
    events = numbered(started(), step(1), text(1, "once"))
    transcript = folded(*events, *events)
    assert transcript.text == "once"
    assert len(transcript.events) == 3


def test_a_missing_event_is_an_error() -> None:
    first, _, third = numbered(started(), step(1), text(1, "x"))
    transcript = folded(first)
    with pytest.raises(ValueError, match="events 2 to 2 are missing"):
        transcript.add(third)


def test_reading_may_begin_anywhere() -> None:
    transcript = folded(*numbered(text(2, "the end"), finished("the end"), first=40))
    assert transcript.text == "the end"


def test_an_event_of_a_newer_server_keeps_its_position() -> None:
    transcript = folded(*numbered(started(), pb.RunEvent(), step(1), text(1, "on")))
    assert transcript.text == "on"


def test_a_waiting_run_says_so_until_it_goes_on() -> None:
    waiting = pb.RunWaiting(state=pb.RUN_STATE_AWAITING_APPROVAL, call_id="a", tool="refund")
    events = numbered(started(), pb.RunEvent(run_waiting=waiting), step(2))
    transcript = folded(*events[:2])
    assert transcript.state == pb.RUN_STATE_AWAITING_APPROVAL
    transcript.add(events[2])
    assert (transcript.state, transcript.waiting) == (pb.RUN_STATE_RUNNING, None)


async def test_collect_reads_to_the_end() -> None:
    async def events():  # type: ignore[no-untyped-def]
        for event in numbered(started(), step(1), text(1, "all"), finished("all")):
            yield event

    assert (await collect(events())).text == "all"
