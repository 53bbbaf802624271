"""An MCP server for tests: `python -m tests.support.mcp_server [stdio | PORT] [STATE]`.

STATE is a folder: `words` in it, if there, is what the tool `shout` says of itself (read when the
list is asked for), and `again` makes `poke` tell everybody that the list changed.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

READ_ONLY = types.ToolAnnotations(read_only_hint=True)
_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_SECONDS = {"type": "object", "properties": {"seconds": {"type": "number"}}}
_NONE: dict[str, Any] = {"type": "object"}


def tools(state: Path) -> list[types.Tool]:
    words = state / "words"
    shout = words.read_text() if words.exists() else "Says it loudly."
    listed = [
        ("shout", shout, _TEXT, READ_ONLY),
        ("pid", "Tells its process.", _NONE, READ_ONLY),
        ("env", "Tells its environment.", _NONE, READ_ONLY),
        ("slow", "Takes its time.", _SECONDS, READ_ONLY),
        ("slow_unknown", "Takes its time, and says nothing of itself.", _SECONDS, None),
        (
            "slow_write",
            "Takes its time to change something.",
            _SECONDS,
            types.ToolAnnotations(read_only_hint=False, destructive_hint=True),
        ),
        ("fails", "Fails.", _NONE, READ_ONLY),
        ("breaks", "Breaks the protocol.", _NONE, READ_ONLY),
        ("big.answer", "Says too much.", _NONE, READ_ONLY),
        ("briefly", "Is true for a minute.", _NONE, READ_ONLY),
        ("only_now", "Is true for no time.", _NONE, READ_ONLY),
        ("mixed", "Says more than text.", _NONE, READ_ONLY),
        ("poke", "Tells that its list changed.", _NONE, READ_ONLY),
    ]
    if (state / "more").exists():
        listed.append(("more", "Was not there before.", _NONE, READ_ONLY))
    return [
        types.Tool(name=name, description=description, input_schema=schema, annotations=hints)
        for name, description, schema, hints in listed
    ]


def text(words: str, **fields: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=words)], **fields)


def served(state: Path) -> Server[Any]:
    bus = InMemorySubscriptionBus()

    async def list_tools(
        ctx: ServerRequestContext, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        every = tools(state)
        start = int(params.cursor) if params is not None and params.cursor else 0
        page = every[start : start + 5]
        after = start + 5
        return types.ListToolsResult(
            tools=page, next_cursor=str(after) if after < len(every) else None
        )

    async def call_tool(
        ctx: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        given = params.arguments or {}
        match params.name:
            case "shout":
                loud = given["text"].upper()
                return text(loud, structured_content={"loud": loud})
            case "pid":
                return text(str(os.getpid()))
            case "env":
                return text("\n".join(f"{name}={value}" for name, value in os.environ.items()))
            case "slow" | "slow_unknown" | "slow_write":
                (state / "started").touch()
                await asyncio.sleep(given["seconds"])
                return text("at last")
            case "fails":
                return text("There is none left.", is_error=True)
            case "big.answer":
                return text("x" * (8 * 1024 * 1024))
            case "briefly":
                return types.CallToolResult(
                    content=[types.TextContent(type="text", text="now")],
                    _meta={"ttlMs": 60_000, "cacheScope": "private"},
                )
            case "only_now":
                return types.CallToolResult(
                    content=[types.TextContent(type="text", text="gone")], _meta={"ttlMs": 0}
                )
            case "mixed":
                return types.CallToolResult(
                    content=[
                        types.TextContent(type="text", text="see"),
                        types.ImageContent(type="image", data="AAAA", mime_type="image/png"),
                        types.ResourceLink(type="resource_link", uri="file:///x", name="x"),
                    ]
                )
            case "poke":
                await bus.publish(ToolsListChanged())
                if ctx.protocol_version < "2026":
                    await ctx.session.send_tool_list_changed()
                return text("poked")
        raise ValueError(f"no tool {params.name}")

    return Server(
        "test-server",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_subscriptions_listen=ListenHandler(bus),
    )


async def stdio(server: Server[Any]) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def main() -> None:
    how, state = sys.argv[1], Path(sys.argv[2])
    with (state / "begun").open("a") as begun:
        begun.write(f"{os.getpid()}\n")
    server = served(state)
    if how == "stdio":
        asyncio.run(stdio(server))
    else:
        import uvicorn

        uvicorn.run(
            server.streamable_http_app(), host="127.0.0.1", port=int(how), log_level="error"
        )


if __name__ == "__main__":
    main()
