"""Tools for tests and benchmarks: PEREGRINE_TOOLS_MODULES=tests.support.tools_module.

`echo` and `noop` do nothing, `sleep` takes a time, `count`, `look_up` (the one whose results are
kept) and `record_write` leave a line for each execution in the file that PEREGRINE_TEST_EXECUTIONS
names, so that executions can be counted over processes and restarts; the rest misbehave.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peregrine.tools.definition import (
    DEFAULT_TIMEOUT,
    Arguments,
    Definition,
    Effect,
    OutcomeUnknown,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    tool,
)

EXECUTIONS_VARIABLE = "PEREGRINE_TEST_EXECUTIONS"

_TEXT = {"text": {"type": "string"}}
_SECONDS = {"seconds": {"type": "number", "minimum": 0, "maximum": 300}}
# What `block` waits for, so that a test can let it go.
unblocked = threading.Event()
# What was cancelled while it ran, by call id; of this process.
cancelled: list[str] = []


def executions(path: Path) -> list[str]:
    """The lines that `count` and `record_write` left, in order."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _leave_line(line: str) -> None:
    # One short write to a file opened for appending is not mixed with another process's.
    descriptor = os.open(os.environ[EXECUTIONS_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@tool(name="noop", description="Does nothing.", parameters={}, effect=Effect.READ, cacheable=False)
async def noop(arguments: Arguments, context: ToolContext) -> str:
    return "done"


@tool(
    name="echo",
    description="Says it again.",
    parameters=_TEXT,
    effect=Effect.PURE,
    cacheable=False,
)
async def echo(arguments: Arguments, context: ToolContext) -> Output:
    return Output(arguments["text"], dict(arguments))


@tool(
    name="sleep",
    description="Takes some time.",
    parameters=_SECONDS,
    effect=Effect.READ,
    cacheable=False,
    timeout=300,
    max_concurrency=1_000,
)
async def sleep(arguments: Arguments, context: ToolContext) -> Output:
    try:
        await asyncio.sleep(arguments["seconds"])
    except asyncio.CancelledError:
        cancelled.append(context.call_id)
        raise
    return Output(f"slept {arguments['seconds']} s", {"seconds": arguments["seconds"]})


@tool(
    name="narrow",
    description="Takes some time, one at a time.",
    parameters=_SECONDS,
    effect=Effect.READ,
    cacheable=False,
    timeout=300,
    max_concurrency=1,
)
async def narrow(arguments: Arguments, context: ToolContext) -> str:
    await asyncio.sleep(arguments["seconds"])
    return "done"


@tool(
    name="count",
    description="Counts how often.",
    parameters=_TEXT,
    effect=Effect.READ,
    cacheable=False,
)
async def count(arguments: Arguments, context: ToolContext) -> str:
    _leave_line(arguments["text"])
    return "counted"


def _looking_up(name: str, scope: Scope) -> Definition:
    @tool(
        name=name,
        description="Looks something up, and leaves a line when it really did.",
        input_schema={"type": "object"},
        effect=Effect.READ,
        scope=scope,
    )
    async def look(arguments: Arguments, context: ToolContext) -> Output:
        _leave_line(f"{context.tenant}/{context.user}")
        return Output(f"found for {context.user}", {"for": context.user, "what": dict(arguments)})

    return look


look_up = _looking_up("look_up", Scope.USER)
look_up_for_all = _looking_up("look_up_for_all", Scope.TENANT)


_meetings: dict[str, asyncio.Barrier] = {}


@tool(
    name="rendezvous",
    description="Returns when as many calls as there are parties wait at the same place.",
    parameters={
        "place": {"type": "string"},
        "parties": {"type": "integer", "minimum": 1},
        "party": {"type": "integer"},
    },
    effect=Effect.READ,
    cacheable=False,
)
async def rendezvous(arguments: Arguments, context: ToolContext) -> str:
    barrier = _meetings.setdefault(arguments["place"], asyncio.Barrier(arguments["parties"]))
    await barrier.wait()
    return "met"


@tool(
    name="record_write",
    description="Writes a line somewhere.",
    parameters=_TEXT,
    effect=Effect.WRITE,
)
async def record_write(arguments: Arguments, context: ToolContext) -> str:
    _leave_line(f"{context.idempotency_key} {arguments['text']}")
    return "written"


@tool(
    name="slow_write",
    description="Changes something, slowly.",
    parameters=_SECONDS,
    effect=Effect.WRITE,
    timeout=0.2,
)
async def slow_write(arguments: Arguments, context: ToolContext) -> str:
    await asyncio.sleep(arguments["seconds"])
    return "written"


@tool(name="lost_write", description="Loses track.", parameters={}, effect=Effect.WRITE)
async def lost_write(arguments: Arguments, context: ToolContext) -> str:
    raise OutcomeUnknown


@tool(name="fail", description="Cannot do it.", parameters={}, effect=Effect.READ)
async def fail(arguments: Arguments, context: ToolContext) -> Output:
    raise ToolFailure("There are none left.", reason="NONE_LEFT")


def _raising(name: str, error: Callable[[], BaseException]) -> Any:
    @tool(name=name, description="Breaks.", parameters={}, effect=Effect.READ)
    async def broken(arguments: Arguments, context: ToolContext) -> Output:
        raise error()

    return broken


raises = _raising("raises", lambda: RuntimeError("the password is hunter2"))
exits = _raising("exits", lambda: SystemExit(3))
cancels_itself = _raising("cancels_itself", lambda: asyncio.CancelledError())
stops = _raising("stops", lambda: StopAsyncIteration())


@tool(name="raises_blocking", description="Breaks.", parameters={}, effect=Effect.READ)
def raises_blocking(arguments: Arguments, context: ToolContext) -> str:
    raise StopIteration("the password is hunter2")


@tool(name="hang", description="Never ends.", parameters={}, effect=Effect.READ, timeout=0.2)
async def hang(arguments: Arguments, context: ToolContext) -> Output:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


@tool(
    name="hang_stubbornly",
    description="Never ends, not even when cancelled (once).",
    parameters={},
    effect=Effect.READ,
    timeout=0.2,
    max_concurrency=2,
)
async def hang_stubbornly(arguments: Arguments, context: ToolContext) -> Output:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        await asyncio.get_running_loop().create_future()
    raise AssertionError


@tool(
    name="block",
    description="Blocks its thread until it is let go.",
    parameters={},
    effect=Effect.READ,
    timeout=0.2,
    max_concurrency=2,
)
def block(arguments: Arguments, context: ToolContext) -> str:
    unblocked.wait(60)
    return "let go"


@tool(name="huge", description="Says too much.", parameters={}, effect=Effect.READ)
async def huge(arguments: Arguments, context: ToolContext) -> Output:
    text = "ü" * (2 * 1024 * 1024)
    return Output(text, {"text": text})


@tool(name="unshowable", description="Gives no JSON.", parameters={}, effect=Effect.READ)
async def unshowable(arguments: Arguments, context: ToolContext) -> Any:
    return {"what": object()}


@tool(
    name="measured",
    description="Records a metric.",
    parameters=_TEXT,
    effect=Effect.READ,
    cacheable=False,
)
async def measured(arguments: Arguments, context: ToolContext) -> str:
    context.record_metric("words", len(arguments["text"].split()), {"kind": "test"})
    return "measured"


def _gated(name: str, *, idempotent: bool) -> Definition:
    @tool(
        name=name,
        description="Writes a line, and ends when the file that it is told exists.",
        parameters={"text": {"type": "string"}, "gate": {"type": "string"}},
        effect=Effect.WRITE,
        idempotent=idempotent,
        timeout=60,
    )
    async def gated(arguments: Arguments, context: ToolContext) -> str:
        _leave_line(arguments["text"])
        gate = Path(arguments["gate"])
        while not gate.exists():  # noqa: ASYNC110, ASYNC240 - a file is what processes share
            await asyncio.sleep(0.01)
        return f"written {arguments['text']}"

    return gated


gated_write = _gated("gated_write", idempotent=False)
gated_repeatable = _gated("gated_repeatable", idempotent=True)


@tool(
    name="repeatable_write",
    description="Writes a line; may be run again.",
    parameters=_TEXT,
    effect=Effect.WRITE,
    idempotent=True,
)
async def repeatable_write(arguments: Arguments, context: ToolContext) -> str:
    _leave_line(arguments["text"])
    return "written"


@tool(
    name="refused_write", description="Says no.", parameters=_TEXT, effect=Effect.WRITE, retries=3
)
async def refused_write(arguments: Arguments, context: ToolContext) -> str:
    _leave_line(arguments["text"])
    raise ToolFailure("There is not enough money.", reason="NOT_ENOUGH")


def _timed(name: str, places: int) -> Definition:
    @tool(
        name=name,
        description="Takes some time, and says when it began and ended (time.monotonic()).",
        parameters=_SECONDS,
        effect=Effect.READ,
        cacheable=False,
        max_concurrency=places,
    )
    async def timed(arguments: Arguments, context: ToolContext) -> list[float]:
        # When the worker let it begin, which is not when its first line is run on a busy loop.
        began = context.deadline - DEFAULT_TIMEOUT
        await asyncio.sleep(arguments["seconds"])
        return [began, time.monotonic()]

    return timed


timed_wide = _timed("timed_wide", 10)
timed_narrow = _timed("timed_narrow", 3)
