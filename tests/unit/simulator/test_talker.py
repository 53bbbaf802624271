"""What the small talker does when no script tells it."""

import json
from typing import Any

import pytest

from peregrine.simulator import talker
from tests.unit.simulator.requests import (
    CALCULATOR,
    KNOWLEDGE_SEARCH,
    TOOLS,
    assistant,
    parsed,
    results,
    tool_result,
    tool_use,
    user,
)


def calls(text: str, tools: list[Any] = TOOLS, **fields: Any) -> list[tuple[str, Any]]:
    turn = talker.turn(parsed(user(text), tools=tools, **fields))
    return [(b.name, json.loads(b.text)) for b in turn.blocks if b.type == "tool_use"]


def says(*messages: dict[str, Any], **fields: Any) -> str:
    turn = talker.turn(parsed(*messages, **fields))
    assert [block.type for block in turn.blocks] == ["text"]
    return turn.blocks[0].text


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("What is 25 * 17?", "25 * 17"),
        ("25*17", "25*17"),
        ("what is 25 times 17", "25 * 17"),
        ("12 plus 30 minus 2", "12 + 30 - 2"),
        ("100 divided by 8", "100 / 8"),
        ("15 percent of 80", "15 / 100 * 80"),
        ("What's 15% of 80?", "15 / 100 * 80"),
        ("compute (3 + 4) * 2.5 please", "(3 + 4) * 2.5"),
        ("3 x 4", "3 * 4"),
        ("3 \u00d7 4", "3 * 4"),
        ("1,000 + 1", "1000 + 1"),
        ("10 - 3", "10 - 3"),
        ("2 ** 8", "2 ** 8"),
        ("sqrt(16) + 3*2", "sqrt(16) + 3*2"),
        ("What is the square root of 16?", "sqrt(16)"),
    ],
)
def test_arithmetic_goes_to_the_calculator(text: str, expression: str) -> None:
    assert calls(text) == [("calculator", {"expression": expression})]


@pytest.mark.parametrize(
    "text", ["see you on 2026-11-22", "my number is 25", "version 2.0", "a well-known fact"]
)
def test_what_is_no_arithmetic_is_not_calculated(text: str) -> None:
    assert calls(text) == []


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("what do our docs say about refunds?", "refunds"),
        ("What does the documentation say about return shipping and what is 2 + 2?", None),
        ("search for shipping costs", "shipping costs"),
        ("Search the docs for warranty claims.", "warranty claims"),
        ("Look up opening hours", "opening hours"),
        ("What is our refund policy?", "refund policy"),
        ("find delivery times in our docs", "delivery times"),
        ("Is gift wrapping mentioned anywhere in the documentation?", None),
    ],
)
def test_questions_about_the_docs_are_searched(text: str, query: str | None) -> None:
    searched = [input for name, input in calls(text) if name == "knowledge_search"]
    assert len(searched) == 1
    assert query is None or searched == [{"query": query}]


@pytest.mark.parametrize(
    ("text", "zones"),
    [
        ("what time is it?", ["UTC"]),
        ("What's the time in Europe/Paris?", ["Europe/Paris"]),
        ("what time is it in Tokyo", ["Asia/Tokyo"]),
        ("what time is it in London and New York?", ["Europe/London", "America/New_York"]),
        ("What is the date today?", ["UTC"]),
        ("the current time in UTC and in Europe/Berlin", ["UTC", "Europe/Berlin"]),
    ],
)
def test_the_time_is_looked_up_where_it_is_asked_for(text: str, zones: list[str]) -> None:
    assert calls(text) == [("current_time", {"timezone": zone}) for zone in zones]


def test_the_weather_is_looked_up_in_the_city_that_is_named() -> None:
    assert calls("How is the weather in New York?") == [("get_weather", {"city": "New York"})]


def test_a_message_that_asks_several_things_gets_all_calls_in_one_turn_after_a_lead_in() -> None:
    text = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"
    turn = talker.turn(parsed(user(text), tools=TOOLS))
    assert [block.type for block in turn.blocks] == ["text", "tool_use", "tool_use", "tool_use"]
    assert turn.blocks[0].text == "Let me work that out, check the time and search the docs."
    assert calls(text) == [
        ("calculator", {"expression": "25 * 17"}),
        ("current_time", {"timezone": "UTC"}),
        ("knowledge_search", {"query": "refunds"}),
    ]


def test_only_tools_that_are_offered_are_called() -> None:
    text = "What is 25 * 17 and what time is it?"
    assert calls(text, [CALCULATOR]) == [("calculator", {"expression": "25 * 17"})]
    assert calls("what do our docs say about refunds?", [CALCULATOR]) == []


def test_arguments_take_the_names_of_the_schema_and_required_ones_are_filled() -> None:
    tool = {
        "name": "docs_search",
        "input_schema": {
            "type": "object",
            "properties": {
                "q": {"type": "string"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 5},
                "mode": {"enum": ["fast", "deep"]},
            },
            "required": ["q", "limit", "mode"],
        },
    }
    assert calls("search the docs for refunds, deep mode, 50 hits", [tool]) == [
        ("docs_search", {"q": "refunds", "limit": 5, "mode": "deep"})
    ]


def test_any_tool_is_called_when_the_message_names_it() -> None:
    tool = {
        "name": "slow_tool",
        "input_schema": {"type": "object", "properties": {"seconds": {"type": "number"}}},
    }
    assert calls('Use slow_tool {"seconds": 1.5, "label": "a {b}"} now', [tool]) == [
        ("slow_tool", {"seconds": 1.5, "label": "a {b}"})
    ]
    assert calls("please run the slow tool", [tool]) == [("slow_tool", {})]
    assert calls("nothing of the kind", [tool]) == []


def test_tool_choice_is_honoured() -> None:
    text = "What is 25 * 17, and what time is it?"
    assert calls(text, tool_choice={"type": "none"}) == []
    assert calls("hello", [KNOWLEDGE_SEARCH], tool_choice={"type": "any"}) == [
        ("knowledge_search", {"query": "hello"})
    ]
    assert calls(text, tool_choice={"type": "tool", "name": "calculator"}) == [
        ("calculator", {"expression": "25 * 17"})
    ]
    assert len(calls(text, tool_choice={"type": "auto", "disable_parallel_tool_use": True})) == 1


def test_results_are_put_into_prose_with_the_title_of_what_was_found() -> None:
    found = {
        "results": [
            {"title": "Refund policy", "text": "We ship daily. Refunds take 14 days. Thanks."},
            {"title": "Other", "text": "Nothing."},
        ]
    }
    answer = says(
        user("What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"),
        assistant(
            tool_use("a", "calculator", {"expression": "25 * 17"}),
            tool_use("b", "current_time", {"timezone": "UTC"}),
            tool_use("c", "knowledge_search", {"query": "refunds"}),
        ),
        results(
            tool_result("c", json.dumps(found)),
            tool_result("b", [{"type": "text", "text": '{"time": "2026-11-22T06:00:00Z"}'}]),
            tool_result("a", "425"),
        ),
        tools=TOOLS,
    )
    assert answer == (
        "25 * 17 = 425. The time in UTC is 2026-11-22T06:00:00Z. "
        "On refunds, according to \u201cRefund policy\u201d: Refunds take 14 days."
    )


def test_a_failed_tool_is_said_to_have_failed() -> None:
    answer = says(
        user("What is 1 / 0?"),
        assistant(tool_use("a", "calculator", {"expression": "1 / 0"})),
        results(tool_result("a", "division by zero", is_error=True)),
        tools=TOOLS,
    )
    assert answer == "The calculator failed: division by zero."


def searched(query: str, output: str) -> str:
    return says(
        user(f"what do our docs say about {query}?"),
        assistant(tool_use("a", "knowledge_search", {"query": query})),
        results(tool_result("a", output)),
        tools=TOOLS,
    )


def test_passages_in_plain_text_are_read_with_their_headings() -> None:
    passages = (
        "[1] Refunds > How long (source: refunds.md)\n## How long\n\nWe are quick. "
        "A **refund** takes 14 days.\n\n[2] Shipping (source: shipping.md)\nFree."
    )
    assert searched("refunds", passages) == (
        "On refunds, according to \u201cRefunds > How long\u201d: A refund takes 14 days."
    )


@pytest.mark.parametrize("output", ['{"results": []}', "The documents say nothing about that.", ""])
def test_a_search_without_hits_says_so(output: str) -> None:
    answer = searched("dragons", output)
    assert answer == "The search for \u201cdragons\u201d found nothing."


def test_earlier_rounds_do_not_answer_the_present_one() -> None:
    answer = says(
        user("What is 1 + 1?"),
        assistant(tool_use("a", "calculator", {"expression": "1 + 1"})),
        results(tool_result("a", "2")),
        assistant({"type": "text", "text": "1 + 1 = 2."}),
        user("thanks"),
        tools=TOOLS,
    )
    assert answer == "You are welcome!"


def test_it_remembers_what_the_user_said() -> None:
    talk = [
        user("Hi, my name is Ada Lovelace."),
        assistant({"type": "text", "text": "Nice to meet you."}),
        user("my favourite colour is dark green."),
        assistant({"type": "text", "text": "Noted."}),
    ]
    assert says(*talk, user("What is my name?")) == "Your name is Ada Lovelace."
    assert says(*talk, user("what is my favourite colour?")) == (
        "Your favourite colour is dark green."
    )
    assert says(user("what is my name?")) == "You have not told me your name yet."
    assert says(user("what's my name"), system="The user's name is Grace.") == (
        "Your name is Grace."
    )


def test_without_tools_it_works_out_arithmetic_and_small_talk_itself() -> None:
    assert says(user("What is 25 * 17?")) == "25 * 17 = 425."
    assert says(user("Hello!")) == "Hello! How can I help you today?"
    assert "simulated" in says(user("Who are you?"))


def test_it_sums_up_what_was_said() -> None:
    talk = [user("I like tea."), assistant({"type": "text", "text": "Noted."})]
    assert says(*talk, user("Summarise our conversation")) == "In short: I like tea."
    assert says(user("Please summarize:\nfirst line\nsecond line")) == (
        "In short: first line; second line."
    )


def test_for_anything_else_it_says_that_it_is_simulated() -> None:
    answer = says(user("Explain the causes of the French Revolution"))
    assert "simulated model" in answer
    assert "French Revolution" in answer


def test_thinking_comes_first_when_it_is_enabled() -> None:
    turn = talker.turn(
        parsed(user("hello"), max_tokens=4096, thinking={"type": "enabled", "budget_tokens": 1024})
    )
    assert [block.type for block in turn.blocks] == ["thinking", "text"]


@pytest.mark.parametrize("part", ["1", "(", "( ", "1 + ", "sqrt(", "search ", "my ", "{", " "])
def test_a_hostile_message_is_answered_too(part: str) -> None:
    assert talker.turn(parsed(user("a" + part * 50_000), tools=TOOLS)).blocks


def test_the_same_request_gets_the_same_turn() -> None:
    asked = parsed(user("What is 2 + 2 and the time?"), tools=TOOLS)
    assert talker.turn(asked) == talker.turn(asked)
