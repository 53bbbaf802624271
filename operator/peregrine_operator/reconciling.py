"""One look at an agent or a tool: read, decide, do it, write down how it went.

What goes wrong is told in the status, with what to do, and tried again: after the delay that the
service asked for, or a doubling one. A definition that the service refuses is left alone until it
changes, or for five minutes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from google.protobuf.message import Message

from peregrine.client import resources
from peregrine.client.resources import ResourceError
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError
from peregrine_operator import decisions
from peregrine_operator.decisions import Held, Plan, Ready, Situation, Step, Tools
from peregrine_operator.kubernetes import ApiError, Key
from peregrine_operator.metrics import Metrics
from peregrine_operator.services import NAMES, Services
from peregrine_operator.view import Object, View
from peregrine_operator.work import Work
from peregrine_operator.writing import Event, Gone, Writer

# Of one look, all its calls together.
_LOOK_SECONDS = 30.0
_RETRIES = 2
_BACKENDS = ("builtin", "http", "mcp", "python")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a look ended. `failed`: it is to be made again, after `after` seconds or the usual."""

    name: str
    failed: bool = False
    after: float | None = None


class Reconciler:
    """Looks at agents and tools. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        *,
        view: View,
        work: Work,
        services: Services,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._work = work
        self._services = services
        self._writer = writer
        self._metrics = metrics
        self._clock = clock
        # What was refused: generation, and until when it is left alone.
        self._refused: dict[str, tuple[int, float]] = {}

    async def run(self, workers: int) -> None:
        """Looks at what `work` gives, this many resources at a time, for ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._worker(), name=f"reconcile-{number}")

    async def _worker(self) -> None:
        while True:
            key, waited = await self._work.take()
            self._metrics.queue_time.observe(waited)
            outcome = Outcome("failed", failed=True)
            try:
                outcome = await self.look(key)
            finally:
                after = self._work.done(key, failed=outcome.failed, after=outcome.after)
            self._metrics.reconciles.labels(key.kind, outcome.name).inc()
            if outcome.failed:
                log.info("look_failed", resource=str(key), outcome=outcome.name, again_after=after)

    async def look(self, key: Key) -> Outcome:
        """One look; its failures are outcomes."""
        one = self._view.get(key)
        if one is None:
            self._work.forget(key)
            return Outcome("unchanged")
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                with context.bind(retries=_RETRIES, traceparent=context.new_traceparent()):
                    return await self._reconcile(one)
        except Gone:
            return Outcome("unchanged")
        except ApiError as error:
            conflict = error.status == 409
            if not conflict:
                log.warning("status_not_written", resource=str(key), error=error)
            return Outcome("waiting" if conflict else "failed", failed=True)
        except TimeoutError:
            log.warning("look_timed_out", resource=str(key), seconds=_LOOK_SECONDS)
            return Outcome("failed", failed=True)
        except Exception as error:
            # The top of a background task: the other resources are still to be looked at.
            self._metrics.failures.inc()
            log.error("look_broke", resource=str(key), error=type(error).__name__, exc_info=error)
            return Outcome("failed", failed=True)
        finally:
            self._metrics.reconcile_time.labels(key.kind).observe(time.perf_counter() - began)

    async def _reconcile(self, one: Object) -> Outcome:
        definition, problems = _definition(one)
        situation = self._situation(one, problems)
        plan = decisions.decide(situation)
        match plan.step:
            case Step.NOTHING:
                return Outcome("unchanged")
            case Step.RELEASE:
                await self._writer.finalizer(one, present=False)
                self._forget(one)
                return Outcome("removed")
            case Step.REMOVE:
                return await self._remove(one)
            case Step.APPLY if definition is not None:
                return await self._apply(situation, definition, plan)
        if plan.ready is not None and plan.ready.reason in ("Invalid", "Conflicted"):
            await self._say(one, plan.ready)
            return Outcome("refused")
        if situation.refused:
            return Outcome("refused")
        situation = await self._with_tools(situation)
        situation = await self._with_server(situation)
        ready = decisions.judge(situation)
        if ready is None or not await self._say(one, ready, situation.held, situation.tools):
            return Outcome("unchanged")
        return Outcome("applied")

    def _situation(self, one: Object, problems: tuple[str, ...]) -> Situation:
        kind, name = one.claim
        held = self._services.holds(kind)
        owner = self._view.owner(one.claim)
        generation, until = self._refused.get(one.uid, (-1, 0.0))
        return Situation(
            resource=one,
            problems=problems,
            owner=owner.key if owner else None,
            held=held.get(name) if held is not None else None,
            known=held is not None,
            refused=generation == one.generation and self._clock() < until,
        )

    async def _with_tools(self, situation: Situation) -> Situation:
        tools = await self._services.tools_of(situation.resource.tools)
        return replace(situation, tools=tools)

    async def _with_server(self, situation: Situation) -> Situation:
        """A tool of an MCP server is connected when it is asked for by name: only then it tells."""
        one = situation.resource
        if "mcp" not in one.spec or situation.held is None:
            return situation
        name = one.claim[1]
        found = await self._services.ask((name,)) or {}
        return replace(situation, held=found.get(name, situation.held))

    async def _apply(self, situation: Situation, definition: Message, plan: Plan) -> Outcome:
        one = situation.resource
        if decisions.FINALIZER not in one.finalizers:
            one = await self._writer.finalizer(one, present=True)
        kind, name = one.claim
        try:
            held = await self._services.apply(definition, decisions.request_id(one))
        except PeregrineError as error:
            return await self._failed(one, error)
        before = one.status.get("applied") or {}
        changed = held.version != before.get("version") or held.time != before.get("time")
        situation = await self._with_tools(replace(situation, resource=one, held=held, known=True))
        situation = await self._with_server(situation)
        ready = decisions.judge(situation) or Ready(
            "Unknown",
            "ToolsUnknown",
            "applied; whether its tools exist is not known: the tools service is away",
        )
        await self._say(one, ready, held, situation.tools, applied=True)
        if plan.drift and changed:
            self._metrics.drift.labels(kind).inc()
            said = (
                f"{name} {plan.drift} in {NAMES[kind]} by somebody else: applied again as version "
                f"{held.version}"
            )
            self._writer.tell(one, Event("DriftRepaired", said, warning=True))
        if kind == "Tool":
            for key in self._view.users(name):
                self._work.add(key)
        return Outcome("applied")

    async def _remove(self, one: Object) -> Outcome:
        kind, name = one.claim
        try:
            await self._services.delete(kind, name, decisions.request_id(one, deleting=True))
        except PeregrineError as error:
            return await self._failed(one, error, deleting=True)
        await self._writer.finalizer(one, present=False)
        self._forget(one)
        if kind == "Tool":
            for key in self._view.users(name):
                self._work.add(key)
        heir = self._view.owner(one.claim)
        if heir is not None:
            self._work.add(heir.key)
        return Outcome("removed")

    async def _failed(
        self, one: Object, error: PeregrineError, *, deleting: bool = False
    ) -> Outcome:
        service = NAMES[one.key.kind]
        failure = decisions.failure(error, service, deleting=deleting)
        if failure.refused and not deleting:
            until = self._clock() + decisions.REFUSED_AGAIN
            self._refused[one.uid] = one.generation, until
        await self._say(one, failure.ready)
        log.warning(
            "service_refused" if failure.refused else "service_failed",
            resource=str(one.key),
            reason=error.reason,
            error=error.message,
        )
        if failure.refused and not deleting:
            self._work.add(one.key, after=decisions.REFUSED_AGAIN + 1.0)
            return Outcome("refused")
        return Outcome("waiting", failed=True, after=failure.after)

    def _forget(self, one: Object) -> None:
        self._refused.pop(one.uid, None)
        self._work.forget(one.key)

    async def _say(
        self,
        one: Object,
        ready: Ready,
        held: Held | None = None,
        tools: Tools | None = None,
        *,
        applied: bool = False,
    ) -> bool:
        """Writes the status if it says something new, with an Event if that is worth one."""
        conditions = self._writer.conditions(one, {"Ready": ready})
        status: dict[str, Any] = {**one.status, "conditions": conditions}
        status["observedGeneration"] = one.generation
        if applied and held is not None:
            status["applied"] = decisions.remembered(one, held)
        if one.key.kind == "Agent" and tools is not None and tools.missing is not None:
            status["tools"] = f"{tools.named - len(tools.missing)}/{tools.named}"
            status["missingTools"] = list(tools.missing)
        if one.key.kind == "Tool":
            status["tool"] = one.claim[1]
            status["type"] = next((each for each in _BACKENDS if each in one.spec), "")
            status["effect"] = (held.effect if held else "") or str(one.spec.get("effect", ""))
        if status == one.status:
            return False
        before: Mapping[str, Any] = next(
            (each for each in one.status.get("conditions") or () if each.get("type") == "Ready"), {}
        )
        await self._writer.status(one, status)
        if (before.get("status"), before.get("reason")) != (ready.status, ready.reason):
            warning = ready.status != "True"
            self._writer.tell(one, Event(ready.reason, ready.message, warning))
        return True


def _definition(one: Object) -> tuple[Message | None, tuple[str, ...]]:
    """What the service is to be given; or what is wrong with the resource."""
    try:
        value = resources.read(_manifest(one), source=str(one.key)).value
    except ResourceError as error:
        problems = tuple(f"{each.field} {each.message}".strip() for each in error.problems)
        return None, problems
    return value if isinstance(value, Message) else None, ()


def _manifest(one: Object) -> dict[str, Any]:
    return {
        "apiVersion": resources.API_VERSION,
        "kind": one.key.kind,
        "metadata": {"name": one.key.name},
        "spec": one.spec,
    }
