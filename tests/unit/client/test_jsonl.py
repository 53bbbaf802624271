"""Messages as JSON for programs."""

import json

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client.jsonl import line, plain
from tests.support.fake_orchestrator import tool_started


def test_an_event_is_one_line_under_the_names_of_the_protos() -> None:
    event = tool_started("a", "calculator", '{"expression":"25 * 17"}')
    event.sequence, event.epoch = 2**53 + 1, 1
    event.create_time.FromJsonString("2026-11-22T06:59:00.250Z")
    text = line(event)
    assert "\n" not in text
    assert json.loads(text) == {
        "sequence": 9007199254740993,
        "create_time": "2026-11-22T06:59:00.250Z",
        "epoch": 1,
        "tool_call_started": {
            "step": 1,
            "call_id": "a",
            "tool": "calculator",
            "arguments": {"expression": "25 * 17"},
            "effect": "EFFECT_PURE",
            "eager": True,
        },
    }


def test_what_is_unset_is_left_out_and_what_has_a_default_is_there() -> None:
    assert plain(pb.Optimizations(streaming=False)) == {"streaming": False}
    assert plain(pb.WaterfallSpan())["critical_ms"] == 0
    assert plain(pb.AgentLimits())["max_steps"] == 0
    assert plain(pb.Run())["labels"] == {}


def test_open_json_keeps_its_numbers_and_the_order_of_its_keys() -> None:
    value = common_pb2.Json(utf8=b'{"b":9007199254740993,"a":1.50}')
    assert json.dumps(plain(value)) == '{"b": 9007199254740993, "a": 1.5}'


def test_open_json_that_is_none_is_text() -> None:
    assert plain(common_pb2.Json(utf8=b"not json \xff")) == "not json \ufffd"


def test_durations_enums_and_maps_are_those_of_protobuf() -> None:
    run = pb.RunInput(labels={"a": "b"}, disconnect_policy=pb.DISCONNECT_POLICY_CANCEL)
    run.timeout.FromMilliseconds(1500)
    assert plain(run) | {"labels": {"a": "b"}} == plain(run)
    assert plain(run)["timeout"] == "1.500s"
    assert plain(run)["disconnect_policy"] == "DISCONNECT_POLICY_CANCEL"


def test_an_enum_value_of_a_newer_server_is_its_number() -> None:
    message = pb.Run.FromString(pb.Run(run_id="r").SerializeToString() + b"\x20\x63")
    assert plain(message)["state"] == 99


def test_a_map_stands_by_key_so_that_the_same_message_gives_the_same_bytes() -> None:
    names = [f"key-{number}" for number in range(50)]
    forward, backward = pb.Run(), pb.Run()
    for name in names:
        forward.labels[name] = name
    for name in reversed(names):
        backward.labels[name] = name
    assert line(forward) == line(backward)
    assert list(plain(forward)["labels"]) == sorted(names)
