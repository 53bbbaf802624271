"""The canonical prompt as the provider's request."""

from typing import Any

import orjson
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit.errors import InvalidArgument
from peregrine.llm_gateway import requests

USER, ASSISTANT = common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT


def text(words: str) -> common_pb2.ContentBlock:
    return common_pb2.ContentBlock(text=words)


def opaque(utf8: bytes) -> common_pb2.ContentBlock:
    return common_pb2.ContentBlock(opaque=common_pb2.Json(utf8=utf8))


def use(arguments: bytes, call_id: str = "t1") -> common_pb2.ContentBlock:
    call = common_pb2.ToolUse(
        call_id=call_id, tool="add", arguments=common_pb2.Json(utf8=arguments)
    )
    return common_pb2.ContentBlock(tool_use=call)


def outcome(*content: common_pb2.ContentBlock, is_error: bool = False) -> common_pb2.ContentBlock:
    made = common_pb2.ToolOutcome(call_id="t1", content=content, is_error=is_error)
    return common_pb2.ContentBlock(tool_outcome=made)


def prompt(*messages: tuple[Any, list[common_pb2.ContentBlock]], **fields: Any) -> pb.Prompt:
    return pb.Prompt(
        model="claude-x",
        messages=[common_pb2.Message(role=role, content=content) for role, content in messages],
        **fields,
    )


def raw(given: pb.Prompt, *, caching: bool = False, model: str = "claude-x") -> bytes:
    return requests.encode(requests.generation(given, prompt_caching=caching), model)


def sent(given: pb.Prompt, *, caching: bool = False) -> Any:
    return orjson.loads(raw(given, caching=caching))


def violations(given: pb.Prompt) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        requests.generation(given, prompt_caching=True)
    assert caught.value.reason == "REQUEST_INVALID"
    return [field for field, _ in caught.value.violations]


def test_a_whole_conversation() -> None:
    given = prompt(
        (USER, [text("2+2?")]),
        (ASSISTANT, [text("I add."), use(b'{"a": 2}')]),
        (USER, [outcome(text("4"), is_error=True), text("well?")]),
        system="Be brief.",
        tools=[
            pb.ToolDefinition(
                name="add",
                description="Adds.",
                input_schema=common_pb2.Json(utf8=b'{"type": "object"}'),
            )
        ],
        tool_choice=pb.TOOL_CHOICE_ANY,
        temperature=0.0,
        stop_sequences=["END"],
        max_output_tokens=5000,
        thinking_budget_tokens=2000,
    )

    assert sent(given) == {
        "model": "claude-x",
        "tools": [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I add."},
                    {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "4"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "well?"},
                ],
            },
        ],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "max_tokens": 5000,
        "stream": True,
        "temperature": 0.0,
        "stop_sequences": ["END"],
    }


def test_what_is_unset_is_not_sent() -> None:
    assert sorted(sent(prompt((USER, [text("hi")])))) == [
        "max_tokens",
        "messages",
        "model",
        "stream",
    ]


@pytest.mark.parametrize(
    "exact",
    [
        b'{"type":"thinking","thinking":"1\\u00e9","signature":"Zm9v=="}',
        b'{"type": "x",  "n": 123456789012345678901234567890, "f": 1.10}',
    ],
)
def test_opaque_blocks_and_arguments_are_sent_byte_for_byte(exact: bytes) -> None:
    given = prompt((USER, [text("a")]), (ASSISTANT, [opaque(exact), use(exact)]))

    assert raw(given).count(exact) == 2


def test_arguments_that_are_no_object_are_told_to_the_model_as_such() -> None:
    given = prompt((USER, [text("a")]), (ASSISTANT, [use(b'{"a": '), use(b""), use(b"[1]")]))

    inputs = [block["input"] for block in sent(given)["messages"][1]["content"]]
    assert inputs == [{"INVALID_JSON": '{"a": '}, {}, {"INVALID_JSON": "[1]"}]


def test_empty_texts_are_left_out() -> None:
    given = prompt((USER, [text(""), text("a")]), (ASSISTANT, [outcome(text(""))]))

    first, second = sent(given)["messages"]
    assert first["content"] == [{"type": "text", "text": "a"}]
    assert second["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]


def marks(body: Any) -> list[str]:
    found = []
    for kind in ("tools", "system"):
        found += [kind for each in body.get(kind, []) if "cache_control" in each]
    for at, message in enumerate(body["messages"]):
        for where, block in enumerate(message["content"]):
            if "cache_control" in block:
                found.append(f"{at}.{where}")
    return found


def test_stable_prefixes_are_marked_for_the_prompt_cache() -> None:
    thinking = opaque(b'{"type":"thinking","thinking":"a","signature":"b"}')
    image = opaque(b'{"type":"image","source":{}}')
    tools = [pb.ToolDefinition(name="a"), pb.ToolDefinition(name="b")]
    conversation = [
        (USER, [text("1"), text("2")]),
        (ASSISTANT, [thinking, use(b"{}")]),
        (USER, [outcome(text("4")), image]),
    ]

    given = prompt(*conversation, system="s", tools=tools)
    assert marks(sent(given, caching=True)) == ["tools", "system", "0.1", "2.1"]
    assert marks(sent(given)) == []
    assert "cache_control" not in sent(given, caching=True)["tools"][0]
    assert marks(sent(prompt((USER, [text("1")])), caching=True)) == ["0.0"]
    ends_in_thinking = prompt((USER, [text("1")]), (ASSISTANT, [text("2"), thinking]))
    assert marks(sent(ends_in_thinking, caching=True)) == ["0.0", "1.0"]


def test_the_same_body_serves_another_model() -> None:
    body = requests.generation(prompt((USER, [text("a")])), prompt_caching=False)

    first, second = requests.encode(body, "one"), requests.encode(body, "two")

    assert first.replace(b'"one"', b'"two"') == second


def test_counting_sends_the_prompt_alone() -> None:
    body = requests.counting(prompt((USER, [text("a")]), temperature=0.5, max_output_tokens=7))

    assert sorted(body) == ["messages"]


def test_every_wrong_field_is_named() -> None:
    given = prompt(
        (USER, []),
        (common_pb2.ROLE_UNSPECIFIED, [common_pb2.ContentBlock()]),
        (USER, [opaque(b"[]"), outcome(use(b"{}"))]),
        tools=[pb.ToolDefinition(input_schema=common_pb2.Json(utf8=b"{"))],
        temperature=1.5,
        max_output_tokens=1024,
        thinking_budget_tokens=1024,
    )

    assert violations(given) == [
        "prompt.tools[0].name",
        "prompt.tools[0].input_schema",
        "prompt.messages[0].content",
        "prompt.messages[1].role",
        "prompt.messages[1].content[0]",
        "prompt.messages[1].content",
        "prompt.messages[2].content[0].opaque",
        "prompt.messages[2].content[1].tool_outcome.content",
        "prompt.temperature",
        "prompt.thinking_budget_tokens",
    ]


def test_a_prompt_needs_a_model_and_messages_of_which_the_first_is_the_users() -> None:
    assert violations(pb.Prompt()) == ["prompt.model", "prompt.messages"]
    assert violations(prompt((ASSISTANT, [text("a")]))) == ["prompt.messages[0].role"]
    too_many = prompt(*[(USER, [text("a")])] * (requests.MAX_MESSAGES + 1))
    assert violations(too_many) == ["prompt.messages"]


def test_fallback_models_are_few_and_have_names() -> None:
    requests.check_fallbacks(["a", "b"])
    for wrong in (["a"] * 9, [""]):
        with pytest.raises(InvalidArgument):
            requests.check_fallbacks(wrong)
