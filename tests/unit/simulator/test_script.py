"""How a request finds its turn in a script."""

from typing import Any

import pytest

from peregrine.simulator.script import Scripts
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


def says(text: str) -> dict[str, Any]:
    return {"blocks": [{"type": "text", "text": text}]}


def script(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"turns": list(turns), **fields}


def played(scripts: Scripts, *messages: Any, **fields: Any) -> str | None:
    found = scripts.play(parsed(*messages, **fields))
    return found[1].blocks[0].text if found else None


def round_of(text: str, rounds: int) -> list[dict[str, Any]]:
    messages = [user(text)]
    for n in range(rounds):
        messages.append(assistant(tool_use(f"t{n}", "calculator", {})))
        messages.append(results(tool_result(f"t{n}", "1")))
    return messages


def test_the_turn_is_picked_by_the_rounds_since_the_user_wrote() -> None:
    scripts = Scripts()
    scripts.add(script(says("first"), says("second")))
    assert played(scripts, *round_of("a", 0)) == "first"
    assert played(scripts, *round_of("b", 1)) == "second"
    assert played(scripts, *round_of("a", 1)) == "second"
    assert played(scripts, *round_of("b", 0)) == "first"
    history = [user("before"), assistant({"type": "text", "text": "x"})]
    assert played(scripts, *history, *round_of("a", 1)) == "second"


def test_past_its_last_turn_a_script_is_silent() -> None:
    scripts = Scripts()
    scripts.add(script(says("first")))
    assert played(scripts, *round_of("a", 1)) is None


def test_a_conversation_can_be_scripted_over_its_messages() -> None:
    scripts = Scripts()
    scripts.add(script(says("one"), says("two"), pick="conversation"))
    assert played(scripts, user("a")) == "one"
    answered = assistant({"type": "text", "text": "one"})
    assert played(scripts, user("a"), answered, user("b")) == "two"


def test_a_sequence_is_consumed_in_order_of_arrival() -> None:
    scripts = Scripts()
    scripts.add(script(says("one"), says("two"), pick="sequence"))
    assert [played(scripts, user("x")) for _ in range(3)] == ["one", "two", None]


def test_identical_requests_play_the_attempts_in_turn() -> None:
    scripts = Scripts()
    scripts.add(script({"attempts": [says("bad"), says("good")]}))
    assert [played(scripts, user("a")) for _ in range(3)] == ["bad", "good", "good"]
    assert played(scripts, user("b")) == "bad"


def test_the_newest_script_that_matches_plays() -> None:
    scripts = Scripts()
    scripts.add(script(says("any")))
    scripts.add(script(says("order"), match={"contains": "order 17"}))
    scripts.add(script(says("model"), match={"model": "claude-haiku-5-5"}))
    scripts.add(script(says("tool"), match={"tool": "calculator"}))
    scripts.add(script(says("system"), match={"prompt_contains": "pirate"}))
    assert played(scripts, user("hello")) == "any"
    assert played(scripts, user("about order 17")) == "order"
    assert played(scripts, user("x"), model="claude-haiku-5-5") == "model"
    assert played(scripts, user("x"), tools=[CALCULATOR]) == "tool"
    assert played(scripts, user("x"), system="talk like a pirate") == "system"


def test_times_limits_how_many_requests_it_plays_for() -> None:
    scripts = Scripts()
    scripts.add(script(says("x"), times=2))
    assert [played(scripts, user("a")) for _ in range(3)] == ["x", "x", None]


def test_scripts_are_removed_one_by_one_or_all() -> None:
    scripts = Scripts()
    first, second = scripts.add(script(says("a"))), scripts.add(script(says("b")))
    assert scripts.remove(second.id)
    assert not scripts.remove(second.id)
    assert [one.id for one in scripts] == [first.id]
    scripts.clear()
    assert list(scripts) == []


def test_tokens_are_made_up_and_numbered() -> None:
    scripts = Scripts()
    scripts.add(script({"blocks": [{"type": "text", "tokens": 3}]}))
    assert played(scripts, user("x")) == "001 002 003 "


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ([], "script"),
        ({}, "turns"),
        ({"turns": []}, "turns"),
        (script(says("x"), colour="red"), "colour"),
        (script(says("x"), pick="random"), "pick"),
        (script(says("x"), times=0), "times"),
        (script(says("x"), match={"contains": 5}), "match.contains"),
        (script({"blocks": [{"type": "image"}]}), "turns.0.blocks.0.type"),
        (script({"blocks": [{"type": "text"}]}), "turns.0.blocks.0"),
        (script({"blocks": [{"type": "text", "text": "x", "delay": -1}]}), "delay"),
        (script({"blocks": [{"type": "tool_use"}]}), "name of a tool"),
        (script({"error": {"status": 200}}), "turns.0.error.status"),
        (script({"cut": {"after_tokens": 1, "after_events": 1}}), "not both"),
        (script({"stalls": [{"seconds": "x"}]}), "turns.0.stalls.0.seconds"),
        (script({"latency": {"speed": 1}}), "latency"),
        (script({"attempts": []}), "attempts"),
    ],
)
def test_what_is_wrong_with_a_script_is_named(raw: Any, named: str) -> None:
    with pytest.raises(ApiError) as caught:
        Scripts().add(raw)
    assert caught.value.status == 400
    assert named in caught.value.message
