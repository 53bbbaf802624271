"""The tool `knowledge_search`."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from peregrine.kit.errors import Unavailable
from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Definition,
    Effect,
    Output,
    Scope,
    SourceVersion,
    ToolContext,
    ToolFailure,
    tool,
)
from peregrine.tools.knowledge import Found

_RESULTS = 3


class Search(Protocol):
    def __call__(self, tenant: str, query: str, *, limit: int) -> Awaitable[Sequence[Found]]: ...


def knowledge_search(search: Search, *, version: SourceVersion | None = None) -> Definition:
    """The tool, on the documents that `search` looks in; `version` is theirs."""

    @tool(
        name="knowledge_search",
        description=(
            "Searches the company's own documents (products, policies, prices, shipping, refunds, "
            "accounts, API) and gives the passages that fit best, with their source. Use it before "
            "you say anything about the company or its products, and name the source."
        ),
        parameters={
            "query": {
                "type": "string",
                "description": "the words to look for, for example: refund deadline",
                "minLength": 1,
                "maxLength": 1_000,
            }
        },
        effect=Effect.READ,
        change=ChangeClass.SLOW,
        scope=Scope.TENANT,
        source_version=version,
    )
    async def look(arguments: Arguments, context: ToolContext) -> Output:
        try:
            found = await search(context.tenant, arguments["query"], limit=_RESULTS)
        except Unavailable as error:
            raise ToolFailure(
                "The documents cannot be reached at the moment.", reason=error.reason
            ) from error
        if not found:
            return Output("The documents say nothing about that.", {"results": []})
        text = "\n\n".join(
            f"[{number}] {each.heading} (source: {each.source})\n{each.body}"
            for number, each in enumerate(found, 1)
        )
        results = [
            {
                "title": each.title,
                "section": each.heading,
                "source": each.source,
                "excerpt": each.body,
                "score": round(each.score, 4),
            }
            for each in found
        ]
        return Output(text, {"results": results})

    return look
