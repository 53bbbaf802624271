"""The tool calls of one step: each starts as soon as it may, and reports as it finishes.

A PURE or READ tool may start the moment its block is complete in the model's stream. A WRITE
starts only after the model's call is committed, and after its own start is. A take-over that finds
a WRITE started and not finished asks for it again under the same key: the worker's ledger gives
the first outcome, or says that nobody knows, and then so does the run.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Mapping

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.kit import context, errors
from peregrine.kit.calls import Opened
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.plan import Plan
from peregrine.orchestrator.replay import Step, fingerprint
from peregrine.orchestrator.upstream import Upstream, to_proto
from peregrine.orchestrator.waterfall import Recorder

_PARALLEL = 16
# How long a call may be without a place: new workers are there long before. Whoever is told to come
# back asks two workers, comes back when told or a little later, and not ever more often.
_ROOM_SECONDS = 60.0
_WORKERS_ASKED = 2
_LONGEST_DELAY = 5.0
# A worker that was lost during a call: others are asked, and its ledger entry runs out after 3 s.
_LOST_TRIES = 4
_LOST_DELAY = 0.25


class InDoubt(Exception):
    """Nobody knows whether a WRITE tool ran."""

    def __init__(self, call: common.ToolUse) -> None:
        super().__init__(call.tool)
        self.call = call


class ToolCalls:
    """Runs the calls of one attempt at a step, inside a task group of the caller's."""

    def __init__(
        self,
        *,
        run_id: uuid.UUID,
        step: Step,
        plan: Plan,
        offered: Mapping[str, tools.RegisteredTool],
        journal: Journal,
        upstream: Upstream,
        recorder: Recorder,
        metrics: Metrics,
        group: asyncio.TaskGroup,
    ) -> None:
        self._run_id = run_id
        self._step = step
        self._plan = plan
        self._offered = offered
        self._journal = journal
        self._upstream = upstream
        self._recorder = recorder
        self._metrics = metrics
        self._group = group
        self._slots = asyncio.Semaphore(_PARALLEL if plan.parallel_tools else 1)
        self._keys: dict[str, str] = {}
        self._begun: set[str] = set()
        # Calls that are on their way while the model writes their arguments.
        self._open: dict[str, Opened] = {}
        self._occurrences: dict[tuple[str, bytes], int] = {}

    def block_begun(self, started: llm.ToolUseStarted) -> None:
        """The model begins to write a call, which will be made as soon as it is whole."""
        registered = self._offered.get(started.tool)
        if registered is None or not self._eager(started.tool) or len(self._open) >= _PARALLEL:
            return
        if started.call_id not in self._open:
            self._open[started.call_id] = self._upstream.open_tool(registered)

    def close(self) -> None:
        """Ends the calls that the model began and did not make."""
        for call in self._open.values():
            call.cancel()
        self._open.clear()

    def block_complete(self, call: common.ToolUse) -> bool:
        """The model has said the whole call, and goes on writing. True when it is made now."""
        eager = self._eager(call.tool)
        if eager:
            self._begin(call, eager=True)
        return eager

    def step_complete(self) -> None:
        """The model has ended: begin what has not begun, unless its result is there already."""
        for call in self._step.calls:
            self._key(call)  # also of those that are there, which count
            if call.call_id not in self._begun and call.call_id not in self._step.results:
                self._begin(call, eager=False)

    def _eager(self, tool: str) -> bool:
        return self._plan.eager_tools and self._plan.parallel_tools and self._harmless(tool)

    def _harmless(self, tool: str) -> bool:
        registered = self._offered.get(tool)
        return registered is None or registered.tool.effect in (
            common.EFFECT_PURE,
            common.EFFECT_READ,
        )

    def _begin(self, call: common.ToolUse, *, eager: bool) -> None:
        self._begun.add(call.call_id)
        key = self._key(call)
        # The call is on its way before its event is.
        self._group.create_task(self._run(call, key, eager=eager))
        if eager:
            # Said before whatever the model says next.
            self._say_started(call, eager=True)

    def _key(self, call: common.ToolUse) -> str:
        """The same for every try of this call, by whichever owner of the run."""
        key = self._keys.get(call.call_id)
        if key is None:
            # The same call said twice in one step is two effects, told apart by their order.
            asked = fingerprint(call.tool, call.arguments.utf8)
            occurrence = self._occurrences[asked] = self._occurrences.get(asked, 0) + 1
            name = f"{self._step.number}/{call.tool}/{asked[1].decode(errors='replace')}"
            key = str(uuid.uuid5(self._run_id, f"{name}/{occurrence}"))
            self._keys[call.call_id] = key
        return key

    def _say_started(self, call: common.ToolUse, *, eager: bool) -> None:
        registered = self._offered.get(call.tool)
        started = pb.ToolCallStarted(
            step=self._step.number,
            call_id=call.call_id,
            tool=call.tool,
            arguments=call.arguments,
            effect=registered.tool.effect if registered else common.EFFECT_UNSPECIFIED,
            eager=eager,
        )
        self._journal.emit(tool_call_started=started)
        self._step.started_calls[call.call_id] = started

    async def _run(self, call: common.ToolUse, key: str, *, eager: bool) -> None:
        async with self._slots:
            registered = self._offered.get(call.tool)
            repeated = False
            if not eager:
                before = self._step.started_calls.get(call.call_id)
                repeated = before is not None and before.effect == common.EFFECT_WRITE
                if repeated and registered is None:
                    raise InDoubt(call)
                self._say_started(call, eager=False)
            kept = self._step.reuse(call)
            if kept is not None:
                result = pb.ToolCallFinished()
                result.CopyFrom(kept)
                result.call_id, result.step, result.reused = call.call_id, self._step.number, True
            elif registered is None:
                result = self._failed(call, _not_offered(call.tool))
            else:
                if not self._harmless(call.tool):
                    await self._journal.durable()
                result = await self._execute(call, registered, key, repeated=repeated)
            self._step.results[call.call_id] = result
            self._journal.emit(tool_call_finished=result)

    async def _execute(
        self,
        call: common.ToolUse,
        registered: tools.RegisteredTool,
        key: str,
        *,
        repeated: bool,
    ) -> pb.ToolCallFinished:
        """`repeated`: a WRITE that a former owner of the run may have had run."""
        request = tools.ToolCall(
            call_id=call.call_id,
            tool=call.tool,
            arguments=call.arguments,
            idempotency_key=key,
            agent_id=self._plan.agent,
        )
        begun = time.monotonic()
        self._metrics.tool_calls.inc()
        try:
            answer = await self._answered(request, registered)
        except errors.PeregrineError as error:
            if not self._harmless(call.tool) and (repeated or _may_have_run(error)):
                raise InDoubt(call) from error
            result = self._failed(call, error)
        else:
            unread = answer.error.reason == "LEDGER_UNAVAILABLE"
            if answer.status == tools.TOOL_STATUS_IN_DOUBT or (repeated and unread):
                raise InDoubt(call)
            result = self._translate(call, answer)
            if result.cached:
                self._metrics.tool_calls_cached.inc()
            self._record(call.tool, answer, begun, time.monotonic())
        self._metrics.tool_finished(self._plan.agent, call.tool, result, time.monotonic() - begun)
        return result

    async def _answered(
        self, request: tools.ToolCall, registered: tools.RegisteredTool
    ) -> tools.ToolResult:
        """Asks another worker when one is lost: a READ may run twice, a WRITE has its key."""
        # One that was lost says so at once; one that hangs has had its time.
        until = time.monotonic() + registered.tool.timeout.ToNanoseconds() / 1e9
        for attempt in range(1, _LOST_TRIES + 1):
            try:
                return await self._admitted(request, registered)
            except errors.Unavailable:
                late = time.monotonic() > until
                if late or attempt == _LOST_TRIES or not context.retry_budget().take():
                    raise
                await asyncio.sleep(_LOST_DELAY * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _admitted(
        self, request: tools.ToolCall, registered: tools.RegisteredTool
    ) -> tools.ToolResult:
        """Asks another worker when one has no room, and again after the delay that it was told, for
        as long as the run has time: a pool that grows fails nobody."""
        left = context.deadline_remaining()
        until = time.monotonic() + min(_ROOM_SECONDS, _ROOM_SECONDS if left is None else left)
        attempt = 0
        while True:
            attempt += 1
            over = self._open.pop(request.call_id, None)
            try:
                return await self._upstream.execute_tool(request, registered, over=over)
            except errors.ResourceExhausted as error:
                if error.retry_after is None:
                    raise
                if attempt % _WORKERS_ASKED:
                    continue
                delay = min(error.retry_after, _LONGEST_DELAY) * random.uniform(1.0, 1.5)
                if time.monotonic() + delay >= until:
                    raise
            with self._metrics.tool_calls_waiting.track_inprogress():
                await asyncio.sleep(delay)

    def _translate(self, call: common.ToolUse, answer: tools.ToolResult) -> pb.ToolCallFinished:
        succeeded = answer.status == tools.TOOL_STATUS_SUCCEEDED
        result = pb.ToolCallFinished(
            step=self._step.number,
            call_id=call.call_id,
            tool=call.tool,
            status=pb.TOOL_CALL_STATUS_SUCCEEDED if succeeded else pb.TOOL_CALL_STATUS_FAILED,
            content=answer.content,
            execution_time=answer.execution_time,
            cached=answer.cache_tier not in (tools.CACHE_TIER_UNSPECIFIED, tools.CACHE_TIER_NONE),
        )
        if not succeeded:
            result.error.CopyFrom(answer.error)
        return result

    def _failed(self, call: common.ToolUse, error: errors.PeregrineError) -> pb.ToolCallFinished:
        return pb.ToolCallFinished(
            step=self._step.number,
            call_id=call.call_id,
            tool=call.tool,
            status=pb.TOOL_CALL_STATUS_FAILED,
            content=[common.ContentBlock(text=error.message)],
            error=to_proto(error),
        )

    def _record(self, tool: str, answer: tools.ToolResult, begun: float, ended: float) -> None:
        """Tells the worker's own time from its queue and from the way there and back."""
        own = answer.execution_time.ToNanoseconds() / 1e9
        queued = answer.queue_time.ToNanoseconds() / 1e9
        if answer.cache_tier not in (tools.CACHE_TIER_UNSPECIFIED, tools.CACHE_TIER_NONE):
            own = 0.0  # the time it says is of the execution that filled the cache
        running = max(ended - own, begun)
        waiting = max(running - queued, begun)
        number = self._step.number
        self._recorder.add(pb.SPAN_KIND_NETWORK, tool, number, begun, waiting)
        self._recorder.add(pb.SPAN_KIND_QUEUE, tool, number, waiting, running)
        self._recorder.add(pb.SPAN_KIND_TOOL, tool, number, running, ended)


def _not_offered(tool: str) -> errors.NotFound:
    return errors.NotFound(
        f"there is no tool named {tool[:64]!r} for this agent", reason="TOOL_NOT_FOUND"
    )


def _may_have_run(error: errors.PeregrineError) -> bool:
    """Whether a call that failed this way may have had its effect."""
    return not isinstance(
        error, errors.InvalidArgument | errors.NotFound | errors.ResourceExhausted
    )
