"""The provider's events become generation events."""

from typing import Any

import orjson
import pytest

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.llm_gateway.translation import StreamError, Translation


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def feed(answer: Translation, events: list[dict[str, Any]]) -> list[pb.GenerationEvent]:
    return [made for event in events if (made := answer.feed(event)) is not None]


def partial(text: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": text}


def test_text_passes_through_as_it_comes() -> None:
    deltas = [{"type": "text_delta", "text": text} for text in ("a", "", "b")]

    made = feed(Translation(), block(0, {"type": "text", "text": "first "}, *deltas))

    assert [event.text_delta.text for event in made] == ["first ", "a", "b"]


def test_a_tool_call_is_made_at_the_end_of_its_block_only() -> None:
    answer = Translation()
    events = block(0, {"type": "tool_use", "id": "t1", "name": "add", "input": {}})
    events[1:1] = [
        {"type": "content_block_delta", "index": 0, "delta": partial(part)}
        for part in ("", '{"a"', ": 1}")
    ]

    (begun,) = feed(answer, events[:-1])
    assert begun.tool_use_started == pb.ToolUseStarted(call_id="t1", tool="add")
    # Nothing of it was said that making the call again would say otherwise.
    assert not answer.has_content
    (made,) = feed(answer, events[-1:])
    assert (made.tool_use.call_id, made.tool_use.tool) == ("t1", "add")
    assert made.tool_use.arguments.utf8 == b'{"a": 1}'
    assert answer.has_content


@pytest.mark.parametrize(
    ("given", "parts", "expected"),
    [
        ({}, [], b"{}"),
        ({"a": 1}, [], b'{"a":1}'),
        ({}, ["[1]"], b"[1]"),
        ({}, ['{"a": "b'], b'{"a": "b'),
    ],
)
def test_arguments_are_what_the_model_wrote(
    given: dict[str, Any], parts: list[str], expected: bytes
) -> None:
    answer = Translation()
    content = {"type": "tool_use", "id": "t", "name": "n", "input": given}

    _, made = feed(answer, block(0, content, *map(partial, parts)))

    assert made.tool_use.arguments.utf8 == expected
    assert answer.broken_arguments == (1 if expected[:1] != b"{" or expected[-1:] != b"}" else 0)


def test_blocks_that_go_back_unchanged_are_opaque() -> None:
    redacted = {"type": "redacted_thinking", "data": "abc=="}
    searching = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "x"}]}

    made = feed(
        Translation(),
        [
            *block(0, redacted),
            *block(1, searching, partial('{"query": '), partial('"a"}')),
            *block(2, found),
        ],
    )

    assert [orjson.loads(event.opaque_block.utf8) for event in made] == [
        redacted,
        {**searching, "input": {"query": "a"}},
        found,
    ]


def test_blocks_may_interleave() -> None:
    one = block(0, {"type": "tool_use", "id": "1", "name": "n"}, partial('{"n":1}'))
    two = block(1, {"type": "tool_use", "id": "2", "name": "n"}, partial('{"n":2}'))

    made = feed(Translation(), [one[0], two[0], two[1], one[1], two[2], one[2]])

    assert [e.tool_use_started.call_id for e in made[:2]] == ["1", "2"]
    assert [(e.tool_use.call_id, e.tool_use.arguments.utf8) for e in made[2:]] == [
        ("2", b'{"n":2}'),
        ("1", b'{"n":1}'),
    ]


def test_usage_is_cumulative_and_nulls_change_nothing() -> None:
    answer = Translation()
    first = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 5}
    feed(answer, [{"type": "message_start", "message": {"usage": first}}])
    last: dict[str, Any] = {"input_tokens": None, "output_tokens": 20, "server_tool_use": {}}
    feed(answer, [{"type": "message_delta", "delta": {"stop_reason": None}, "usage": last}])

    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 20)
    assert answer.usage.cache_read_input_tokens == 5
    assert answer.prompt_usage is not None
    assert answer.prompt_usage.output_tokens == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("end_turn", pb.STOP_REASON_END_TURN),
        ("tool_use", pb.STOP_REASON_TOOL_USE),
        ("max_tokens", pb.STOP_REASON_MAX_TOKENS),
        ("model_context_window_exceeded", pb.STOP_REASON_MAX_TOKENS),
        ("stop_sequence", pb.STOP_REASON_STOP_SEQUENCE),
        ("refusal", pb.STOP_REASON_REFUSAL),
        ("pause_turn", pb.STOP_REASON_PAUSE),
        ("something_new", pb.STOP_REASON_UNSPECIFIED),
    ],
)
def test_stop_reasons(said: str, expected: pb.StopReason) -> None:
    answer = Translation()

    feed(
        answer,
        [{"type": "message_delta", "delta": {"stop_reason": said}}, {"type": "message_stop"}],
    )

    assert answer.stop_reason == expected
    assert answer.done


def test_an_error_event_is_kept() -> None:
    answer = Translation()
    error = {"type": "overloaded_error", "message": "later"}

    assert feed(answer, [{"type": "error", "error": error}]) == []
    assert answer.error == StreamError("overloaded_error", "later")
    assert not answer.done


def test_what_is_unknown_is_skipped() -> None:
    odd: list[dict[str, Any]] = [
        {},
        {"type": "ping"},
        {"type": "new_event"},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": 9},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta"}},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_start"},
        {"type": "message_delta"},
    ]
    answer = Translation()

    assert feed(answer, odd) == []
    assert not answer.has_content
