"""The contract keeps its style, and every rule of it can fail."""

from pathlib import Path

import pytest

from tests.contract import proto_rules
from tests.contract.proto_rules import RULES, Rule
from tests.contract.protos import Contract, compiled
from tests.contract.repository import PROTOS

# What is right; each sample below is this with one thing wrong.
GOOD = """
// Things.
syntax = "proto3";
package peregrine.api.things.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/struct.proto";
// Things.
service ThingService {
  // Makes one. Idempotent. NOT_FOUND / THING_NOT_FOUND.
  rpc MakeThing(MakeThingRequest) returns (MakeThingResponse);
  // All of them. Idempotent.
  rpc ListThings(ListThingsRequest) returns (ListThingsResponse);
  // What happens to it. Idempotent.
  rpc WatchThing(WatchThingRequest) returns (stream WatchThingResponse);
}
enum Kind { KIND_UNSPECIFIED = 0; KIND_SMALL = 1; }
message MakeThingRequest { string request_id = 1; optional int64 expected_version = 2; }
message MakeThingResponse { google.protobuf.Timestamp create_time = 1; }
message ListThingsRequest {
  // 1-200, default 50.
  int32 page_size = 1;
  string page_token = 2;
}
message ListThingsResponse { repeated string names = 1; string next_page_token = 2; }
message WatchThingRequest { int64 after_sequence = 1; }
message WatchThingResponse { repeated ThingEvent events = 1; }
message ThingEvent {
  int64 sequence = 1;
  google.protobuf.Timestamp create_time = 2;
  oneof payload {
    // Terminal.
    string finished = 10;
  }
}
"""

PLANTED: list[tuple[Rule, str, str]] = [
    (proto_rules.package_is_the_directory, "things.v1;", "things;"),
    (proto_rules.package_is_the_directory, "things.v1;", "other.v1;"),
    (proto_rules.only_common_is_shared, "google/protobuf/struct", "peregrine/api/tools/v1/tools"),
    (proto_rules.names_are_in_their_case, "ThingService", "Things"),
    (proto_rules.names_are_in_their_case, "string finished", "string isFinished"),
    (proto_rules.names_are_in_their_case, "ThingEvent {", "ThingEvent { message A {}"),
    (proto_rules.rpcs_own_their_messages, "(MakeThingResponse)", "(ThingEvent)"),
    (proto_rules.rpcs_own_their_messages, "MakeThing(MakeThing", "MakeThing(stream MakeThing"),
    (proto_rules.open_json_is_no_struct, "string finished", "google.protobuf.Struct finished"),
    (proto_rules.enums_begin_unspecified, "KIND_UNSPECIFIED", "KIND_LARGE"),
    (proto_rules.enums_begin_unspecified, "KIND_SMALL", "SMALL"),
    (proto_rules.timestamps_end_in_time, "Timestamp create_time = 1", "Timestamp created = 1"),
    (proto_rules.json_is_never_text, "string finished", "string finished_json"),
    (proto_rules.lists_are_paged, "string page_token", "string from"),
    (proto_rules.lists_are_paged, "int32 page_size", "int64 page_size"),
    (proto_rules.lists_are_paged, "string next_page_token", "string next"),
    (proto_rules.lists_are_paged, "repeated string names", "string names"),
    (proto_rules.lists_are_paged, "// 1-200, default 50.", "// How many."),
    (proto_rules.mutations_carry_a_request_id, "string request_id", "string id"),
    (proto_rules.expected_versions_are_optional, "optional int64", "int64"),
    (proto_rules.streams_are_logs, "repeated ThingEvent events", "ThingEvent event"),
    (proto_rules.streams_are_logs, "int64 sequence", "string sequence"),
    (proto_rules.streams_are_logs, "finished = 10", "finished = 9"),
    (proto_rules.streams_are_logs, "// Terminal.", "// The end."),
    (proto_rules.streams_are_logs, "after_sequence", "after"),
    (proto_rules.comments_say_what_to_expect, "// Things.\nsyntax", "syntax"),
    (proto_rules.comments_say_what_to_expect, "// Things.\nservice", "service"),
    (proto_rules.comments_say_what_to_expect, "// All of them. Idempotent.", ""),
    (proto_rules.comments_say_what_to_expect, "them. Idempotent.", "them."),
    (proto_rules.comments_say_what_to_expect, "NOT_FOUND /", "MISSING /"),
    (proto_rules.identity_is_never_a_field, "string finished", "string tenant_id"),
    (proto_rules.secrets_are_never_fields, "string finished", "string access_token"),
    (proto_rules.secrets_are_never_fields, "string finished", "string api_key"),
]  # fmt: skip


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return compiled(PROTOS, tmp_path_factory.mktemp("descriptors"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_contract_keeps_its_style(rule: Rule, contract: Contract) -> None:
    assert list(rule(contract)) == []


def test_no_exception_from_the_style_outlives_its_need(contract: Contract) -> None:
    assert list(proto_rules.stale_exceptions(contract)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_proto_breaks_no_rule(rule: Rule, tmp_path: Path) -> None:
    assert list(rule(_sample(tmp_path, GOOD))) == []


@pytest.mark.parametrize(
    ("rule", "right", "wrong"), PLANTED, ids=[f"{r.__name__}-{w}" for r, _, w in PLANTED]
)
def test_a_planted_violation_is_found(rule: Rule, right: str, wrong: str, tmp_path: Path) -> None:
    assert right in GOOD
    assert list(rule(_sample(tmp_path, GOOD.replace(right, wrong))))


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _, _ in PLANTED} == set(RULES)


def _sample(directory: Path, text: str) -> Contract:
    path = directory / "protos" / "peregrine" / "api" / "things" / "v1" / "things.proto"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return compiled(directory / "protos", directory)
