"""What the API refuses, and how it says so."""

from typing import Any

import orjson
import pytest

from peregrine.simulator import request
from peregrine.simulator.wire import ApiError
from tests.unit.simulator.requests import (
    CALCULATOR,
    assistant,
    parsed,
    results,
    tool_result,
    tool_use,
    user,
)


def refusal(*messages: Any, **fields: Any) -> tuple[int, str, str]:
    with pytest.raises(ApiError) as caught:
        parsed(*messages, **fields)
    return caught.value.status, caught.value.type, caught.value.message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 2}, "temperature"),
        ({"tools": [{"name": "bad name", "input_schema": {"type": "object"}}]}, "tools.0"),
        ({"tools": [{"name": "a", "input_schema": {"type": "string"}}]}, "tools.0"),
        ({"tools": [CALCULATOR, CALCULATOR]}, "unique"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [CALCULATOR]}, "'x' not found"),
        ({"stop_sequences": [" "]}, "stop_sequences.0"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "max_tokens"),
        ({"system": 5}, "system"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], named: str) -> None:
    status, kind, message = refusal(user("hi"), **fields)
    assert (status, kind) == (400, "invalid_request_error")
    assert named in message


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "at least one message"),
        ([{"role": "system", "content": "x"}], "messages.0.role"),
        ([user("")], "non-empty"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "non-empty"),
        ([{"role": "user", "content": ["x"]}], "messages.0.0"),
        ([assistant({"type": "text", "text": "x"})], "first message"),
    ],
)
def test_a_bad_message_is_named(messages: list[Any], named: str) -> None:
    assert named in refusal(*messages)[2]


def test_a_tool_use_must_be_followed_by_its_result() -> None:
    call = assistant(tool_use("a", "calculator", {}), tool_use("b", "calculator", {}))
    one = results(tool_result("a", "1"))
    assert "immediately after: b" in refusal(user("hi"), call, one)[2]
    assert "immediately after: a, b" in refusal(user("hi"), call)[2]
    assert "unexpected `tool_use_id`" in refusal(user("hi"), one)[2]
    twice = results(tool_result("a", "1"), tool_result("a", "1"), tool_result("b", "1"))
    assert "single result" in refusal(user("hi"), call, twice)[2]


def test_results_may_be_spread_over_neighbouring_user_messages() -> None:
    call = assistant(tool_use("a", "calculator", {}), tool_use("b", "calculator", {}))
    asked = parsed(user("hi"), call, results(tool_result("a", "1")), results(tool_result("b", "2")))
    assert len(asked.messages) == 4


def test_an_unknown_model_is_not_found() -> None:
    assert refusal(user("hi"), model="gpt-x") == (404, "not_found_error", "model: gpt-x")


def test_what_is_not_json_is_invalid() -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        request.parse(b"{", models=())
    with pytest.raises(ApiError, match="JSON object"):
        request.parse(b"[]", models=())


def test_counting_needs_no_max_tokens() -> None:
    body = orjson.dumps({"model": "claude-x", "messages": [user("hi")]})
    assert request.parse(body, models=(), counting=True).max_tokens == 0


def test_content_and_system_become_blocks() -> None:
    asked = parsed(user("hi"), system="be brief")
    assert asked.messages == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert asked.system == [{"type": "text", "text": "be brief"}]
