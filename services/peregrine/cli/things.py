"""Lists and single things: agents, runs, conversations, tools, the profile."""

import json
import sys
from collections.abc import AsyncIterator
from typing import TypeVar

import typer
from google.protobuf.message import Message
from rich.text import Text

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.cli import session
from peregrine.cli.tables import Column, ago, one_line, show, show_fields
from peregrine.cli.waterfall import milliseconds
from peregrine.cli.words import arguments, enum_name, printable, state_name
from peregrine.client import jsonl, text_of

_M = TypeVar("_M", bound=Message)


# ---- Agents ----


async def list_agents(*, as_json: bool, limit: int) -> int:
    async with session.orchestrator() as client:
        agents = await _all(client.list_agents(limit=limit), as_json=as_json)
    if agents is not None:
        columns = (
            Column("NAME"),
            Column("MODEL", rank=1),
            Column("VERSION", rank=3, right=True),
            Column("AGE", rank=3, right=True),
            Column("TOOLS", rank=2),
        )
        rows = [
            (
                agent.name,
                printable(agent.spec.model),
                str(agent.version),
                ago(agent.update_time),
                ", ".join(agent.spec.tools) or "-",
            )
            for agent in agents
        ]
        show(session.console(), columns, rows, empty="no agents; apply some: peregrine apply -f …")
    return 0


async def get_agent(name: str, *, as_json: bool) -> int:
    async with session.orchestrator() as client:
        agent = await client.get_agent(name)
    if as_json:
        typer.echo(jsonl.line(agent))
    else:
        show_fields(session.console(), agent, without=("name",), title=f"agent {agent.name}")
    return 0


async def delete_agent(name: str) -> int:
    async with session.orchestrator() as client:
        deleted = await client.delete_agent(name)
    return _deleted(f"agent/{name}", deleted)


# ---- Runs ----


async def list_runs(*, as_json: bool, limit: int, agent: str, conversation_id: str) -> int:
    async with session.orchestrator() as client:
        listed = client.list_runs(agent=agent, conversation_id=conversation_id, limit=limit)
        runs = await _all(listed, as_json=as_json)
    if runs is not None:
        columns = (
            Column("RUN"),
            Column("AGENT", rank=2),
            Column("STATE", rank=1),
            Column("AGE", rank=2, right=True),
            Column("TOOK", rank=3, right=True),
            Column("TOKENS", rank=3, right=True),
            Column("CONVERSATION", rank=4),
        )
        rows = [
            (
                run.run_id,
                run.agent,
                state_name(run.state),
                ago(run.create_time),
                _took(run),
                f"{run.usage.input_tokens + run.usage.output_tokens:,}",
                run.conversation_id,
            )
            for run in runs
        ]
        show(session.console(), columns, rows, empty='no runs; begin one: peregrine chat "…"')
    return 0


async def get_run(run_id: str, *, as_json: bool) -> int:
    async with session.orchestrator() as client:
        run = await client.get_run(run_id)
    if as_json:
        typer.echo(jsonl.line(run))
    else:
        show_fields(session.console(), run, without=("run_id",), title=f"run {run.run_id}")
    return 0


async def cancel_run(run_id: str, *, as_json: bool) -> int:
    async with session.orchestrator() as client:
        state = await client.cancel_run(run_id)
    if as_json:
        typer.echo(jsonl.dumps({"run_id": run_id, "state": _state(state)}))
    elif state == orchestrator_pb2.RUN_STATE_CANCELLED:
        typer.echo(f"run/{run_id} cancelled")
    elif state in (orchestrator_pb2.RUN_STATE_SUCCEEDED, orchestrator_pb2.RUN_STATE_FAILED):
        typer.echo(f"run/{run_id} had already {state_name(state)}")
    else:
        typer.echo(f"run/{run_id} is being cancelled")
    return 0


# ---- Conversations ----


async def list_conversations(*, as_json: bool, limit: int) -> int:
    async with session.memory() as client:
        found = await _all(client.list_conversations(limit=limit), as_json=as_json)
    if found is not None:
        columns = (
            Column("CONVERSATION"),
            Column("AGENT", rank=2),
            Column("MESSAGES", rank=3, right=True),
            Column("AGE", rank=1, right=True),
            Column("TITLE", rank=0),
        )
        rows = [
            (
                each.conversation_id,
                each.agent_id or "-",
                str(each.version),
                ago(each.update_time),
                one_line(printable(each.title), 4096),
            )
            for each in found
        ]
        empty = 'no conversations; begin one: peregrine chat "…"'
        show(session.console(), columns, rows, empty=empty)
    return 0


async def get_conversation(conversation_id: str, *, as_json: bool) -> int:
    async with session.memory() as client:
        conversation = await client.get_conversation(conversation_id)
        messages = [each async for each in client.list_messages(conversation_id)]
    if as_json:
        whole = jsonl.plain(conversation)
        typer.echo(jsonl.dumps(whole | {"messages": [jsonl.plain(each) for each in messages]}))
        return 0
    console = session.console()
    heading = Text(f"conversation {conversation.conversation_id}", "bold")
    if conversation.agent_id:
        heading.append(f"  {conversation.agent_id}", "dim")
    console.print(heading, soft_wrap=True)
    for stored in messages:
        _message(stored)
    return 0


async def delete_conversation(conversation_id: str) -> int:
    async with session.memory() as client:
        deleted = await client.delete_conversation(conversation_id)
    return _deleted(f"conversation/{conversation_id}", deleted)


def _message(stored: memory_pb2.StoredMessage) -> None:
    console = session.console()
    speaker, style = ("you", "bold cyan")
    if stored.message.role == common_pb2.ROLE_ASSISTANT:
        speaker, style = ("agent", "bold green")
    for block in stored.message.content:
        match block.WhichOneof("block"):
            case "text":
                console.print(Text(speaker, style), Text(printable(block.text)), soft_wrap=True)
            case "tool_use":
                said = arguments(block.tool_use.arguments.utf8.decode("utf-8", "replace"))
                line = f"  ▸ {block.tool_use.tool} {one_line(printable(said))}"
                console.print(Text(line, "dim"), soft_wrap=True)
            case "tool_outcome":
                outcome = block.tool_outcome
                mark = "✗" if outcome.is_error else "✓"
                line = f"  {mark} {one_line(printable(text_of(list(outcome.content))))}"
                console.print(Text(line, "dim"), soft_wrap=True)


# ---- The profile ----


async def get_profile(*, as_json: bool) -> int:
    async with session.memory() as client:
        profile = await client.get_user_profile()
    _profile(profile, as_json=as_json)
    return 0


async def put_profile(text: str, *, as_json: bool) -> int:
    data = session.json_object(sys.stdin.read() if text == "-" else text)
    async with session.memory() as client:
        profile = await client.put_user_profile(data)
    _profile(profile, as_json=as_json)
    return 0


def _profile(profile: memory_pb2.UserProfile, *, as_json: bool) -> None:
    if as_json:
        typer.echo(jsonl.line(profile))
        return
    data = json.loads(profile.data.utf8 or b"{}")
    typer.echo(printable(json.dumps(data, ensure_ascii=False, indent=2)))


# ---- Together ----


async def _all(items: AsyncIterator[_M], *, as_json: bool) -> list[_M] | None:
    """All items; with `as_json` they are printed instead, page by page."""
    found = []
    async for item in items:
        if as_json:
            typer.echo(jsonl.line(item))
        else:
            found.append(item)
    return None if as_json else found


def _took(run: orchestrator_pb2.Run) -> str:
    if not run.HasField("finish_time"):
        return "-"
    nanoseconds = run.finish_time.ToNanoseconds() - run.create_time.ToNanoseconds()
    return milliseconds(nanoseconds / 1e6)


def _deleted(what: str, deleted: bool) -> int:
    typer.echo(f"{what} {'deleted' if deleted else 'was not there'}")
    return 0


def _state(state: int) -> str:
    return enum_name(orchestrator_pb2.RunState, state, "")
