"""Tools that are declared: what ApplyTool takes, checked.

`check` reads a message and names everything that is wrong with it; `normal` fills in what was left
open, so that the same declaration is the same bytes. A declaration that says everything becomes a
tool with `described`; one over a tool that is written changes what it says, with `over`.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.tools import egress, lending, mcp_listing, templates
from peregrine.tools.arguments import Check
from peregrine.tools.definition import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT,
    MAX_RETRIES,
    MAX_TIMEOUT,
    ChangeClass,
    CostClass,
    Definition,
    Effect,
    Function,
    Scope,
)

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
_MAX_TAGS = 32
_TAG = re.compile(r"[!-~]{1,128}")

Violations = list[tuple[str, str]]


Written = Callable[[tools_pb2.Tool], Definition | None]
"""The tool that comes with the worker and that a declaration is over, if there is one."""


def check(
    tool: tools_pb2.Tool,
    *,
    variables: Mapping[str, str],
    secrets_allowed: bool = True,
    written: Written = lambda tool: None,
) -> Violations:
    """Everything that is wrong with a declaration, as (field, what).

    Args:
      secrets_allowed: the tenant is the one that secrets, and processes of the worker, belong to.
    """
    return list(_problems(tool, variables, secrets_allowed, written))


def normal(tool: tools_pb2.Tool) -> tools_pb2.Tool:
    """A declaration with its defaults written out."""
    full = tools_pb2.Tool()
    full.CopyFrom(tool)
    if full.WhichOneof("backend") in ("builtin", "python"):
        return full  # what is open stays as the function says
    full.cost_class = full.cost_class or tools_pb2.COST_CLASS_DEFAULT
    # Nobody who declares a whole server knows how fast all of it changes.
    slow = full.HasField("http")
    full.change_class = full.change_class or (
        tools_pb2.CHANGE_CLASS_SLOW if slow else tools_pb2.CHANGE_CLASS_LIVE
    )
    full.scope = full.scope or common_pb2.SCOPE_USER
    full.max_concurrency = full.max_concurrency or DEFAULT_CONCURRENCY
    if not full.HasField("timeout"):
        full.timeout.FromNanoseconds(int(DEFAULT_TIMEOUT * 1e9))
    if full.HasField("http"):
        full.http.method = full.http.method.upper() or "GET"
    return full


def described(
    tool: tools_pb2.Tool, version: int, function: Function, *, assumed: bool = False
) -> Definition:
    """What a whole declaration says, with the function that does it."""
    return Definition(
        name=tool.name,
        description=tool.description,
        input_schema=json.loads(tool.input_schema.utf8),
        effect=EFFECTS[tool.effect],
        function=function,
        version=version,
        idempotent=tool.idempotent,
        cost=COSTS[tool.cost_class],
        change=CHANGES[tool.change_class],
        scope=SCOPES[tool.scope],
        ttl=tool.cache_ttl.ToNanoseconds() / 1e9 if tool.HasField("cache_ttl") else None,
        uncacheable=frozenset(tool.uncacheable_arguments),
        timeout=tool.timeout.ToNanoseconds() / 1e9,
        max_concurrency=tool.max_concurrency,
        retries=tool.retries if EFFECTS[tool.effect] is not Effect.WRITE or tool.idempotent else 0,
        tags=tuple(tool.tags),
        invalidates=tuple(tool.invalidates),
        assumed=assumed,
    )


def over(base: Definition, tool: tools_pb2.Tool, version: int) -> Definition:
    """A tool that is written, as a declaration over it changes it."""
    said: dict[str, Any] = {"name": tool.name, "version": version}
    if tool.description:
        said["description"] = tool.description
    if tool.input_schema.utf8:
        said["input_schema"] = json.loads(tool.input_schema.utf8)
    for field, message, known in (
        ("effect", tool.effect, EFFECTS),
        ("cost", tool.cost_class, COSTS),
        ("change", tool.change_class, CHANGES),
        ("scope", tool.scope, SCOPES),
    ):
        if message:
            said[field] = known[message]  # type: ignore[index] # enums are numbers to the checker
    if tool.idempotent:
        said["idempotent"] = True
    if tool.HasField("timeout"):
        said["timeout"] = tool.timeout.ToNanoseconds() / 1e9
    if tool.HasField("cache_ttl"):
        said["ttl"] = tool.cache_ttl.ToNanoseconds() / 1e9
    further = {
        "max_concurrency": tool.max_concurrency,
        "retries": tool.retries,
        "tags": tuple(tool.tags),
        "invalidates": tuple(tool.invalidates),
        "uncacheable": frozenset(tool.uncacheable_arguments),
    }
    said |= {field: value for field, value in further.items() if value}
    return dataclasses.replace(base, **said)


def _problems(
    tool: tools_pb2.Tool, variables: Mapping[str, str], secrets_allowed: bool, written: Written
) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(tool.name):
        yield "tool.name", "is not 1 to 64 letters, digits, '_' and '-'"
    backend = tool.WhichOneof("backend")
    if backend is None:
        yield "tool", "has no backend"
    # The others describe themselves.
    whole = backend in (None, "http")
    least = 1 if whole else 0
    if not least <= len(tool.description.encode("utf-8", "replace")) <= _MAX_DESCRIPTION:
        yield "tool.description", f"is not {least} to {_MAX_DESCRIPTION} bytes long"
    if tool.effect not in EFFECTS and (whole or tool.effect):
        yield "tool.effect", "is none of PURE, READ and WRITE"
    for field, tags in (("tags", tool.tags), ("invalidates", tool.invalidates)):
        if len(tags) > _MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in tags):
            yield f"tool.{field}", f"are not at most {_MAX_TAGS} of 1 to 128 visible letters"
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
        if whole or tool.input_schema.utf8:
            schema = _schema(tool.input_schema.utf8)
    except ValueError as problem:
        yield "tool.input_schema", str(problem)
    if backend == "mcp":
        yield from mcp_listing.problems(
            tool, commands_allowed=secrets_allowed, secrets_allowed=secrets_allowed
        )
        if tool.mcp.url:
            yield from (("tool.mcp.url", problem) for problem in _mcp_url(tool.mcp.url))
    if backend in ("builtin", "python"):
        yield from _over(tool, backend, written(tool))
    if backend == "http":
        properties = (schema or {}).get("properties", {})
        required = (schema or {}).get("required", ())
        yield from _http(tool.http, properties, required, variables)
        if tool.http.secret_headers and not secrets_allowed:
            yield "tool.http.secret_headers", "are not open to this tenant"


def _mcp_url(url: str) -> Iterator[str]:
    try:
        egress.parse(url)
    except egress.Refused as problem:
        yield f"cannot be used: {problem}"


def _over(tool: tools_pb2.Tool, backend: str, base: Definition | None) -> Iterator[tuple[str, str]]:
    if base is None:
        where = "tool.builtin.name" if backend == "builtin" else "tool.python.function"
        yield where, "is none that this worker has"
        return
    if backend == "builtin" and tool.effect and EFFECTS.get(tool.effect) is not base.effect:
        yield "tool.effect", f"is {base.effect.name} for this built-in tool"
    if tool.retries and not base.repeatable and not tool.idempotent:
        yield "tool.retries", "is for tools that may run again"


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
        elif lending.is_ours(reference):
            yield f"tool.http.secret_headers[{name[:64]!r}]", "names a secret that is not for tools"
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
