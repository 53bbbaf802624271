"""One execution of a tool's function: in a task of its own, or, if it blocks, in a thread.

This is the boundary to code of others: whatever it raises, returns or does not return becomes a
`Shown` or a `Failed`. What the model is told of an unforeseen exception is an id. The log has the
type of the exception and where it was raised under the same id, and not its message, which may hold
what the tool was given.
"""

import asyncio
import contextlib
import contextvars
import secrets
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import structlog

from peregrine.tools import output
from peregrine.tools.definition import (
    Definition,
    OutcomeUnknown,
    ToolContext,
    ToolFailure,
    TransientFailure,
)
from peregrine.tools.output import NotShowable, Shown

_FRAMES = 5
_MAX_WORDS = 4_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`transient`: another try may go better. `broken`: the tool does not work, for its circuit.
    `unfinished`: it had no time to show whether it does. `nothing_done`: it is certain that nothing
    was changed."""

    reason: str
    words: str
    in_doubt: bool = False
    transient: bool = False
    broken: bool = False
    unfinished: bool = False
    nothing_done: bool = False


Execution = asyncio.Future[Shown | Failed]


def start(
    definition: Definition, arguments: dict[str, Any], context: ToolContext, *, blocking: bool
) -> Execution:
    """Begins. Cancelling the future cancels an async function; a thread goes on."""
    return (_in_thread if blocking else _in_task)(definition, arguments, context)


def taken(definition: Definition, execution: Execution) -> Shown | Failed:
    """The result of an execution that is done."""
    if execution.cancelled():
        # Not by us: something inside the tool was cancelled and it let that out.
        return _failure(definition, asyncio.CancelledError())
    return execution.result()


def too_slow(definition: Definition, seconds: float) -> Failed:
    return Failed(
        reason="TOOL_TIMEOUT",
        words=f"The tool {definition.name} did not finish within {seconds:.3g} s.",
        in_doubt=definition.leaves_doubt,
        # A caller who was in a hurry says nothing about the tool.
        broken=seconds >= definition.timeout * 0.9,
        unfinished=True,
    )


def abandoned(definition: Definition) -> Failed:
    return Failed(
        reason="TOOL_CANCELLED",
        words=f"The tool {definition.name} was cancelled while it ran.",
        in_doubt=definition.leaves_doubt,
        transient=True,
        unfinished=True,
    )


def _in_task(
    definition: Definition, arguments: dict[str, Any], context: ToolContext
) -> "asyncio.Future[Shown | Failed]":
    async def work() -> Shown | Failed:
        try:
            return output.show(await definition.function(arguments, context))
        except (Exception, SystemExit) as error:
            # The boundary to code of others: whatever it raises is its failure alone.
            return _failure(definition, error)

    return asyncio.get_running_loop().create_task(work(), name=f"tool-{definition.name}")


def _in_thread(
    definition: Definition, arguments: dict[str, Any], context: ToolContext
) -> "asyncio.Future[Shown | Failed]":
    """A thread of its own, and not one of a pool: a daemon that never ends hinders no exit.

    Their number is bounded by the places of the tool's lane.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Shown | Failed] = loop.create_future()
    variables = contextvars.copy_context()
    function = definition.function

    def deliver(answer: Shown | Failed) -> None:
        if not future.done():
            future.set_result(answer)

    def work() -> None:
        try:
            answer: Shown | Failed = output.show(variables.run(function, arguments, context))
        except BaseException as error:
            # The top of a thread, and the boundary to code of others.
            answer = _failure(definition, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(deliver, answer)

    threading.Thread(target=work, name=f"tool-{definition.name}", daemon=True).start()
    return future


def _failure(definition: Definition, error: BaseException) -> Failed:
    name = definition.name
    if isinstance(error, ToolFailure):
        transient = isinstance(error, TransientFailure)
        return Failed(
            reason=error.reason,
            words=error.message[:_MAX_WORDS],
            transient=transient,
            broken=transient,
            nothing_done=error.nothing_done,
        )
    if isinstance(error, OutcomeUnknown):
        return Failed(
            reason="TOOL_OUTCOME_UNKNOWN",
            words=f"Whether {name} did what it was asked to is not known.",
            in_doubt=definition.leaves_doubt,
            transient=True,
            broken=True,
        )
    error_id = secrets.token_hex(6)
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    log.warning(
        "tool_failed",
        tool=name,
        error_id=error_id,
        error=type(error).__name__,
        where=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )
    words = f"The tool {name} failed unexpectedly (error {error_id})."
    if isinstance(error, NotShowable):
        words = f"The tool {name} gave a result that cannot be shown."
    return Failed(reason="TOOL_FAILED", words=words, transient=True, broken=True)
