"""The style of the contract (buf STANDARD and the project's own rules), one function each.

A rule takes the compiled contract and yields complaints. The exceptions that a rule allows are
named here with the reason; `stale_exceptions` complains about one that nothing needs any more.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from tests.contract.protos import Contract, Enum, Message, Rpc

TIMESTAMP = "google.protobuf.Timestamp"
WELL_KNOWN = {TIMESTAMP, "google.protobuf.Duration"}
COMMON = "peregrine.api.common.v1"
PACKAGE = re.compile(r"peregrine\.api\.(?P<service>[a-z][a-z0-9_]*)\.v[1-9][0-9]*")
FIRST_PAYLOAD = 10

READS = ("Get", "BatchGet", "List", "Watch", "Search", "Load", "Count", "Export")
PAGED = ("List", "Search")

WITHOUT_REQUEST_ID: Mapping[str, str] = {
    "OrchestratorService/CancelRun": "cancelling again leaves a cancelled run as it is",
    "LlmService/CancelGeneration": "cancelling again leaves a cancelled generation as it is",
    "ToolService/ExecuteTool": "each call carries an idempotency_key",
    "ToolService/ExecuteTools": "each call carries an idempotency_key",
    "IdentityService/ExchangeCredential": "changes nothing",
    "IdentityService/RevokeApiKey": "a key that is revoked stays revoked",
    "CacheService/Set": "the same entry again is the same entry; a fill is fenced by its token",
    "CacheService/GetOrLease": "a lease that nobody uses ends by itself",
    "CacheService/ReleaseLease": "named by the fencing token",
    "CacheService/Delete": "an entry that is gone stays gone",
    "CacheService/Warm": "an entry that is there is not loaded again",
}
NOT_A_LOG: Mapping[str, str] = {
    "ToolService/ExecuteTools": "results of one call, in the order they finish; nothing to resume",
    "CacheService/Warm": "progress of one call; nothing to resume",
    "MemoryService/ExportConversation": "one answer in parts",
}
NEVER_ENDS = {"CacheService/WatchInvalidations"}
NOT_A_SECRET: Mapping[str, str] = {
    "page_token": "an opaque position in a list",
    "next_page_token": "an opaque position in a list",
    "fencing_token": "a number that grows",
    "identity_token": "what a credential is exchanged for: the answer is the only place for it",
    "credential": "an API key that was just made, shown once; the answer is the only place for it",
    "secret_headers": "header names to names of secrets",
    "secret_environment": "variable names to names of secrets",
}

CODES = {
    "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
}  # fmt: skip

Rule = Callable[[Contract], Iterator[str]]


def package_is_the_directory(contract: Contract) -> Iterator[str]:
    for file in contract.files:
        named = PACKAGE.fullmatch(file.package)
        if named is None:
            yield f"{file.path}: the package {file.package!r} is not peregrine.api.<service>.v<n>"
            continue
        expected = f"{file.package.replace('.', '/')}/{named['service']}.proto"
        if file.path != expected:
            yield f"{file.path}: package {file.package} belongs into {expected}"
        if file.syntax != "proto3":
            yield f"{file.path}: is not proto3"


def only_common_is_shared(contract: Contract) -> Iterator[str]:
    for file in contract.files:
        for name in file.imports:
            if not name.startswith(("google/protobuf/", "peregrine/api/common/")):
                yield f"{file.path}: imports {name}; shared types live in common only"
        if file.package == COMMON and file.services:
            yield f"{file.path}: common holds types, not services"


def names_are_in_their_case(contract: Contract) -> Iterator[str]:
    pascal, snake = re.compile(r"(?:[A-Z][a-z0-9]*)+"), re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
    for file in contract.files:
        for service in file.services:
            if not service.name.endswith("Service"):
                yield f"{service.where}: {service.name} does not end in Service"
        for message in _declared(file.messages):
            own = message.name.removeprefix(f"{file.package}.")
            if message.nested_enums or "." in own:
                yield f"{message.where}: {own} nests a type; types stand at the top of the file"
            elif not pascal.fullmatch(own):
                yield f"{message.where}: {own} is not PascalCase"
    for rpc in contract.rpcs():
        if not pascal.fullmatch(rpc.name):
            yield f"{rpc.where}: {rpc.name} is not PascalCase"
    for field in contract.fields():
        if not snake.fullmatch(field.name):
            yield f"{field.where}: {field.name} is not lower_snake_case"


def rpcs_own_their_messages(contract: Contract) -> Iterator[str]:
    used: dict[str, Rpc] = {}
    for rpc in contract.rpcs():
        package = rpc.service.rpartition(".")[0]
        for kind, name in (("Request", rpc.request), ("Response", rpc.response)):
            if name != f"{package}.{rpc.name}{kind}":
                yield f"{rpc.where}: {rpc.short} uses {name}, not {rpc.name}{kind}"
            if name in used:
                yield f"{rpc.where}: {rpc.short} shares {name} with {used[name].short}"
            used[name] = rpc
        if rpc.client_streaming:
            yield f"{rpc.where}: {rpc.short} streams its request"


def open_json_is_no_struct(contract: Contract) -> Iterator[str]:
    for field in contract.fields():
        if field.type.startswith("google.") and field.type not in WELL_KNOWN:
            yield f"{field.where}: {field.name} is a {field.type}; open JSON is common.v1.Json"


def enums_begin_unspecified(contract: Contract) -> Iterator[str]:
    for enum in _enums(contract):
        prefix = _upper_snake(enum.name.rpartition(".")[2])
        if enum.values[0] != (f"{prefix}_UNSPECIFIED", 0):
            yield f"{enum.where}: the zero of {enum.name} is not {prefix}_UNSPECIFIED"
        for name, _ in enum.values:
            if not name.startswith(f"{prefix}_"):
                yield f"{enum.where}: {name} does not begin with {prefix}_"


def timestamps_end_in_time(contract: Contract) -> Iterator[str]:
    for field in contract.fields():
        if field.type == TIMESTAMP and not field.name.endswith("_time"):
            yield f"{field.where}: the Timestamp {field.name} does not end in _time"


def json_is_never_text(contract: Contract) -> Iterator[str]:
    for field in contract.fields():
        if field.type in {"string", "bytes"} and "json" in field.name.split("_"):
            yield f"{field.where}: {field.name} is JSON as {field.type}; use common.v1.Json"


def lists_are_paged(contract: Contract) -> Iterator[str]:
    messages = contract.messages()
    for rpc in contract.rpcs():
        if not rpc.name.startswith(PAGED):
            continue
        request, response = messages[rpc.request], messages[rpc.response]
        for name, kind in (("page_size", "int32"), ("page_token", "string")):
            if not _has(request, name, kind):
                yield f"{rpc.where}: {rpc.short} has no {kind} {name}"
        size = request.field("page_size")
        if size is not None and not re.search(r"\d.*default \d", size.comment):
            yield f"{size.where}: the comment of page_size gives no range and default"
        if not _has(response, "next_page_token", "string"):
            yield f"{rpc.where}: {rpc.short} answers without next_page_token"
        if [field.repeated for field in response.fields].count(True) != 1:
            yield f"{rpc.where}: {rpc.short} does not answer with exactly one list"


def mutations_carry_a_request_id(contract: Contract) -> Iterator[str]:
    messages = contract.messages()
    for rpc in contract.rpcs():
        if rpc.name.startswith(READS) and rpc.short not in WITHOUT_REQUEST_ID:
            continue
        carries = _carries_request_id(messages, messages[rpc.request])
        if not carries and rpc.short not in WITHOUT_REQUEST_ID:
            yield f"{rpc.where}: {rpc.short} changes something and has no request_id"
        if carries and rpc.short in WITHOUT_REQUEST_ID:
            yield f"{rpc.where}: {rpc.short} has a request_id; take it off the list"


def expected_versions_are_optional(contract: Contract) -> Iterator[str]:
    for field in contract.fields():
        if field.name == "expected_version" and not (field.optional and field.type == "int64"):
            yield f"{field.where}: expected_version is not `optional int64`"


def streams_are_logs(contract: Contract) -> Iterator[str]:
    messages = contract.messages()
    for rpc in contract.rpcs():
        if not rpc.server_streaming or rpc.short in NOT_A_LOG:
            continue
        response = messages[rpc.response]
        events = response.field("events")
        if events is None or not events.repeated or len(response.fields) != 1:
            yield f"{rpc.where}: {rpc.short} does not stream `repeated … events` and nothing else"
            continue
        yield from _envelope(messages[events.type], ends=rpc.short not in NEVER_ENDS)
        if rpc.name.startswith("Watch"):
            if not _has(messages[rpc.request], "after_sequence", "int64"):
                yield f"{rpc.where}: {rpc.short} cannot go on after a position (after_sequence)"


def comments_say_what_to_expect(contract: Contract) -> Iterator[str]:
    for file in contract.files:
        if not file.comment:
            yield f"{file.path}: no comment above `syntax`"
        for service in file.services:
            if not service.comment:
                yield f"{service.where}: {service.name} has no comment"
    for rpc in contract.rpcs():
        if not rpc.comment:
            yield f"{rpc.where}: {rpc.short} has no comment"
        elif "idempotent" not in rpc.comment.lower() and "Errors as" not in rpc.comment:
            yield f"{rpc.where}: {rpc.short} does not say whether it is idempotent"
        for code in re.findall(r"\b([A-Z][A-Z_]+) / [A-Z]", rpc.comment):
            if code not in CODES:
                yield f"{rpc.where}: {code} is not a gRPC status code"


def identity_is_never_a_field(contract: Contract) -> Iterator[str]:
    for field in contract.fields():
        if re.fullmatch(r"(tenant|user|owner|principal)(_id|_name)?", field.name):
            yield f"{field.where}: {field.name}: tenant and user come from authentication"


def secrets_are_never_fields(contract: Contract) -> Iterator[str]:
    secret = re.compile(r"(^|_)(secret|password|passwd|credential|private|token|api_key)s?(_|$)")
    counted = re.compile(r"(^|_)tokens(_|$)|^token_budget$|^thinking_budget_tokens$")
    for field in contract.fields():
        if field.name in NOT_A_SECRET or counted.search(field.name):
            continue
        if field.type in {"string", "bytes"} or field.repeated:
            if secret.search(field.name):
                yield f"{field.where}: {field.name} looks like a secret; name it by reference"


def stale_exceptions(contract: Contract) -> Iterator[str]:
    rpcs = {rpc.short for rpc in contract.rpcs()}
    for short in {*WITHOUT_REQUEST_ID, *NOT_A_LOG, *NEVER_ENDS} - rpcs:
        yield f"{short} is excepted from a rule and does not exist"
    fields = {field.name for field in contract.fields()}
    for name in NOT_A_SECRET.keys() - fields:
        yield f"{name} is excepted from a rule and does not exist"


RULES: tuple[Rule, ...] = (
    package_is_the_directory,
    only_common_is_shared,
    names_are_in_their_case,
    rpcs_own_their_messages,
    open_json_is_no_struct,
    enums_begin_unspecified,
    timestamps_end_in_time,
    json_is_never_text,
    lists_are_paged,
    mutations_carry_a_request_id,
    expected_versions_are_optional,
    streams_are_logs,
    comments_say_what_to_expect,
    identity_is_never_a_field,
    secrets_are_never_fields,
)


def _envelope(event: Message, *, ends: bool) -> Iterator[str]:
    for name, kind in (("sequence", "int64"), ("create_time", TIMESTAMP)):
        field = event.field(name)
        if field is None or field.type != kind or field.in_oneof:
            yield f"{event.where}: {event.name} has no {kind} {name} outside its oneof"
    payloads = [field for field in event.fields if field.in_oneof]
    if not payloads:
        yield f"{event.where}: {event.name} has no payload"
    for field in event.fields:
        if field.in_oneof != (field.proto.number >= FIRST_PAYLOAD):
            yield f"{field.where}: payloads, and only they, have numbers from {FIRST_PAYLOAD}"
    if ends and not any(field.comment.startswith("Terminal") for field in payloads):
        yield f"{event.where}: no payload of {event.name} is marked Terminal"


def _carries_request_id(messages: Mapping[str, Message], request: Message) -> bool:
    """In the request itself, or in the `input` that two RPCs share."""
    if _has(request, "request_id", "string"):
        return True
    shared = request.field("input")
    return shared is not None and _has(messages[shared.type], "request_id", "string")


def _has(message: Message, name: str, kind: str) -> bool:
    field = message.field(name)
    return field is not None and field.type == kind and not field.repeated


def _declared(messages: list[Message]) -> Iterator[Message]:
    return (message for message in messages if not message.is_map_entry)


def _enums(contract: Contract) -> Iterator[Enum]:
    for file in contract.files:
        yield from file.enums


def _upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
