"""Tools from the command line: what there is, what it says of itself, calling it, approving it."""

import difflib
import json
import sys
from collections.abc import Iterator

import typer
from google.protobuf.duration_pb2 import Duration
from rich.text import Text

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.cli import session
from peregrine.cli.tables import Column, one_line, show, show_fields
from peregrine.cli.waterfall import milliseconds
from peregrine.cli.words import enum_name, printable
from peregrine.client import ToolsClient, jsonl, text_of


async def list_all(*, as_json: bool, limit: int) -> int:
    async with session.tools() as client:
        found = []
        async for each in client.list_tools(limit=limit):
            if as_json:
                typer.echo(jsonl.line(each))
            found.append(each)
    if as_json:
        return 0
    columns = (
        Column("NAME"),
        Column("EFFECT", rank=1),
        Column("FROM", rank=2),
        Column("STATE", rank=3),
        Column("DESCRIPTION"),
    )
    rows = [
        (
            each.tool.name,
            _effect(each.tool.effect) if each.tool.effect else "-",
            each.tool.WhichOneof("backend") or ("builtin" if each.builtin else "-"),
            _state(each),
            one_line(printable(each.tool.description), 4096),
        )
        for each in found
    ]
    show(session.console(), columns, rows, empty="no tools")
    changed = [each.tool.name for each in found if each.HasField("changed")]
    if changed:
        names = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        typer.echo(f"changed by their server, and off: {names}; see and approve that: ", err=True)
        typer.echo(f"  peregrine tools approve {changed[0]}", err=True)
    return 0


async def get(name: str, *, as_json: bool) -> int:
    async with session.tools() as client:
        found = await _found(client, name)
    if as_json:
        typer.echo(jsonl.line(found))
    else:
        show_fields(session.console(), found, title=f"tool {name}")
    return 0


async def delete(name: str) -> int:
    async with session.tools() as client:
        deleted = await client.delete_tool(name)
    typer.echo(f"tool/{name} {'deleted' if deleted else 'was not there'}")
    return 0


async def call(name: str, text: str, *, as_json: bool) -> int:
    async with session.tools() as client:
        result = await client.execute_tool(name, session.json_object(text))
    succeeded = result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
    if as_json:
        typer.echo(jsonl.line(result))
    elif succeeded:
        typer.echo(printable(text_of(list(result.content))))
        typer.secho(f"{name} {_took(result)}", dim=True, err=True)
    else:
        message = printable(result.error.message or text_of(list(result.content)) or "failed")
        typer.echo(f"error: {name}: {message} ({result.error.reason})", err=True)
    return 0 if succeeded else session.FAILED


async def invalidate(name: str, arguments: str | None, *, as_json: bool) -> int:
    given = None if arguments is None else session.json_object(arguments)
    async with session.tools() as client:
        await client.invalidate_tool_results(name, given)
    if as_json:
        typer.echo(jsonl.dumps({"tool": name, "invalidated": True}))
    else:
        what = "all results" if given is None else "the result for these arguments"
        typer.echo(f"tool/{name}: {what} forgotten")
    return 0


async def stats(*, as_json: bool) -> int:
    async with session.tools() as client:
        worker = await client.get_execution_stats()
    if as_json:
        typer.echo(jsonl.line(worker))
        return 0
    columns = (
        Column("TOOL"),
        Column("CALLS", right=True),
        Column("ERRORS", rank=1, right=True),
        Column("HITS", rank=2, right=True),
        Column("P50", rank=1, right=True),
        Column("P95", rank=1, right=True),
        Column("QUEUE P95", rank=3, right=True),
        Column("RUNNING", rank=4, right=True),
        Column("WAITING", rank=4, right=True),
        Column("STATE", rank=2),
    )
    rows = [
        (
            each.tool,
            f"{each.calls:,}",
            f"{each.errors:,}",
            f"{each.cache_hits:,}",
            _time(each.execution_time_p50),
            _time(each.execution_time_p95),
            _time(each.queue_time_p95),
            str(each.in_flight),
            str(each.queued),
            "left alone, keeps failing" if each.circuit_open else "works",
        )
        for each in worker.tools
        if each.calls or each.in_flight or each.queued
    ]
    show(session.console(), columns, rows, empty="no tool was called since this worker began")
    running = f"{worker.in_flight} of {worker.max_concurrency} places taken"
    typer.secho(f"{running}, {worker.queued} waiting, on the worker that answered", dim=True)
    return 0


# ---- Approving ----


async def approve(name: str, *, yes: bool) -> int:
    """Shows what an MCP server says now of a tool, or of all its tools, and approves that."""
    async with session.tools() as client:
        asked = await _found(client, name)
        if not asked.tool.HasField("mcp"):
            session.fail(
                f"the tool {name!r} is of no MCP server; nothing to approve", session.USAGE
            )
        server = asked.server or asked.tool.name
        changed = [
            each
            async for each in client.list_tools(names=[server])
            if each.HasField("changed") and name in (each.tool.name, server)
        ]
        if not changed:
            typer.echo(f"tool/{name}: nothing to approve; its server says what it always said")
            return 0
        for each in changed:
            _show_change(each)
        if not yes:
            if not sys.stdin.isatty():
                session.fail("say --yes to approve what is shown above", session.USAGE)
            many = "this" if len(changed) == 1 else f"all {len(changed)}"
            if not typer.confirm(f"Agents will read it as it stands. Approve {many}?"):
                return session.FAILED
        declared = await _found(client, server)
        tool = tools_pb2.Tool()
        tool.CopyFrom(declared.tool)
        digests = [each.changed.digest for each in changed]
        tool.mcp.approved_digests.extend(digests)
        await client.apply_tool(tool, expected_version=declared.version)
    for each in changed:
        typer.echo(f"tool/{each.tool.name} approved")
    typer.echo("where its YAML is kept, add to mcp.approvedDigests:", err=True)
    for digest in digests:
        typer.echo(f"  - {digest}", err=True)
    return 0


def _show_change(tool: tools_pb2.RegisteredTool) -> None:
    console = session.console()
    heading = f"{tool.tool.name}, as its server {tool.server} describes it now"
    console.print(Text(heading, "bold"), soft_wrap=True)
    for mark, line in _differences(tool):
        style = {"-": "red", "+": "green"}.get(mark, "dim")
        console.print(Text(f"  {mark} {printable(line)}", style), soft_wrap=True)


def _differences(tool: tools_pb2.RegisteredTool) -> Iterator[tuple[str, str]]:
    before = _described(tool.tool.description, tool.tool.input_schema, tool.tool.effect)
    now = tool.changed
    after = _described(now.description, now.input_schema, now.effect)
    for line in difflib.ndiff(before, after):
        if line[0] in "+- ":
            yield line[0], line[2:]


def _described(description: str, schema: common_pb2.Json, effect: int) -> list[str]:
    arguments = json.dumps(json.loads(schema.utf8 or b"{}"), indent=2, ensure_ascii=False)
    return [
        *description.splitlines(),
        f"effect: {_effect(effect)}",
        *f"arguments: {arguments}".splitlines(),
    ]


# ---- Together ----


async def _found(client: ToolsClient, name: str) -> tools_pb2.RegisteredTool:
    async for each in client.list_tools(names=[name]):
        if each.tool.name == name:
            return each
    session.fail(f"there is no tool {name!r} (TOOL_NOT_FOUND)", session.FAILED)


def _state(tool: tools_pb2.RegisteredTool) -> str:
    if tool.HasField("changed"):
        return "off: changed, to be approved"
    return f"off: {tool.disabled_reason}" if tool.disabled_reason else "ready"


def _effect(effect: int) -> str:
    return enum_name(common_pb2.Effect, effect, "EFFECT_")


def _took(result: tools_pb2.ToolResult) -> str:
    took = f"took {_time(result.execution_time)}"
    if result.cache_tier in (tools_pb2.CACHE_TIER_UNSPECIFIED, tools_pb2.CACHE_TIER_NONE):
        return took
    tier = enum_name(tools_pb2.CacheTier, result.cache_tier, "CACHE_TIER_").lower()
    age = result.age.ToMilliseconds() / 1e3
    return f"{took}, {age:,.0f} s ago (kept: {tier})"


def _time(duration: Duration) -> str:
    return milliseconds(duration.ToNanoseconds() / 1e6)
