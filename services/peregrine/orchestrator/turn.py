"""One run from its message to its terminal event: the model, its tools, the model again.

The loop holds nothing that the log does not: it can be begun from any point of a `Replay`, which
is how a new run and a taken-over one are the same code. What a step found out is in PostgreSQL
before anything that depends on it is written, or done where it cannot be done again; it is put
there while the model reads on, so nobody waits for it.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.kit import context, errors
from peregrine.kit.calls import Opened
from peregrine.orchestrator import prompt
from peregrine.orchestrator.facts import Facts, begin_request
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.plan import Plan
from peregrine.orchestrator.remembering import Remembering
from peregrine.orchestrator.replay import Replay, Step, add_usage
from peregrine.orchestrator.speech import Speech
from peregrine.orchestrator.toolcalls import InDoubt, ToolCalls
from peregrine.orchestrator.upstream import ModelCall, Upstream, from_proto
from peregrine.orchestrator.waterfall import Recorder

# Before a model call is made again because the gateway was lost; doubled each time, with jitter.
_FIRST_BACKOFF = 0.5
# By how much a call is ahead of what the database is given to do meanwhile.
_CALL_FIRST_SECONDS = 0.003
_MEMORY_FIRST_SECONDS = 0.0005
# By how much the first text is ahead of what is only prepared.
_FIRST_TEXT_FIRST_SECONDS = 0.001

_STOP_REASONS = {
    llm.STOP_REASON_END_TURN: pb.STOP_REASON_END_TURN,
    llm.STOP_REASON_TOOL_USE: pb.STOP_REASON_TOOL_USE,
    llm.STOP_REASON_MAX_TOKENS: pb.STOP_REASON_MAX_TOKENS,
    llm.STOP_REASON_STOP_SEQUENCE: pb.STOP_REASON_STOP_SEQUENCE,
    llm.STOP_REASON_REFUSAL: pb.STOP_REASON_REFUSAL,
    llm.STOP_REASON_PAUSE: pb.STOP_REASON_PAUSE,
}


class Turn:
    """Runs the loop once.

    Args:
      replay: where the run stands; kept up to date.
      ahead: the first model call, when it was made before the conversation was loaded.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        plan: Plan,
        replay: Replay,
        journal: Journal,
        upstream: Upstream,
        recorder: Recorder,
        metrics: Metrics,
        ahead: ModelCall | None,
    ) -> None:
        self._facts = facts
        self._ahead = ahead
        self._plan = plan
        self._replay = replay
        self._journal = journal
        self._upstream = upstream
        self._recorder = recorder
        self._metrics = metrics
        self._offered: Mapping[str, tools.RegisteredTool] = {}
        self._definitions: list[llm.ToolDefinition] = []
        self._system = ""
        self._truncated = False
        self._text_seen = False
        # Calls that will be made, each on its way before what it says is known.
        self._next_model_call: Opened | None = None
        self._append: Opened | None = None
        self._opening: asyncio.TimerHandle | None = None
        self.remembering: Remembering | None = None
        """Under way once `run` has returned, when there is something to remember."""

    def close(self) -> None:
        """Ends what is under way besides `run`; nothing, when nothing is."""
        if self.remembering is not None:
            self.remembering.close()
        if self._opening is not None:
            self._opening.cancel()
        for call in (self._next_model_call, self._append):
            if call is not None:
                call.cancel()

    def _announce(self) -> None:
        """The first event of a run; it travels together with the second."""
        self._journal.emit(
            run_started=pb.RunStarted(
                run_id=str(self._facts.run_id),
                agent=self._plan.agent,
                agent_version=self._facts.agent_version,
                conversation_id=str(self._facts.conversation_id),
            )
        )
        self._replay.started = True

    async def run(self, loaded: memory.BeginTurnResponse | None) -> pb.RunFinished:
        """Goes from where the run stands to the end of its answer.

        Args:
          loaded: the conversation's window, when it was loaded already.

        Raises:
          InDoubt: a WRITE tool may or may not have run; the run waits for a person.
          PeregrineError: the run has failed for this reason.
          Fenced: another process owns the run now.
        """
        if loaded is None:
            begun = time.monotonic()
            loaded = await self._upstream.begin_turn(begin_request(self._facts, self._plan))
            self._span(pb.SPAN_KIND_CONTEXT, "memory", 0, begun)
        self._journal.hold(loaded.ByteSize())
        await self._prepare(loaded)
        messages = list(loaded.context.messages)
        for step in self._replay.steps:
            if step.finished is not None:
                await self._missing_tools(step)
                messages += prompt.step_messages(step)
        while not self._complete():
            step = self._next_step()
            await self._model_call(step, messages)
            messages += prompt.step_messages(step)
        last = self._replay.steps[-1]
        await self._begin_remembering()
        return self._outcome(last)

    def _outcome(self, last: Step) -> pb.RunFinished:
        return pb.RunFinished(
            state=pb.RUN_STATE_SUCCEEDED,
            text=prompt.final_text(last),
            usage=self._replay.usage,
            steps=last.number,
            degradations=self._replay.degradations,
            truncated=self._truncated,
        )

    async def _prepare(self, loaded: memory.BeginTurnResponse) -> None:
        begun = time.monotonic()
        identity = self._facts.identity
        self._offered = await self._upstream.offered(
            identity.tenant, self._plan.tools, connect=not self._plan.lazy_tools
        )
        self._definitions = prompt.definitions(self._plan.tools, self._offered.values())
        self._system = prompt.system(self._plan, loaded)
        self._span(pb.SPAN_KIND_PROMPT_BUILD, "tools", 0, begun)
        degradations = [
            common.Degradation(what=f"tool {name}", reason="TOOL_NOT_FOUND")
            for name in self._plan.tools
            if not any(prompt.is_of(name, each) for each in self._offered.values())
        ]
        if not self._replay.started:
            self._announce()
        if self._replay.steps:
            return
        self._replay.degradations = degradations
        self._journal.emit(
            context_loaded=pb.ContextLoaded(
                tokens=loaded.context.tokens,
                messages=len(loaded.context.messages),
                omitted_messages=loaded.context.omitted_messages,
                degradations=degradations,
            )
        )
        self._metrics.agents.context_sent(self._plan.agent, loaded.context.tokens)

    # ---- steps ----

    def _complete(self) -> bool:
        """Whether the model has ended its turn."""
        if not self._replay.steps:
            return False
        last = self._replay.steps[-1]
        if last.finished is None:
            return False
        if not last.calls and last.finished.stop_reason != pb.STOP_REASON_PAUSE:
            return True
        if last.number >= self._plan.max_steps:
            self._truncated = True
            return True
        used = self._replay.usage
        if 0 < self._plan.max_total_tokens <= used.input_tokens + used.output_tokens:
            raise errors.ResourceExhausted(
                f"the run has used its {self._plan.max_total_tokens} tokens",
                reason="TOKEN_LIMIT_REACHED",
            )
        return False

    def _next_step(self) -> Step:
        unfinished = self._replay.unfinished
        if unfinished is None:
            unfinished = Step(len(self._replay.steps) + 1)
            self._replay.steps.append(unfinished)
        return unfinished

    async def _model_call(self, step: Step, messages: list[common.Message]) -> None:
        """Makes a step's model call and runs its tools; calls again if the gateway is lost."""
        request = self._request(step, messages)
        backoff = _FIRST_BACKOFF
        while True:
            try:
                await self._attempt(step, request)
                return
            except errors.Unavailable as error:
                if step.finished is not None or not context.retry_budget().take():
                    raise
                self._restart(step, error.reason)
                await asyncio.sleep(max(error.retry_after or 0.0, random.uniform(0, backoff)))
                backoff *= 2

    def _restart(self, step: Step, reason: str) -> None:
        step.restart()
        if step.sequence:
            self._journal.emit(
                generation_restarted=pb.GenerationRestarted(
                    step=step.number, discard_from=step.sequence, reason=reason
                )
            )

    def _request(self, step: Step, messages: list[common.Message]) -> llm.GenerateRequest:
        if self._definitions and prompt.is_last(self._plan, step.number):
            self._truncated = True
        return prompt.request(
            self._plan,
            self._facts.run_id,
            step.number,
            system=self._system,
            offered=self._definitions,
            messages=messages,
        )

    def _call_of(self, request: llm.GenerateRequest) -> ModelCall:
        """The call that was made ahead, when it is this very one; else a new one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if ahead.request == request:
                return ahead
            ahead.cancel()
        over, self._next_model_call = self._next_model_call, None
        return self._upstream.generate(request, self._timeout(), over=over)

    def _timeout(self) -> float:
        """Seconds that a model call gets: all that the run has."""
        return context.deadline_remaining() or self._plan.max_duration

    def _open_model_call(self, step: Step) -> None:
        """The results of this step's tools will be shown to the model, unless it was the last."""
        if self._next_model_call is None and step.number < self._plan.max_steps:
            self._next_model_call = self._upstream.open_generate(self._timeout())

    def _open_append(self) -> None:
        """The answer that begins here will be remembered."""
        self._append = self._upstream.open_append()

    async def _attempt(self, step: Step, request: llm.GenerateRequest) -> None:
        """Raises what the model call raised, or what ended the tools, not a group of both."""
        try:
            async with asyncio.TaskGroup() as group:
                answered = asyncio.Event()
                saved = group.create_task(self._saved(step, answered))
                with contextlib.closing(self._calls(step, group)) as calls:
                    await self._stream(step, request, calls, answered, saved)
                    if any(not self._harmless(call) for call in step.calls):
                        await self._journal.durable()
                    calls.step_complete()
                if step.calls:
                    self._open_model_call(step)
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error

    async def _missing_tools(self, step: Step) -> None:
        """Runs what a former owner left open of a finished step."""
        try:
            async with asyncio.TaskGroup() as group:
                self._calls(step, group).step_complete()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error

    async def _saved(self, step: Step, answered: asyncio.Event) -> None:
        """Waits until everything that the step builds on is in PostgreSQL."""
        if step.number > 1:
            # The model is slower than the database, so its call has the machine first.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CALL_FIRST_SECONDS):
                    await answered.wait()
            await self._journal.durable()

    def _calls(self, step: Step, group: asyncio.TaskGroup) -> ToolCalls:
        return ToolCalls(
            run_id=self._facts.run_id,
            step=step,
            plan=self._plan,
            offered=self._offered,
            journal=self._journal,
            upstream=self._upstream,
            recorder=self._recorder,
            metrics=self._metrics,
            group=group,
        )

    def _harmless(self, call: common.ToolUse) -> bool:
        registered = self._offered.get(call.tool)
        return registered is None or registered.tool.effect != common.EFFECT_WRITE

    async def _stream(
        self,
        step: Step,
        request: llm.GenerateRequest,
        calls: ToolCalls,
        answered: asyncio.Event,
        saved: "asyncio.Task[None]",
    ) -> None:
        """Reads one generation to its end: text to the log, complete calls to the tools.

        What came before is committed while the model thinks: nothing of this step is written, and
        no tool of it begins, until it is.
        """
        call = self._call_of(request)
        speech = Speech(step.number, self._journal, live=self._plan.streaming)
        first: float | None = None
        async for response in call.responses():
            if not saved.done():
                answered.set()
                waiting = time.monotonic()
                await saved
                self._span(pb.SPAN_KIND_PERSIST, "journal", step.number, waiting)
            for event in response.events:
                match event.WhichOneof("payload"):
                    case "text_delta":
                        first = first or time.monotonic()
                        speech.say(event.text_delta.text)
                    case "thinking_delta":
                        first = first or time.monotonic()
                        speech.think(event.thinking_delta.text)
                    case "tool_use":
                        first = first or time.monotonic()
                        speech.add(common.ContentBlock(tool_use=event.tool_use))
                        if calls.block_complete(event.tool_use):
                            # Its call leaves before the rest is looked at.
                            await asyncio.sleep(0)
                            await asyncio.sleep(0)
                            self._open_model_call(step)
                    case "tool_use_started":
                        calls.block_begun(event.tool_use_started)
                    case "opaque_block":
                        speech.add(common.ContentBlock(opaque=event.opaque_block))
                    case "started":
                        step.sequence = self._journal.emit(
                            step_started=pb.StepStarted(
                                step=step.number,
                                model=event.started.model,
                                simulated=event.started.simulated,
                            )
                        )
                    case "retrying":
                        self._journal.emit(
                            model_retrying=pb.ModelRetrying(
                                step=step.number,
                                error=event.retrying.error,
                                delay=event.retrying.delay,
                                model=event.retrying.model,
                            )
                        )
                    case "restarted":
                        raise errors.Unavailable(
                            "the model call began again", reason="GENERATION_RESTARTED"
                        )
                    case "failed":
                        raise from_proto(event.failed.error)
                    case "finished":
                        self._finish_step(step, event.finished, speech)
                        self._recorder.add_generation(
                            step.number,
                            self._plan.model,
                            event.finished.times,
                            begun=call.begun,
                            first=first,
                            ended=time.monotonic(),
                        )
            speech.flush()
            if first is not None and not self._text_seen:
                self._text_seen = True
                loop = asyncio.get_running_loop()
                self._opening = loop.call_later(_FIRST_TEXT_FIRST_SECONDS, self._open_append)
                self._metrics.first_text.observe(first - self._recorder.origin)
            await self._journal.room()
        if step.finished is None:
            raise errors.Unavailable(
                "the model's answer broke off", reason="GENERATION_BROKEN_OFF", retry_after=0.1
            )

    def _finish_step(self, step: Step, finished: llm.GenerationFinished, speech: Speech) -> None:
        speech.flush(end=True)
        step.finished = pb.StepFinished(
            step=step.number,
            stop_reason=_STOP_REASONS.get(finished.stop_reason, pb.STOP_REASON_UNSPECIFIED),
            usage=finished.usage,
            content=speech.blocks,
            cached=finished.cached,
        )
        add_usage(self._replay.usage, finished.usage)
        self._journal.emit(step_finished=step.finished)

    # ---- the end ----

    async def _begin_remembering(self) -> None:
        messages = [
            message for step in self._replay.steps for message in prompt.step_messages(step)
        ]
        if messages:
            request = memory.AppendMessagesRequest(
                conversation_id=str(self._facts.conversation_id),
                messages=messages,
                request_id=f"{self._facts.turn_id}:end",
                run_id=str(self._facts.run_id),
            )
            # What is remembered must not be said otherwise by a take-over, so until the end is
            # committed Redis has it: the loss of any one process takes nothing back.
            await self._journal.sent()
            self.remembering = Remembering(request, self._upstream, over=self._append)
            # Memory takes longer than the database, so its call has the machine first.
            await asyncio.sleep(_MEMORY_FIRST_SECONDS)

    async def remember(self) -> pb.RunFinished:
        """Waits until the turn is in its conversation, and says how the run ends: an answer is
        not lost for a memory that is away.

        Raises: as `run`.
        """
        if self.remembering is not None:
            forgotten = await self.remembering.finish()
            self._span(pb.SPAN_KIND_PERSIST, "memory", 0, self.remembering.begun)
            if forgotten:
                self._replay.degradations.append(
                    common.Degradation(what="memory", reason=forgotten)
                )
        return self._outcome(self._replay.steps[-1])

    def _span(self, kind: "pb.SpanKind", name: str, step: int, begun: float) -> None:
        self._recorder.add(kind, name, step, begun, time.monotonic())


def _first(group: BaseExceptionGroup) -> BaseException:
    """The one error that ended a group of tasks: a doubt before anything else."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, InDoubt)), flat[0])
