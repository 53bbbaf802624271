"""Runs tools so that none can harm another.

Each execution is a task of its own (an async tool) or a thread of its own (a blocking one), and
the call that asked for it only watches: it takes the result, or at the deadline gives up, cancels
and answers TOOL_TIMEOUT at once, whatever the tool does about it. A tool that goes on nevertheless
keeps its place in its own lane until it ends, but no slot of the worker: it can use up the places
of its own tool only. A tool's exception, exit or endless output becomes a failed result. A WRITE
that did not finish in time may have happened or not: its outcome is in doubt, unless it may be
repeated.

What the model is told of an unforeseen exception is an id. The log has the type of the exception
and where it was raised under the same id, and not its message, which may hold what the tool was
given.
"""

import asyncio
import contextlib
import contextvars
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from peregrine.kit.context import Identity
from peregrine.kit.errors import InvalidArgument, ResourceExhausted
from peregrine.tools import output
from peregrine.tools.admission import Admission, Overloaded
from peregrine.tools.arguments import ArgumentsInvalid
from peregrine.tools.definition import (
    Effect,
    OutcomeUnknown,
    RecordMetric,
    Result,
    ToolContext,
    ToolFailure,
)
from peregrine.tools.output import NotShowable, Shown
from peregrine.tools.registry import Registered, Registry
from peregrine.tools.results import Kept, Results

# The answer must still reach the caller, who stops waiting at the deadline.
_ANSWER_SECONDS = 0.02
_CLOSE_SECONDS = 2.0
_FRAMES = 5
_MAX_WORDS = 4_000
_NAMES_SHOWN = 50

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`arguments` is JSON as it came. `timeout` (seconds) only shortens the tool's own."""

    tool: str
    call_id: str = ""
    arguments: bytes = b""
    priority: int = 0
    timeout: float | None = None
    idempotency_key: str = ""
    agent_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended. `reason` is empty when it succeeded; then `text` is the result.

    `in_doubt`: a change that may have happened or not. `cache_tier`: where a kept result was found,
    "near", "redis" or "postgres"; then `execution_seconds` is the time of the execution it is from,
    `age` seconds ago.
    """

    call: Call
    text: str
    data: bytes = b""
    reason: str = ""
    in_doubt: bool = False
    queue_seconds: float = 0.0
    execution_seconds: float = 0.0
    cache_tier: str = ""
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class _Failed:
    reason: str
    words: str
    in_doubt: bool = False


class Executor:
    def __init__(
        self,
        *,
        registry: Registry,
        admission: Admission,
        record_metric: RecordMetric,
        results: Results | None = None,
    ) -> None:
        """`results`: those that are kept; without it every call is executed."""
        self._registry = registry
        self._admission = admission
        self._record = record_metric
        self._results = results
        self._strays: set[asyncio.Future[Shown | _Failed]] = set()

    def check(self, call: Call, who: Identity) -> None:
        """What must be right before anything starts.

        Raises:
          InvalidArgument: REQUEST_INVALID, a WRITE without its idempotency key.
        """
        tool = self._registry.get(call.tool, who.tenant)
        if tool is None or tool.definition.effect is not Effect.WRITE or call.idempotency_key:
            return
        raise InvalidArgument(
            f"the tool {call.tool!r} changes something and needs an idempotency key",
            reason="REQUEST_INVALID",
            violations=[("call.idempotency_key", "is empty")],
        )

    async def execute(
        self, call: Call, who: Identity, *, remaining: float | None = None
    ) -> Outcome:
        """Runs one call. A tool that fails is an outcome, not an exception.

        Args:
          remaining: seconds until the caller stops waiting.

        Raises:
          ResourceExhausted: TOOLS_OVERLOADED.
        """
        tool = self._registry.get(call.tool, who.tenant)
        if tool is None:
            return Outcome(call=call, reason="TOOL_NOT_FOUND", text=self._unknown(call.tool, who))
        stats, meters = tool.stats, tool.meters
        stats.calls += 1
        try:
            arguments = tool.check.read(call.arguments)
        except ArgumentsInvalid as problem:
            stats.errors += 1
            return Outcome(call=call, reason="ARGUMENTS_INVALID", text=str(problem))
        place = None
        if self._results is not None:
            asked = time.monotonic()
            place = await self._results.place(tool.definition, arguments, who)
            kept = await self._results.find(place) if place is not None else None
            if kept is not None:
                return _found(tool, call, kept)
            if place is not None:
                meters.cached["none"].inc()
            if remaining is not None:
                remaining -= time.monotonic() - asked
        meters.requests.inc()
        arrived = time.monotonic()
        deadline = None if remaining is None else arrived + remaining - _ANSWER_SECONDS
        try:
            await self._admission.enter(tool.lane, priority=call.priority, limit=remaining)
        except Overloaded as refusal:
            meters.shed.inc()
            stats.errors += 1
            raise ResourceExhausted(
                f"no place for the tool {call.tool!r} within the time",
                reason="TOOLS_OVERLOADED",
                metadata={"tool": call.tool},
                retry_after=refusal.retry_after,
            ) from None
        started = time.monotonic()
        queue_seconds = started - arrived
        limits = [tool.definition.timeout]
        if call.timeout is not None:
            limits.append(call.timeout)
        if deadline is not None:
            limits.append(deadline - started)
        answer = await self._run(tool, call, arguments, who, timeout=min(limits))
        execution_seconds = time.monotonic() - started
        meters.wait.observe(queue_seconds)
        stats.executed(queue_seconds=queue_seconds, execution_seconds=execution_seconds)
        if isinstance(answer, Shown):
            if place is not None and self._results is not None:
                self._results.keep(
                    place, answer, execution_seconds=execution_seconds, started=started
                )
            return Outcome(
                call=call,
                text=answer.text,
                data=answer.data,
                queue_seconds=queue_seconds,
                execution_seconds=execution_seconds,
            )
        stats.errors += 1
        return Outcome(
            call=call,
            text=answer.words,
            reason=answer.reason,
            in_doubt=answer.in_doubt,
            queue_seconds=queue_seconds,
            execution_seconds=execution_seconds,
        )

    async def close(self) -> None:
        """Cancels what was given up and still runs. Threads are left to the end of the process."""
        for stray in self._strays:
            stray.cancel()
        if self._strays:
            await asyncio.wait(self._strays, timeout=_CLOSE_SECONDS)

    async def _run(
        self,
        tool: Registered,
        call: Call,
        arguments: dict[str, Any],
        who: Identity,
        *,
        timeout: float,
    ) -> Shown | _Failed:
        if timeout <= 0:
            self._admission.leave(tool.lane)
            return _Failed("TOOL_TIMEOUT", f"No time was left for the tool {call.tool}.")
        meters = tool.meters
        meters.started.inc()
        meters.inflight.inc()
        started = time.monotonic()
        context = ToolContext(
            tenant=who.tenant,
            user=who.user,
            call_id=call.call_id,
            agent_id=call.agent_id,
            idempotency_key=call.idempotency_key,
            deadline=started + timeout,
            record=self._record,
        )
        start = _in_thread if tool.blocking else _in_task
        execution = start(tool, arguments, context)
        try:
            await asyncio.wait((execution,), timeout=timeout)
            if execution.done():
                return _taken(tool, execution)
            return _Failed(
                "TOOL_TIMEOUT",
                f"The tool {call.tool} did not finish within {timeout:.3g} s.",
                in_doubt=_may_have_changed_something(tool),
            )
        finally:
            seconds = time.monotonic() - started
            tool.lane.took(seconds)
            meters.execution.observe(seconds)
            if execution.done():
                self._admission.leave(tool.lane)
                meters.inflight.dec()
                meters.completed.inc()
            else:
                self._admission.free_slot()
                self._give_up(tool, context, execution)

    def _give_up(
        self, tool: Registered, context: ToolContext, execution: "asyncio.Future[Shown | _Failed]"
    ) -> None:
        def ended(future: "asyncio.Future[Shown | _Failed]") -> None:
            self._strays.discard(future)
            self._admission.free_place(tool.lane)
            tool.meters.inflight.dec()
            tool.meters.completed.inc()
            if not future.cancelled():
                future.exception()  # nobody else will look at it

        self._strays.add(execution)
        execution.add_done_callback(ended)
        context.give_up()
        if isinstance(execution, asyncio.Task):
            execution.cancel()

    def _unknown(self, name: str, who: Identity) -> str:
        names = self._registry.names(who.tenant)
        known = ", ".join(names[:_NAMES_SHOWN]) or "none"
        more = ", …" if len(names) > _NAMES_SHOWN else ""
        return f"There is no tool named {name[:64]!r}. There are: {known}{more}."


def _found(tool: Registered, call: Call, kept: Kept) -> Outcome:
    tool.stats.cache_hits += 1
    tool.meters.cached[kept.tier].inc()
    return Outcome(
        call=call,
        text=kept.shown.text,
        data=kept.shown.data,
        execution_seconds=kept.execution_seconds,
        cache_tier=kept.tier,
        age=kept.age,
    )


def _may_have_changed_something(tool: Registered) -> bool:
    return tool.definition.effect is Effect.WRITE and not tool.definition.idempotent


def _taken(tool: Registered, execution: "asyncio.Future[Shown | _Failed]") -> Shown | _Failed:
    if execution.cancelled():
        # Not by us: something inside the tool was cancelled and it let that out.
        return _failure(tool, asyncio.CancelledError())
    return execution.result()


def _in_task(
    tool: Registered, arguments: dict[str, Any], context: ToolContext
) -> "asyncio.Future[Shown | _Failed]":
    async def work() -> Shown | _Failed:
        try:
            return output.show(await tool.definition.function(arguments, context))  # type: ignore[misc] # an async function, as `blocking` says
        except (Exception, SystemExit) as error:
            # The boundary to code of others: whatever it raises is its failure alone.
            return _failure(tool, error)

    return asyncio.get_running_loop().create_task(work(), name=f"tool-{tool.definition.name}")


def _in_thread(
    tool: Registered, arguments: dict[str, Any], context: ToolContext
) -> "asyncio.Future[Shown | _Failed]":
    """A thread of its own, and not one of a pool: a daemon that never ends hinders no exit.

    Their number is bounded by the places of the tool's lane.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Shown | _Failed] = loop.create_future()
    variables = contextvars.copy_context()
    function: Callable[..., Result] = tool.definition.function  # type: ignore[assignment] # not an async one, as `blocking` says

    def deliver(answer: Shown | _Failed) -> None:
        if not future.done():
            future.set_result(answer)

    def work() -> None:
        try:
            answer: Shown | _Failed = output.show(variables.run(function, arguments, context))
        except BaseException as error:
            # The top of a thread, and the boundary to code of others.
            answer = _failure(tool, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(deliver, answer)

    threading.Thread(target=work, name=f"tool-{tool.definition.name}", daemon=True).start()
    return future


def _failure(tool: Registered, error: BaseException) -> _Failed:
    if isinstance(error, ToolFailure):
        return _Failed(error.reason, error.message[:_MAX_WORDS])
    name = tool.definition.name
    if isinstance(error, OutcomeUnknown):
        return _Failed(
            "TOOL_OUTCOME_UNKNOWN",
            f"Whether {name} did what it was asked to is not known.",
            in_doubt=_may_have_changed_something(tool),
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
    if isinstance(error, NotShowable):
        return _Failed("TOOL_FAILED", f"The tool {name} gave a result that cannot be shown.")
    return _Failed("TOOL_FAILED", f"The tool {name} failed unexpectedly (error {error_id}).")
