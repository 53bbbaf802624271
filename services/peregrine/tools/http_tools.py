"""Tools that are an HTTP call: a declaration, made callable.

A secret is named in the declaration and read when the request is made, so that a changed one is
used at once; it goes into its header and nowhere else. What a lost answer means depends on the
effect. A READ failed; a WRITE may have happened, and says so.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.settings import Secret, SettingsError
from peregrine.tools import declared, templates
from peregrine.tools.definition import (
    Arguments,
    Definition,
    Effect,
    OutcomeUnknown,
    Output,
    ToolContext,
    ToolFailure,
)
from peregrine.tools.outbound import Answer, AnswerLost, Request

_JSON = "application/json"
# Less than the tool's own timeout, so that the tool, not its watcher, says what happened.
_MARGIN_SECONDS = 0.05

log = structlog.get_logger(__name__)


class Fetch(Protocol):
    def __call__(self, request: Request, /, *, timeout: float | None) -> Awaitable[Answer]: ...


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
    effect = declared.EFFECTS[tool.effect]

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
                header: found(tool.name, secret, http.secret_headers[header])
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

    return declared.described(tool, version, send)


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


def found(tool: str, secret: Callable[[str], Secret], name: str) -> Secret:
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
    data = answer.data()
    return Output(
        answer.text or f"The server answered {answer.status} without a text.",
        data,
        private=answer.private,
    )
