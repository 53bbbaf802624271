"""The tool `http_get`."""

from collections.abc import Awaitable
from typing import Protocol

from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Definition,
    Effect,
    Output,
    Scope,
    ToolContext,
    tool,
)
from peregrine.tools.egress import MAX_URL_CHARACTERS
from peregrine.tools.outbound import Answer, Request

# Less than the tool's own timeout, so that the tool, not its watcher, says what happened.
_MARGIN_SECONDS = 0.05


class Fetch(Protocol):
    def __call__(self, request: Request, /, *, timeout: float | None) -> Awaitable[Answer]: ...


def http_get(fetch: Fetch) -> Definition:
    """The tool, on the client whose `fetch` this is."""

    @tool(
        name="http_get",
        description=(
            "Reads a public web page or API by its URL and gives its text or JSON. Use it for a "
            "URL that the user or another tool named; it sends no credentials and reaches no "
            "private networks."
        ),
        parameters={
            "url": {
                "type": "string",
                "description": "absolute http or https URL",
                "minLength": 1,
                "maxLength": MAX_URL_CHARACTERS,
            }
        },
        effect=Effect.READ,
        change=ChangeClass.LIVE,
        scope=Scope.TENANT,
    )
    async def get(arguments: Arguments, context: ToolContext) -> Output:
        answer = await fetch(
            Request(url=arguments["url"].strip()),
            timeout=max(context.remaining() - _MARGIN_SECONDS, 0.0),
        )
        return Output(answer.text, answer.data(), private=answer.private)

    return get
