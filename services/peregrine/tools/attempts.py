"""Running what was let in: once, or again where that is harmless, and giving up in time.

Each execution is a task of its own (an async tool) or a thread of its own (a blocking one), and
the call that asked for it only watches: it takes the result, or at the deadline gives up, cancels
and answers TOOL_TIMEOUT at once, whatever the tool does about it. A tool that goes on nevertheless
keeps its place in its own lane until it ends, but no slot of the worker: it can use up the places
of its own tool only.

What may be repeated is tried again, when its tool says how often, the failure may pass and the
retry budget of the run allows it.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from peregrine.kit import context as call_context
from peregrine.kit.context import Identity
from peregrine.tools import execution
from peregrine.tools.admission import Admission
from peregrine.tools.calls import Call
from peregrine.tools.definition import RecordMetric, ToolContext
from peregrine.tools.effects import Keyed
from peregrine.tools.execution import Execution, Failed
from peregrine.tools.output import Shown
from peregrine.tools.registry import Registered
from peregrine.tools.results import Place

# The answer must still reach the caller, who stops waiting at the deadline.
ANSWER_SECONDS = 0.02

_CLOSE_SECONDS = 2.0
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 1.0


@dataclass(slots=True, kw_only=True)
class Work:
    """A call with usable arguments, on its way. `deadline` is on `time.monotonic()`.

    `keyed` and `abandoned` are there for a WRITE; `abandoned` is done when nobody wants it any
    more, and `begun` says that it may have changed something. `given_up`: it still runs.
    """

    tool: Registered
    call: Call
    arguments: dict[str, Any]
    who: Identity
    deadline: float | None
    place: Place | None = None
    keyed: Keyed | None = None
    begun: bool = False
    given_up: bool = False
    abandoned: asyncio.Future[None] | None = None
    context: ToolContext | None = field(default=None, repr=False)

    def timeout(self) -> float:
        """Seconds that an execution which begins now may take."""
        limits = [self.tool.definition.timeout]
        if self.call.timeout is not None:
            limits.append(self.call.timeout)
        if self.deadline is not None:
            limits.append(self.deadline - ANSWER_SECONDS - time.monotonic())
        return min(limits)


class Attempts:
    """Those of one worker. `run` gives back the slot and the place that the work was let into."""

    def __init__(self, *, admission: Admission, record_metric: RecordMetric) -> None:
        self._admission = admission
        self._record = record_metric
        self._strays: set[Execution] = set()

    async def close(self) -> None:
        """Cancels what was given up and has not ended. Threads are left to the process's end."""
        for stray in self._strays:
            stray.cancel()
        if self._strays:
            await asyncio.wait(self._strays, timeout=_CLOSE_SECONDS)

    async def run(self, work: Work, timeout: float) -> Shown | Failed:
        """Executes until it succeeds, fails for good, or may not be tried again."""
        lane, definition = work.tool.lane, work.tool.definition
        if timeout <= 0:
            self._admission.leave(lane)
            words = f"No time was left for the tool {work.call.tool}."
            return Failed(reason="TOOL_TIMEOUT", words=words, nothing_done=True, unfinished=True)
        began = time.monotonic()
        work.context = ToolContext(
            tenant=work.who.tenant,
            user=work.who.user,
            call_id=work.call.call_id,
            agent_id=work.call.agent_id,
            idempotency_key=work.call.idempotency_key,
            deadline=began + timeout,
            record=self._record,
        )
        tries = 1 + (definition.retries if definition.repeatable else 0)
        try:
            for number in range(1, tries + 1):
                answer = await self._attempt(work, work.context, timeout)
                if isinstance(answer, Shown) or not answer.transient or number == tries:
                    break
                pause = random.uniform(0, min(_FIRST_PAUSE * 2**number, _LAST_PAUSE))
                if pause >= work.context.remaining() or not call_context.retry_budget().take():
                    break
                await asyncio.sleep(pause)
            return answer
        finally:
            lane.took(time.monotonic() - began)
            if work.given_up:
                self._admission.free_slot()
            else:
                self._admission.leave(lane)

    async def _attempt(self, work: Work, context: ToolContext, timeout: float) -> Shown | Failed:
        tool = work.tool
        meters, definition = tool.meters, tool.definition
        meters.started.inc()
        meters.inflight.inc()
        started = time.monotonic()
        running = execution.start(definition, work.arguments, context, blocking=tool.blocking)
        watched = (running,) if work.abandoned is None else (running, work.abandoned)
        try:
            await asyncio.wait(
                watched, timeout=context.remaining(), return_when=asyncio.FIRST_COMPLETED
            )
            if running.done():
                return execution.taken(definition, running)
            if work.abandoned is not None and work.abandoned.done():
                return execution.abandoned(definition)
            return execution.too_slow(definition, timeout)
        finally:
            meters.execution.observe(time.monotonic() - started)
            if running.done():
                meters.inflight.dec()
                meters.completed.inc()
            else:
                work.given_up = True
                self._give_up(tool, context, running)

    def _give_up(self, tool: Registered, context: ToolContext, running: Execution) -> None:
        def ended(future: Execution) -> None:
            self._strays.discard(future)
            self._admission.free_place(tool.lane)
            tool.meters.inflight.dec()
            tool.meters.completed.inc()
            if not future.cancelled():
                future.exception()  # nobody else will look at it

        self._strays.add(running)
        running.add_done_callback(ended)
        context.give_up()
        if isinstance(running, asyncio.Task):
            running.cancel()
