"""Tools that are declared, not written: what ApplyTool takes, checked and made callable.

`check` reads a message and names everything that is wrong with it; `normal` fills in what was left
open, so that the same declaration is the same bytes; `definition` makes the function that sends the
request. A secret is named in the declaration and read when the request is made, so that a changed
one is used at once; it goes into its header and nowhere else.

What a lost answer means depends on the effect. A READ failed; a WRITE may have happened, and says
so.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import orjson
import structlog

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.settings import Secret, SettingsError
from peregrine.tools import egress, templates
from peregrine.tools.arguments import Check
from peregrine.tools.definition import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT,
    MAX_RETRIES,
    MAX_TIMEOUT,
    Arguments,
    ChangeClass,
    CostClass,
    Definition,
    Effect,
    OutcomeUnknown,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
)
from peregrine.tools.outbound import Answer, AnswerLost, Request

EFFECTS = {
    common_pb2.EFFECT_PURE: Effect.PURE,
    common_pb2.EFFECT_READ: Effect.READ,
    common_pb2.EFFECT_WRITE: Effect.WRITE,
}
COSTS = {
    tools_pb2.COST_CLASS_DEFAULT: CostClass.DEFAULT,
    tools_pb2.COST_CLASS_EXPENSIVE: CostClass.EXPENSIVE,
    tools_pb2.COST_CLASS_FREQUENT: CostClass.FREQUENT,
}
CHANGES = {
    tools_pb2.CHANGE_CLASS_PURE: ChangeClass.PURE,
    tools_pb2.CHANGE_CLASS_SLOW: ChangeClass.SLOW,
    tools_pb2.CHANGE_CLASS_LIVE: ChangeClass.LIVE,
    tools_pb2.CHANGE_CLASS_NEVER: ChangeClass.NEVER,
}
SCOPES = {common_pb2.SCOPE_TENANT: Scope.TENANT, common_pb2.SCOPE_USER: Scope.USER}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_DESCRIPTION = 4 * 1024
_MAX_SCHEMA = 64 * 1024
_MAX_BODY = 64 * 1024
_MAX_HEADERS = 32
_MAX_HEADER = 4 * 1024
_MAX_CONCURRENCY = 1_000
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_SECRET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")
# The client writes these, or they would change what the connection carries.
_NOT_OURS = frozenset(
    "accept-encoding connection content-length expect host keep-alive proxy-authorization "
    "proxy-connection te trailer transfer-encoding upgrade".split()
)
_JSON = "application/json"
_NOT_SERVED = "is not served by this version"
# Less than the tool's own timeout, so that the tool, not its watcher, says what happened.
_MARGIN_SECONDS = 0.05

Violations = list[tuple[str, str]]

log = structlog.get_logger(__name__)


class Fetch(Protocol):
    def __call__(self, request: Request, /, *, timeout: float | None) -> Awaitable[Answer]: ...


def check(
    tool: tools_pb2.Tool, *, variables: Mapping[str, str], secrets_allowed: bool = True
) -> Violations:
    """Everything that is wrong with a declaration, as (field, what)."""
    return list(_problems(tool, variables, secrets_allowed))


def normal(tool: tools_pb2.Tool) -> tools_pb2.Tool:
    """A declaration with its defaults written out."""
    full = tools_pb2.Tool()
    full.CopyFrom(tool)
    full.cost_class = full.cost_class or tools_pb2.COST_CLASS_DEFAULT
    full.change_class = full.change_class or tools_pb2.CHANGE_CLASS_SLOW
    full.scope = full.scope or common_pb2.SCOPE_USER
    full.max_concurrency = full.max_concurrency or DEFAULT_CONCURRENCY
    if not full.HasField("timeout"):
        full.timeout.FromNanoseconds(int(DEFAULT_TIMEOUT * 1e9))
    if full.HasField("http"):
        full.http.method = full.http.method.upper() or "GET"
    return full


def disabled(tool: tools_pb2.Tool, *, variables: Mapping[str, str]) -> str:
    """Why a valid tool cannot be called here, empty when it can."""
    name = templates.variable(tool.http.url)
    return f"{name} is not set" if name and not variables[name] else ""


def definition(
    tool: tools_pb2.Tool,
    *,
    version: int,
    fetch: Fetch,
    secret: Callable[[str], Secret],
    variables: Mapping[str, str],
) -> Definition:
    """The tool that a valid, normal declaration describes.

    Args:
      secret: finds a secret by its name, or raises `SettingsError`.
      variables: what a URL may begin with, as `${NAME}`.
    """
    http = tool.http
    body = json.loads(http.body.utf8) if http.HasField("body") else None
    effect = EFFECTS[tool.effect]

    def request(arguments: Arguments) -> Request:
        try:
            headers = templates.headers(http.headers, arguments)
            filled = None if body is None else templates.body(body, arguments)
            url = templates.url(http.url, arguments, variables)
        except templates.Unusable as problem:
            raise ToolFailure(str(problem), reason="ARGUMENTS_INVALID") from None
        payload = None
        if filled is not None:
            payload = json.dumps(filled, ensure_ascii=True).encode()
            if not any(name.lower() == "content-type" for name in headers):
                headers["content-type"] = _JSON
        return Request(
            url=url,
            method=http.method,
            headers=headers,
            secrets={
                header: _found(tool.name, secret, http.secret_headers[header])
                for header in http.secret_headers
            },
            body=payload,
        )

    async def send(arguments: Arguments, context: ToolContext) -> Output:
        made = request(arguments)
        if effect is Effect.WRITE and context.idempotency_key:
            made = _keyed(made, context.idempotency_key)
        try:
            return _output(
                await fetch(made, timeout=max(context.remaining() - _MARGIN_SECONDS, 0.0))
            )
        except AnswerLost as failure:
            if effect is Effect.WRITE:
                raise OutcomeUnknown from failure
            raise

    return Definition(
        name=tool.name,
        description=tool.description,
        input_schema=json.loads(tool.input_schema.utf8),
        effect=effect,
        function=send,
        version=version,
        idempotent=tool.idempotent,
        cost=COSTS[tool.cost_class],
        change=CHANGES[tool.change_class],
        scope=SCOPES[tool.scope],
        ttl=tool.cache_ttl.ToNanoseconds() / 1e9 if tool.HasField("cache_ttl") else None,
        uncacheable=frozenset(tool.uncacheable_arguments),
        timeout=tool.timeout.ToNanoseconds() / 1e9,
        max_concurrency=tool.max_concurrency,
        retries=tool.retries,
    )


def _keyed(request: Request, key: str) -> Request:
    """The same effect has the same key, for a server that knows the header."""
    if any(name.lower() == "idempotency-key" for name in request.headers):
        return request
    return Request(
        url=request.url,
        method=request.method,
        headers={**request.headers, "idempotency-key": key},
        secrets=request.secrets,
        body=request.body,
    )


def _found(tool: str, secret: Callable[[str], Secret], name: str) -> Secret:
    try:
        found = secret(name)
        value = found.reveal()
        if value.isascii() and value.isprintable():
            return found
        problem = f"the secret {name} is not one line of ASCII, as a header must be"
    except SettingsError as error:
        problem = str(error)
    log.warning("tool_secret_unusable", tool=tool, problem=problem)
    raise ToolFailure(
        f"The tool {tool} is not set up: what it should sign in with is missing.",
        reason="SECRET_MISSING",
    )


def _output(answer: Answer) -> Output:
    data = None
    if answer.is_json:
        try:
            data = orjson.loads(answer.text)
        except orjson.JSONDecodeError:
            pass  # said to be JSON and is not: text, then
    return Output(answer.text or f"The server answered {answer.status} without a text.", data)


def _problems(
    tool: tools_pb2.Tool, variables: Mapping[str, str], secrets_allowed: bool
) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(tool.name):
        yield "tool.name", "is not 1 to 64 letters, digits, '_' and '-'"
    backend = tool.WhichOneof("backend")
    if backend is None:
        yield "tool", "has no backend"
    elif backend != "http":
        yield f"tool.{backend}", _NOT_SERVED
        return
    if not 1 <= len(tool.description.encode("utf-8", "replace")) <= _MAX_DESCRIPTION:
        yield "tool.description", f"is not 1 to {_MAX_DESCRIPTION} bytes long"
    if tool.effect not in EFFECTS:
        yield "tool.effect", "is none of PURE, READ and WRITE"
    for field, known in (("cost_class", COSTS), ("change_class", CHANGES), ("scope", SCOPES)):
        if getattr(tool, field) and getattr(tool, field) not in known:
            yield f"tool.{field}", "is not one that this version knows"
    if tool.HasField("timeout") and not 0 < tool.timeout.ToNanoseconds() / 1e9 <= MAX_TIMEOUT:
        yield "tool.timeout", f"is not above 0 and at most {MAX_TIMEOUT:g} s"
    if tool.HasField("cache_ttl") and tool.cache_ttl.ToNanoseconds() <= 0:
        yield "tool.cache_ttl", "is not above 0"
    if tool.HasField("cache_ttl") and tool.cache_ttl.ToNanoseconds() <= 0:
        yield "tool.cache_ttl", "is not above 0"
    if tool.max_concurrency > _MAX_CONCURRENCY:
        yield "tool.max_concurrency", f"is above {_MAX_CONCURRENCY}"
    if tool.retries > MAX_RETRIES:
        yield "tool.retries", f"is above {MAX_RETRIES}"
    elif tool.retries and tool.effect == common_pb2.EFFECT_WRITE and not tool.idempotent:
        yield "tool.retries", "is for tools that may run again, and this WRITE is not idempotent"
    schema: Mapping[str, Any] | None = None
    try:
        schema = _schema(tool.input_schema.utf8)
    except ValueError as problem:
        yield "tool.input_schema", str(problem)
    if backend == "http":
        properties = (schema or {}).get("properties", {})
        required = (schema or {}).get("required", ())
        yield from _http(tool.http, properties, required, variables)
        if tool.http.secret_headers and not secrets_allowed:
            yield "tool.http.secret_headers", "are not open to this tenant"


def _schema(utf8: bytes) -> Mapping[str, Any]:
    if len(utf8) > _MAX_SCHEMA:
        raise ValueError(f"is longer than {_MAX_SCHEMA} bytes")
    try:
        schema = json.loads(utf8)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ValueError("is not a JSON Schema whose type is object")
    try:
        Check(schema)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return schema


def _http(
    http: tools_pb2.HttpBackend,
    properties: Mapping[str, Any],
    required: Sequence[str],
    variables: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    if (http.method.upper() or "GET") not in METHODS:
        yield "tool.http.method", f"is none of {', '.join(METHODS)}"
    yield from (("tool.http.url", problem) for problem in _url(http.url, required, variables))
    if len(http.headers) + len(http.secret_headers) > _MAX_HEADERS:
        yield "tool.http.headers", f"are more than {_MAX_HEADERS}"
    twice = {name.lower() for name in http.headers} & {name.lower() for name in http.secret_headers}
    for field, headers in (("headers", http.headers), ("secret_headers", http.secret_headers)):
        for name in headers:
            where = f"tool.http.{field}[{name[:64]!r}]"
            if not _HEADER.fullmatch(name) or name.lower() in _NOT_OURS:
                yield where, "is not a header that may be set"
            elif name.lower() in twice:
                yield where, "is there twice"
    for name, value in http.headers.items():
        if len(value) > _MAX_HEADER or not value.isprintable() or not value.isascii():
            yield f"tool.http.headers[{name[:64]!r}]", "is not one short line of ASCII"
    for name, reference in http.secret_headers.items():
        if not _SECRET.fullmatch(reference):
            yield f"tool.http.secret_headers[{name[:64]!r}]", "is not the name of a secret"
    asked = {
        "url": templates.placeholders(http.url),
        "headers": [
            each for value in http.headers.values() for each in templates.placeholders(value)
        ],
    }
    if http.HasField("body"):
        try:
            asked["body"] = list(templates.of_body(_body(http)))
        except ValueError as problem:
            yield "tool.http.body", str(problem)
    for field, names in asked.items():
        for name in dict.fromkeys(names):
            if name not in properties:
                yield f"tool.http.{field}", f"asks for {{{name}}}, which is no argument"


def _url(url: str, required: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
    start, path, query = templates.split(url)
    name = templates.variable(url)
    if name and name not in variables:
        yield f"begins with ${{{name}}}; a URL may begin with {', '.join(map(repr, variables))}"
        return
    if "{" in start.removeprefix(f"${{{name}}}") or "${" in path + query:
        yield "takes arguments only after the host"
        return
    if "#" in url:
        yield "has a fragment"
    whole = path + ("?" + query if query else "")
    for each in templates.placeholders(whole):
        whole = whole.replace(f"{{{each}}}", "x")
    try:
        egress.parse(("http://x.example" if name else start) + whole)
    except egress.Refused as problem:
        yield f"cannot be used: {problem}"
    for each in templates.placeholders(path):
        if each not in required:
            yield f"has {{{each}}} in its path, which must be a required argument"


def _body(http: tools_pb2.HttpBackend) -> Any:
    if (http.method.upper() or "GET") in ("GET", "HEAD"):
        raise ValueError("does not go with this method")
    if len(http.body.utf8) > _MAX_BODY:
        raise ValueError(f"is longer than {_MAX_BODY} bytes")
    try:
        return json.loads(http.body.utf8)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
