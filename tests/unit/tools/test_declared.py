"""Declarations: what is wrong is named with its field, and the tool sends what was declared."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.settings import Problem, Secret, SettingsError
from peregrine.tools import declared, http_tools
from peregrine.tools.definition import (
    Definition,
    Effect,
    OutcomeUnknown,
    Output,
    ToolContext,
    ToolFailure,
    TransientFailure,
)
from peregrine.tools.outbound import Answer, AnswerLost, Later, NothingSent, Request

VARIABLES = {"BASE_URL": "https://base.example"}
SCHEMA = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "q": {"type": "string"}},
    "required": ["id"],
}


def tool(**changes: Any) -> tools_pb2.Tool:
    """A valid declaration but for the changes; `http` changes fields of the backend."""
    http = {"url": "https://api.example/users/{id}?q={q}", **changes.pop("http", {})}
    if "body" in http:
        http["body"] = common_pb2.Json(utf8=http["body"])
    schema = changes.pop("schema", SCHEMA)
    utf8 = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    fields: dict[str, Any] = {
        "name": "get_user",
        "description": "Reads a user.",
        "effect": common_pb2.EFFECT_READ,
        "input_schema": common_pb2.Json(utf8=utf8),
    }
    if not {"mcp", "python", "builtin"} & changes.keys():
        fields["http"] = tools_pb2.HttpBackend(**http)
    return tools_pb2.Tool(**{**fields, **changes})


def test_a_good_declaration_has_nothing_wrong() -> None:
    http = {
        "method": "post",
        "headers": {"X-Q": "{q}"},
        "secret_headers": {"Authorization": "CRM_TOKEN"},
        "body": b'{"q": "{q}"}',
    }
    assert declared.check(tool(http=http), variables=VARIABLES) == []
    assert declared.check(tool(http={"url": "${BASE_URL}/x?q={q}"}), variables=VARIABLES) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "no spaces"}, "tool.name"),
        ({"description": ""}, "tool.description"),
        ({"description": "x" * 5000}, "tool.description"),
        ({"effect": common_pb2.EFFECT_UNSPECIFIED}, "tool.effect"),
        ({"cost_class": 77}, "tool.cost_class"),
        ({"max_concurrency": 5000}, "tool.max_concurrency"),
        ({"retries": 6}, "tool.retries"),
        ({"retries": 1, "effect": common_pb2.EFFECT_WRITE}, "tool.retries"),
        ({"timeout": {"seconds": 301}}, "tool.timeout"),
        ({"timeout": {"seconds": -1}}, "tool.timeout"),
        ({"cache_ttl": {"seconds": 0}}, "tool.cache_ttl"),
        ({"schema": b"{"}, "tool.input_schema"),
        ({"schema": {"type": "array"}}, "tool.input_schema"),
        ({"schema": {"type": "object", "properties": 3}}, "tool.input_schema"),
        ({"schema": b"[" * 50_000}, "tool.input_schema"),
        ({"http": {"method": "CONNECT"}}, "tool.http.method"),
        ({"http": {"url": ""}}, "tool.http.url"),
        ({"http": {"url": "ftp://x/"}}, "tool.http.url"),
        ({"http": {"url": "https://{id}.example/"}}, "tool.http.url"),
        ({"http": {"url": "https://api.example:{id}/"}}, "tool.http.url"),
        ({"http": {"url": "{id}"}}, "tool.http.url"),
        ({"http": {"url": "https://user@api.example/"}}, "tool.http.url"),
        ({"http": {"url": "http://2130706433/"}}, "tool.http.url"),
        ({"http": {"url": "https://api.example/#x"}}, "tool.http.url"),
        ({"http": {"url": "https://api.example/{other}"}}, "tool.http.url"),
        ({"http": {"url": "https://api.example/{q}"}}, "tool.http.url"),
        ({"http": {"url": "${PEREGRINE_POSTGRES_DSN}/x"}}, "tool.http.url"),
        ({"http": {"url": "https://api.example/${BASE_URL}"}}, "tool.http.url"),
        ({"http": {"url": "https://${BASE_URL}/"}}, "tool.http.url"),
        ({"http": {"headers": {"Host": "evil"}}}, "tool.http.headers['Host']"),
        ({"http": {"headers": {"Bad Name": "x"}}}, "tool.http.headers['Bad Name']"),
        ({"http": {"headers": {"X": "a\nb"}}}, "tool.http.headers['X']"),
        ({"http": {"headers": {"X": "{nothing}"}}}, "tool.http.headers"),
        ({"http": {"secret_headers": {"X": "../etc"}}}, "tool.http.secret_headers['X']"),
        (
            {"http": {"headers": {"x": "1"}, "secret_headers": {"X": "S"}}},
            "tool.http.secret_headers['X']",
        ),
        ({"http": {"body": b"{}"}}, "tool.http.body"),
        ({"http": {"method": "POST", "body": b"{"}}, "tool.http.body"),
        ({"http": {"method": "POST", "body": b'"{nothing}"'}}, "tool.http.body"),
        ({"mcp": {}}, "tool.mcp"),
        ({"mcp": {"url": "https://x.example", "command": ["x"]}}, "tool.mcp"),
        ({"mcp": {"url": "ftp://x.example"}}, "tool.mcp.url"),
        ({"mcp": {"command": [""]}}, "tool.mcp.command"),
        ({"mcp": {"command": ["x"] * 65}}, "tool.mcp.command"),
        ({"mcp": {"command": ["x"], "secret_headers": {"A": "B"}}}, "tool.mcp.secret_headers"),
        ({"mcp": {"url": "https://x.example", "environment": {"A": "B"}}}, "tool.mcp.environment"),
        (
            {"mcp": {"url": "https://x.example", "approved_digests": ["abc"]}},
            "tool.mcp.approved_digests",
        ),
        ({"python": {"function": "a:b"}}, "tool.python.function"),
        ({"builtin": {"name": "nothing"}}, "tool.builtin.name"),
        ({"tags": ["a b"]}, "tool.tags"),
        ({"invalidates": ["x"] * 33}, "tool.invalidates"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    assert field in [where for where, _ in declared.check(tool(**changes), variables=VARIABLES)]


def test_another_tenant_names_no_secrets() -> None:
    with_secret = tool(http={"secret_headers": {"X": "S"}})
    problems = declared.check(with_secret, variables={}, secrets_allowed=False)
    assert [field for field, _ in problems] == ["tool.http.secret_headers"]
    process = tool(mcp={"command": ["x"]})
    problems = declared.check(process, variables={}, secrets_allowed=False)
    assert [field for field, _ in problems] == ["tool.mcp.command"]


def context_of(idempotency_key: str = "") -> ToolContext:
    return ToolContext(
        tenant="acme",
        user="ada",
        call_id="c",
        agent_id="a",
        idempotency_key=idempotency_key,
        deadline=time.monotonic() + 30,
        record=lambda name, value, labels: None,
    )


class Outside:
    """Answers requests in order: an answer's text, or a failure to raise."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    async def fetch(self, request: Request, /, *, timeout: float | None) -> Answer:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(status=200, url=request.url, media_type="application/json", text=answer)


def made(outside: Outside, secret: Callable[[str], Secret] = Secret, **changes: Any) -> Definition:
    full = declared.normal(tool(**changes))
    assert declared.check(full, variables=VARIABLES) == []
    return http_tools.definition(
        full, version=3, fetch=outside.fetch, secret=secret, variables=VARIABLES
    )


async def run(definition: Definition, context: ToolContext | None = None, **given: Any) -> Output:
    output = await definition.function(given, context or context_of())
    assert isinstance(output, Output)
    return output


async def test_a_request_is_sent_as_it_was_declared() -> None:
    outside = Outside('{"ok": true}')
    http = {
        "method": "post",
        "headers": {"X-Q": "{q}"},
        "secret_headers": {"Authorization": "CRM_TOKEN"},
        "body": b'{"query": "{q}", "id": "{id}"}',
    }
    output = await run(made(outside, http=http), id="a/b", q="x")
    (request,) = outside.requests
    assert (request.method, request.url) == ("POST", "https://api.example/users/a%2Fb?q=x")
    assert request.headers == {"X-Q": "x", "content-type": "application/json"}
    assert json.loads(request.body or b"") == {"query": "x", "id": "a/b"}
    assert request.secrets["Authorization"].reveal() == "CRM_TOKEN"
    assert "CRM_TOKEN" not in repr(request).replace("'CRM_TOKEN'", "")
    assert output.data == {"ok": True}


async def test_defaults_are_written_out_and_kept() -> None:
    definition = made(Outside())
    assert (definition.version, definition.effect, definition.timeout) == (3, Effect.READ, 10.0)
    full = declared.normal(tool())
    assert declared.normal(full) == full
    assert full.http.method == "GET" and full.max_concurrency == 10


def broken() -> AnswerLost:
    return AnswerLost("gone", reason="CONNECTION_BROKEN")


async def test_how_often_it_may_be_tried_again_is_part_of_the_tool() -> None:
    assert made(Outside(), retries=2).retries == 2
    for passing in (broken(), Later("x", reason="HTTP_STATUS"), NothingSent("x", reason="X")):
        outside = Outside(passing)
        with pytest.raises(TransientFailure):
            await run(made(outside, retries=2), id="1")
        assert len(outside.requests) == 1


async def test_a_change_whose_answer_is_lost_is_in_doubt_and_not_sent_again() -> None:
    outside = Outside(broken(), "1")
    change = made(outside, effect=common_pb2.EFFECT_WRITE, http={"method": "POST"})
    with pytest.raises(OutcomeUnknown):
        await run(change, id="1")
    assert len(outside.requests) == 1


async def test_a_change_that_never_left_has_failed_plainly() -> None:
    outside = Outside(NothingSent("x", reason="HOST_UNREACHABLE"))
    change = made(outside, effect=common_pb2.EFFECT_WRITE, http={"method": "POST"})
    with pytest.raises(NothingSent):
        await run(change, id="1")


async def test_a_change_carries_its_key() -> None:
    outside = Outside("1")
    change = made(outside, effect=common_pb2.EFFECT_WRITE, http={"method": "POST"})
    await run(change, context_of(idempotency_key="run/1"), id="1")
    assert outside.requests[0].headers["idempotency-key"] == "run/1"


async def test_a_missing_secret_is_a_failure_that_names_none() -> None:
    def missing(name: str) -> Secret:
        raise SettingsError([Problem("PEREGRINE_SECRET_X", "is missing", "create it")])

    outside = Outside()
    with pytest.raises(ToolFailure) as caught:
        await run(made(outside, missing, http={"secret_headers": {"A": "X"}}), id="1")
    assert caught.value.reason == "SECRET_MISSING"
    assert "PEREGRINE" not in caught.value.message


async def test_a_secret_that_is_no_header_is_not_sent() -> None:
    outside = Outside()
    broken_secret = made(
        outside, lambda name: Secret("two\r\nlines"), http={"secret_headers": {"A": "X"}}
    )
    with pytest.raises(ToolFailure) as caught:
        await run(broken_secret, id="1")
    assert caught.value.reason == "SECRET_MISSING" and outside.requests == []


async def test_a_tool_whose_setting_is_missing_is_off() -> None:
    full = declared.normal(tool(http={"url": "${BASE_URL}/x?q={q}"}))
    unset = {"BASE_URL": ""}
    assert http_tools.disabled(full, variables=unset) == "BASE_URL is not set"
