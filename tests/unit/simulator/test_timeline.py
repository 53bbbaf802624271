"""Which bytes are due when."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.simulator import timeline, tokens
from peregrine.simulator.latency import Latency
from peregrine.simulator.timeline import Outcome, Performance
from peregrine.simulator.turn import Block, Stall, Turn, Where, text, tool_use
from peregrine.simulator.wire import Usage


def performance(*blocks: Block, **fields: Any) -> Performance:
    turn_fields = {key: fields.pop(key) for key in ("stalls", "usage") if key in fields}
    return Performance(
        **{
            "turn": Turn(blocks=blocks, **turn_fields),
            "message_id": "msg_1",
            "model": "m",
            "usage": Usage(input_tokens=10),
            "latency": Latency(first_token=0.5, tokens_per_second=10),
            "first_token": 0.5,
            "max_tokens": 1000,
            "ping_seconds": 0,
            **fields,
        }
    )


def events(performance: Performance) -> tuple[list[tuple[float, dict[str, Any]]], Outcome]:
    outcome = Outcome()
    played = []
    for frame in timeline.play(performance, outcome):
        head, data, *_ = frame.data.decode().split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert head == f"event: {event['type']}"
        played.append((round(frame.at, 6), event))
    return played, outcome


def deltas(played: list[tuple[float, dict[str, Any]]]) -> list[tuple[float, dict[str, Any]]]:
    return [(at, e["delta"]) for at, e in played if e["type"] == "content_block_delta"]


def test_a_text_is_one_delta_per_token_at_the_pace_of_the_model() -> None:
    played, outcome = events(performance(text("abcdefghij")))
    assert [event["type"] for _, event in played] == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [at for at, _ in deltas(played)] == [0.5, 0.6, 0.7]
    assert "".join(delta["text"] for _, delta in deltas(played)) == "abcdefghij"
    assert played[-1][0] == 0.7
    assert played[0][1]["message"]["usage"]["input_tokens"] == 10
    assert played[-2][1]["usage"]["output_tokens"] == 3
    assert played[-2][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (outcome.first_token, outcome.end) == (0.5, pytest.approx(0.7))


def test_a_tool_call_streams_its_input_as_json() -> None:
    played, outcome = events(performance(text("hi"), tool_use("calc", {"expression": "1 + 1"})))
    pieces = [d["partial_json"] for _, d in deltas(played) if d["type"] == "input_json_delta"]
    assert orjson.loads("".join(pieces)) == {"expression": "1 + 1"}
    assert len(pieces) > 1
    start = next(e for _, e in played if e.get("index") == 1)
    assert start["content_block"] == {
        "type": "tool_use",
        "id": "toolu_sim01",
        "name": "calc",
        "input": {},
    }
    assert outcome.stop_reason == "tool_use"
    assert outcome.content[1]["input"] == {"expression": "1 + 1"}


def test_thinking_ends_with_a_signature_and_is_counted() -> None:
    played, outcome = events(performance(Block(type="thinking", text="abcd"), text("hello")))
    assert [d["type"] for _, d in deltas(played)] == [
        "thinking_delta",
        "signature_delta",
        "text_delta",
        "text_delta",
    ]
    assert played[-2][1]["usage"]["output_tokens_details"] == {"thinking_tokens": 1}
    assert outcome.content[0]["signature"]


def test_max_tokens_cut_the_text_and_what_follows() -> None:
    played, outcome = events(performance(text("abcdefgh"), text("more"), max_tokens=1))
    assert outcome.content == [{"type": "text", "text": "abcd"}]
    assert outcome.stop_reason == "max_tokens"
    assert played[-2][1]["usage"]["output_tokens"] == 1
    exact, outcome = events(performance(text("abcd"), max_tokens=1))
    assert outcome.stop_reason == "end_turn"
    assert exact[-2][1]["usage"]["output_tokens"] == 1


def test_a_tool_call_cut_by_max_tokens_has_broken_json() -> None:
    played, outcome = events(performance(tool_use("t", {"long": "argument"}), max_tokens=2))
    assert "".join(d["partial_json"] for _, d in deltas(played)) == '{"long":'
    assert outcome.stop_reason == "max_tokens"


def test_a_stop_sequence_ends_the_text_before_it() -> None:
    _, outcome = events(performance(text("one two three"), text("x"), stop_sequences=("thr", "wo")))
    assert outcome.content == [{"type": "text", "text": "one t"}]
    assert (outcome.stop_reason, outcome.stop_sequence) == ("stop_sequence", "wo")


def test_delays_and_stalls_move_what_follows() -> None:
    block = Block(type="text", text="a" * 12, delay=1, stalls=(Stall(after_tokens=2, seconds=5),))
    played, _ = events(performance(block, stalls=(Stall(after_tokens=1, seconds=2),)))
    assert [at for at, _ in deltas(played)] == [1.5, 3.6, 8.7]


def test_chunks_take_the_time_of_their_tokens() -> None:
    played, outcome = events(performance(Block(type="text", text="a" * 40, chunks=2)))
    assert [at for at, _ in deltas(played)] == [0.9, 1.4]
    assert outcome.output_tokens == 10


def test_silence_is_broken_by_pings() -> None:
    played, _ = events(performance(Block(type="text", text="a", delay=3.5), ping_seconds=1))
    pings = [at for at, event in played if event["type"] == "ping"]
    assert pings == [1.5, 2.5, 3.5, 4.0]


def test_unlimited_speed_takes_no_time() -> None:
    fast = Latency(first_token=0.5, tokens_per_second=0)
    played, _ = events(performance(text("a" * 400), latency=fast))
    assert {at for at, _ in played} == {0.5}


def test_usage_can_be_dictated() -> None:
    played, _ = events(performance(text("a"), usage={"input_tokens": 7, "output_tokens": 9}))
    assert played[0][1]["message"]["usage"]["input_tokens"] == 7
    assert played[-2][1]["usage"]["output_tokens"] == 9


def test_a_place_is_reached_by_tokens_or_by_events() -> None:
    outcome = Outcome(output_tokens=3, events=5)
    assert timeline.reached(Where(after_tokens=3), outcome)
    assert not timeline.reached(Where(after_tokens=4), outcome)
    assert timeline.reached(Where(after_events=5), outcome)
    assert not timeline.reached(Where(after_events=6), outcome)


def test_an_unfinished_block_is_reported_with_what_was_said() -> None:
    outcome = Outcome()
    frames = timeline.play(performance(text("abcdefgh")), outcome)
    while outcome.output_tokens < 1:
        next(frames)
    assert outcome.said() == [{"type": "text", "text": "abcd"}]


@given(st.text(max_size=200), st.integers(1, 60), st.none() | st.integers(1, 10))
def test_what_is_streamed_is_the_text_up_to_the_limit(
    said: str, limit: int, chunks: int | None
) -> None:
    block = replace(text(said), chunks=chunks)
    played, outcome = events(performance(block, max_tokens=limit))
    assert "".join(d["text"] for _, d in deltas(played)) == tokens.truncate(said, limit)
    assert outcome.output_tokens == min(limit, tokens.count(said))
    times = [at for at, _ in played]
    assert times == sorted(times)
