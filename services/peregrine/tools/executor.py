"""The way of a call through a worker: cache, circuit, place, ledger, attempts, and what follows.

A WRITE goes through the ledger, so that it happens once. Once it has begun, it is worked on by a
task that no caller can cut, because its outcome must be recorded: who goes away takes back the
wish, and the change gets 3 s to end before it is cancelled. What runs, and how often, is in
`attempts`.
"""

import asyncio
import time

from peregrine.kit.context import Identity
from peregrine.kit.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from peregrine.tools.admission import Admission, Overloaded
from peregrine.tools.arguments import ArgumentsInvalid
from peregrine.tools.attempts import ANSWER_SECONDS, Attempts, Work
from peregrine.tools.calls import Call, Outcome
from peregrine.tools.definition import Effect, RecordMetric
from peregrine.tools.effects import Keyed, first_outcome
from peregrine.tools.execution import Failed
from peregrine.tools.ledger import Found, Ledger
from peregrine.tools.output import Shown
from peregrine.tools.registry import Registered, Registry
from peregrine.tools.results import Kept, Results

_CLOSE_SECONDS = 2.0
# For a change whose caller went away.
_GRACE_SECONDS = 3.0
_NAMES_SHOWN = 50
_NOT_MADE = frozenset({"ARGUMENTS_INVALID", "TOOL_DISABLED", "TOOL_UNAVAILABLE"})


class Executor:
    def __init__(
        self,
        *,
        registry: Registry,
        admission: Admission,
        record_metric: RecordMetric,
        results: Results | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`results`: those that are kept; without it every call is executed. `ledger`: makes a
        WRITE happen once; without it every call of one is executed."""
        self._registry = registry
        self._admission = admission
        self._attempts = Attempts(admission=admission, record_metric=record_metric)
        self._results = results
        self._ledger = ledger
        self._changes: dict[asyncio.Task[Outcome], Work] = {}

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
        deadline = None if remaining is None else time.monotonic() + remaining
        tool = self._registry.get(call.tool, who.tenant)
        if tool is None:
            words = self._unknown(call.tool, who)
            outcome = Outcome(call=call, reason="TOOL_NOT_FOUND", text=words)
            return await self._first_outcome(call, who) or outcome
        tool.stats.calls += 1
        try:
            outcome = await self._answer(tool, call, who, deadline)
        except ResourceExhausted:
            tool.stats.errors += 1
            first = None
            if tool.definition.effect is Effect.WRITE:
                first = await self._first_outcome(call, who)
            if first is None:
                raise
            return first
        if outcome.reason:
            tool.stats.errors += 1
        if outcome.reason in _NOT_MADE and tool.definition.effect is Effect.WRITE:
            outcome = await self._first_outcome(call, who) or outcome
        return outcome

    async def _first_outcome(self, call: Call, who: Identity) -> Outcome | None:
        """A change may have happened although this call of it cannot be made (any more)."""
        return None if self._ledger is None else await first_outcome(self._ledger, call, who)

    async def forget(self, name: str, arguments: bytes, who: Identity) -> None:
        """Forgets the kept results of a tool, or that for these arguments (JSON).

        Raises:
          NotFound: TOOL_NOT_FOUND. InvalidArgument: REQUEST_INVALID.
          Unavailable: CACHE_UNAVAILABLE.
        """
        tool = self._registry.get(name, who.tenant)
        if tool is None:
            raise NotFound(self._unknown(name, who), reason="TOOL_NOT_FOUND")
        if self._results is None:
            raise Unavailable("no results are kept here", reason="CACHE_UNAVAILABLE")
        try:
            given = tool.check.read(arguments) if arguments else None
        except ArgumentsInvalid as problem:
            raise InvalidArgument(str(problem), reason="REQUEST_INVALID") from None
        try:
            await self._results.forget(tool.definition, given, who)
        except Unavailable as error:
            raise Unavailable(
                "the cache could not be told", reason="CACHE_UNAVAILABLE", retry_after=1.0
            ) from error

    async def close(self) -> None:
        """Cancels what still runs. Threads are left to the end of the process."""
        for work in self._changes.values():
            _abandon(work)
        if self._changes:
            await asyncio.wait(self._changes, timeout=_CLOSE_SECONDS)
        await self._attempts.close()

    async def _answer(
        self, tool: Registered, call: Call, who: Identity, deadline: float | None
    ) -> Outcome:
        definition = tool.definition
        try:
            arguments = tool.check.read(call.arguments)
        except ArgumentsInvalid as problem:
            return Outcome(call=call, reason="ARGUMENTS_INVALID", text=str(problem))
        if tool.disabled:
            words = f"The tool {call.tool} is off: {tool.disabled}."
            return Outcome(call=call, reason="TOOL_DISABLED", text=words)
        work = Work(tool=tool, call=call, arguments=arguments, who=who, deadline=deadline)
        if self._results is not None:
            work.place = await self._results.place(definition, arguments, who)
            if work.place is not None:
                kept = await self._results.find(work.place)
                tool.meters.cached[kept.tier if kept else "none"].inc()
                if kept is not None:
                    tool.stats.cache_hits += 1
                    return _found(call, kept)
        if definition.effect is not Effect.WRITE or self._ledger is None:
            return await self._perform(work)
        work.keyed = Keyed(
            ledger=self._ledger, definition=definition, arguments=arguments, call=call, who=who
        )
        return await self._change(work)

    async def _change(self, work: Work) -> Outcome:
        """Performs a WRITE in a task of its own, which outlives its caller by a little."""
        work.abandoned = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._perform(work), name=f"change-{work.call.tool}")
        self._changes[task] = work
        task.add_done_callback(self._changed)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if work.begun:
                asyncio.get_running_loop().call_later(_GRACE_SECONDS, _abandon, work)
                if work.context is not None:
                    work.context.give_up()
            else:
                task.cancel()
            raise

    def _changed(self, task: "asyncio.Task[Outcome]") -> None:
        del self._changes[task]
        if not task.cancelled():
            task.exception()  # the caller has seen it, or nobody is left to

    async def _perform(self, work: Work) -> Outcome:
        """Executes a call that the cache did not answer."""
        while True:
            outcome = await self._perform_once(work)
            if outcome is None and work.keyed is not None:
                until = None if work.deadline is None else work.deadline - ANSWER_SECONDS
                outcome = await work.keyed.wait(until)
            if outcome is not None:
                return outcome

    async def _perform_once(self, work: Work) -> Outcome | None:
        """None when the same change is under way already."""
        tool, call = work.tool, work.call
        if refused := tool.circuit.refused_for():
            tool.meters.refused.inc()
            words = f"The tool {call.tool} does not work at the moment."
            return Outcome(call=call, reason="TOOL_UNAVAILABLE", text=words, retry_after=refused)
        probing = True
        try:
            arrived = time.monotonic()
            await self._enter(work)
            started = time.monotonic()
            if work.keyed is not None:
                begun = await self._begin(tool, work.keyed)
                if begun is not Found.BEGUN:
                    return begun if isinstance(begun, Outcome) else None
            timeout = work.timeout()
            work.begun = True
            answer = await self._attempts.run(work, timeout)
            probing = False
            _tell_circuit(tool, answer)
        finally:
            if probing:
                tool.circuit.dropped()
        # To the microsecond, as a kept result says it.
        seconds = round(time.monotonic() - started, 6)
        tool.meters.wait.observe(started - arrived)
        tool.stats.executed(queue_seconds=started - arrived, execution_seconds=seconds)
        outcome = _outcome(call, answer, queue_seconds=started - arrived, execution_seconds=seconds)
        await self._follow_up(work, answer, outcome, started)
        return outcome

    async def _enter(self, work: Work) -> None:
        tool, call = work.tool, work.call
        tool.meters.requests.inc()
        limit = None if work.deadline is None else max(work.deadline - time.monotonic(), 0.0)
        try:
            await self._admission.enter(tool.lane, priority=call.priority, limit=limit)
        except Overloaded as refusal:
            tool.meters.shed.inc()
            raise ResourceExhausted(
                f"no place for the tool {call.tool!r} within the time",
                reason="TOOLS_OVERLOADED",
                metadata={"tool": call.tool},
                retry_after=refusal.retry_after,
            ) from None

    async def _begin(self, tool: Registered, keyed: Keyed) -> Outcome | Found:
        """Asks the ledger; gives the place back unless the change may begin."""
        begun: Outcome | Found = Found.IN_DOUBT
        try:
            begun = await keyed.begin()
        finally:
            if begun is not Found.BEGUN:
                self._admission.leave(tool.lane)
        return begun

    async def _follow_up(
        self, work: Work, answer: Shown | Failed, outcome: Outcome, started: float
    ) -> None:
        if work.keyed is not None:
            await work.keyed.end(answer, outcome)
        if isinstance(answer, Shown) and work.place is not None and self._results is not None:
            self._results.keep(
                work.place, answer, execution_seconds=outcome.execution_seconds, started=started
            )
        changed = isinstance(answer, Shown) or not answer.nothing_done
        if work.tool.definition.invalidates and changed and self._results is not None:
            await self._results.invalidate(work.tool.definition, work.arguments, work.who)

    def _unknown(self, name: str, who: Identity) -> str:
        names = self._registry.names(who.tenant)
        known = ", ".join(names[:_NAMES_SHOWN]) or "none"
        more = ", …" if len(names) > _NAMES_SHOWN else ""
        return f"There is no tool named {name[:64]!r}. There are: {known}{more}."


def _abandon(work: Work) -> None:
    if work.abandoned is not None and not work.abandoned.done():
        work.abandoned.set_result(None)


def _tell_circuit(tool: Registered, answer: Shown | Failed) -> None:
    if isinstance(answer, Shown) or not (answer.broken or answer.unfinished):
        tool.circuit.succeeded()
    elif answer.broken:
        tool.circuit.failed(timeout=answer.reason.endswith("_TIMEOUT"))
    else:
        tool.circuit.dropped()


def _outcome(
    call: Call, answer: Shown | Failed, *, queue_seconds: float, execution_seconds: float
) -> Outcome:
    if isinstance(answer, Shown):
        return Outcome(
            call=call,
            text=answer.text,
            data=answer.data,
            queue_seconds=queue_seconds,
            execution_seconds=execution_seconds,
        )
    return Outcome(
        call=call,
        text=answer.words,
        reason=answer.reason,
        in_doubt=answer.in_doubt,
        queue_seconds=queue_seconds,
        execution_seconds=execution_seconds,
    )


def _found(call: Call, kept: Kept) -> Outcome:
    return Outcome(
        call=call,
        text=kept.shown.text,
        data=kept.shown.data,
        execution_seconds=kept.execution_seconds,
        cache_tier=kept.tier,
        age=kept.age,
    )
