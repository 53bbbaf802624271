"""Tool pools: every five seconds each is looked at, decided about, and scaled if that is its mode.

What is decided is `autoscale.decide`'s, the function that is simulated; this is how its input comes
together and what becomes of its output. Prometheus is asked once for all pools. What must not be
forgotten is in the status of the pool, written when it matters and every half a minute.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from peregrine.client import resources
from peregrine.client.resources import ResourceError, ToolPool
from peregrine_operator import autoscale, pool_state, signals, victims
from peregrine_operator.decisions import Ready
from peregrine_operator.kubernetes import ApiError, Key
from peregrine_operator.metrics import Metrics
from peregrine_operator.pool_state import State
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.scaling import Cluster, Condition, Decision, Pause, Pool
from peregrine_operator.signals import Answered
from peregrine_operator.view import Object, View
from peregrine_operator.workloads import Workload, Workloads
from peregrine_operator.writing import Event, Gone, Writer, instant

_LOOK_SECONDS = 15.0
_AT_ONCE = 8

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What this process keeps of a pool between looks; all of it can be made anew."""

    uid: str
    state: State
    saved: dict[str, Any] = field(default_factory=dict)
    saved_at: float = 0.0


class _Unusable(Exception):
    def __init__(self, ready: Ready) -> None:
        super().__init__(ready.message)
        self.ready = ready


class Pools:
    """`clock` gives Unix seconds."""

    def __init__(
        self,
        *,
        view: View,
        workloads: Workloads,
        prometheus: Prometheus,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view = view
        self._workloads = workloads
        self._prometheus = prometheus
        self._writer = writer
        self._metrics = metrics
        self._clock = clock
        self._known: dict[Key, _Known] = {}

    async def run(self) -> None:
        """For ever, on a grid of five seconds."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.look_at_all()
            due = max(due + autoscale.LOOK, loop.time())
            await asyncio.sleep(due - loop.time())

    async def look_at_all(self) -> None:
        pools = [one for one in self._view.of("ToolPool") if not one.deleting]
        for key in self._known.keys() - {one.key for one in pools}:
            del self._known[key]
            self._metrics.forget_pool(key.namespace, key.name)
        if not pools:
            return
        now = self._clock()
        answered = Answered(await self._prometheus.ask(signals.QUERIES, at=now))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(one: Object) -> None:
            async with gate:
                await self._guarded(one, answered, now)

        async with asyncio.TaskGroup() as group:
            for one in pools:
                group.create_task(look(one))

    async def _guarded(self, one: Object, answered: Answered, now: float) -> None:
        began = time.perf_counter()
        outcome = "failed"
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                outcome = await self._look(one, answered, now)
        except Gone:
            outcome = "unchanged"
        except ApiError as error:
            log.warning("pool_not_looked_at", resource=str(one.key), error=error)
        except TimeoutError:
            log.warning("look_timed_out", resource=str(one.key), seconds=_LOOK_SECONDS)
        except Exception as error:
            # The top of a background task: the other pools are still to be looked at.
            self._metrics.failures.inc()
            log.error(
                "look_broke", resource=str(one.key), error=type(error).__name__, exc_info=error
            )
        self._metrics.reconciles.labels("ToolPool", outcome).inc()
        self._metrics.reconcile_time.labels("ToolPool").observe(time.perf_counter() - began)

    async def _look(self, one: Object, answered: Answered, now: float) -> str:
        try:
            pool = self._wanted(one)
            workload = await self._read(one, pool)
        except _Unusable as problem:
            await self._say(one, {"Ready": problem.ready}, {})
            return "refused"
        known = self._resumed(one, workload, now)
        decision = await self._decided(one, pool, workload, known, answered, now)
        if decision.write is not None:
            decision = await self._scale(one, pool, workload, known, answered, now, decision)
        known.state = decision.state
        for event in decision.events:
            self._writer.tell(one, Event(event.reason, event.message, event.warning))
        self._count(one, decision)
        await self._save(one, workload, known, decision, now)
        return "applied" if decision.write is not None else "unchanged"

    def _wanted(self, one: Object) -> ToolPool:
        owner = self._view.owner(one.claim)
        if owner is not None and owner.key != one.key:
            why = f"{owner.key.name} is older and scales the same Deployment: delete one of the two"
            raise _Unusable(Ready("False", "Conflicted", why))
        manifest = {
            "apiVersion": resources.API_VERSION,
            "kind": "ToolPool",
            "metadata": {"name": one.key.name},
            "spec": one.spec,
        }
        try:
            value = resources.read(manifest, source=str(one.key)).value
        except ResourceError as error:
            said = "; ".join(f"{each.field} {each.message}" for each in error.problems)
            raise _Unusable(Ready("False", "Invalid", said)) from None
        if not isinstance(value, ToolPool):
            raise TypeError(f"{one.key} is no ToolPool")
        return value

    async def _read(self, one: Object, pool: ToolPool) -> Workload:
        namespace = one.key.namespace
        try:
            return await self._workloads.read(namespace, pool.deployment)
        except ApiError as error:
            if error.status == 404:
                why = f"there is no Deployment {pool.deployment} in {namespace}: nothing is scaled"
                raise _Unusable(Ready("False", "DeploymentMissing", why)) from None
            if error.status == 403:
                why = f"the operator may not scale in {namespace}: {error.message}"
                raise _Unusable(Ready("False", "Forbidden", why)) from None
            raise

    def _resumed(self, one: Object, workload: Workload, now: float) -> _Known:
        known = self._known.get(one.key)
        if known is None or known.uid != one.uid:
            saved = one.status.get("autoscaler") or {}
            state = pool_state.from_status(saved)
            state = pool_state.resume(state, replicas=workload.replicas, now=now)
            known = self._known[one.key] = _Known(one.uid, state, dict(saved))
        return known

    async def _decided(
        self,
        one: Object,
        pool: ToolPool,
        workload: Workload,
        known: _Known,
        answered: Answered,
        now: float,
    ) -> Decision:
        wanted = _pool(pool)
        conflict = await self._workloads.scaler(one.key.namespace, pool.deployment)
        annotations = one.body.get("metadata", {}).get("annotations") or {}
        pause = Pause.of(annotations)
        if pool.pause:
            pause = replace(pause, everything=True)
        cluster = Cluster(
            replicas=workload.replicas,
            ready=workload.ready,
            draining=workload.draining,
            pending_since=workload.pending_since,
            conflict=conflict,
            pause=pause,
        )
        sample = signals.read(
            answered.of(pool.deployment), fast=wanted.tuning.fast, workers=workload.seen(now)
        )
        return autoscale.decide(wanted, known.state, cluster, sample, now=now)

    async def _scale(
        self,
        one: Object,
        pool: ToolPool,
        workload: Workload,
        known: _Known,
        answered: Answered,
        now: float,
        decision: Decision,
    ) -> Decision:
        """Writes; what could not be written was not decided, so the former state stays."""
        for attempt in (1, 2):
            if decision.write is None:
                return decision
            try:
                await self._write(one, pool, workload, decision.write)
                return decision
            except ApiError as error:
                self._metrics.scale_failures.inc()
                log.warning("scale_not_written", resource=str(one.key), error=error)
                if error.status != 409 or attempt == 2:
                    break
            workload = await self._workloads.read(one.key.namespace, pool.deployment)
            decision = await self._decided(one, pool, workload, known, answered, now)
        return replace(decision, write=None, state=known.state, events=())

    async def _write(self, one: Object, pool: ToolPool, workload: Workload, to: int) -> None:
        namespace = one.key.namespace
        if to < workload.replicas:
            workers = await self._workloads.workers(workload)
            chosen = victims.choose(workers, workload.replicas - to)
            costs = victims.costs(workers, chosen, now=self._clock())
            await self._workloads.set_costs(namespace, costs)
        await self._workloads.scale(namespace, pool.deployment, workload, to)
        log.info("scaled", resource=str(one.key), before=workload.replicas, after=to)

    def _count(self, one: Object, decision: Decision) -> None:
        labels = one.key.namespace, one.key.name
        self._metrics.desired_replicas.labels(*labels).set(decision.desired)
        if decision.hold:
            self._metrics.hold(*labels, decision.hold)

    async def _save(
        self, one: Object, workload: Workload, known: _Known, decision: Decision, now: float
    ) -> None:
        conditions = {
            name: Ready(str(each.status), each.reason, each.message)
            for name, each in decision.conditions.items()
        }
        conditions = {"Ready": _ready(decision), **conditions}
        replicas = workload.replicas if decision.write is None else decision.write
        news = _told(one) != _shape(conditions, replicas, decision.desired, one.generation)
        since = now - known.saved_at
        if not news and not pool_state.worth_saving(known.saved, decision.state, since=since):
            return
        known.saved, known.saved_at = decision.state.to_status(), now
        more: dict[str, Any] = {
            "currentReplicas": replicas,
            "desiredReplicas": decision.desired,
            "lastDecision": {
                "time": instant(now),
                "reason": decision.reason,
                "message": decision.message,
            },
            "autoscaler": known.saved,
        }
        if decision.write is not None:
            more["lastScaleTime"] = instant(now)
        await self._say(one, conditions, more)

    async def _say(self, one: Object, conditions: dict[str, Ready], more: dict[str, Any]) -> None:
        made = self._writer.conditions(one, conditions)
        status = {**one.status, **more, "conditions": made, "observedGeneration": one.generation}
        before = {each["type"]: each["reason"] for each in one.status.get("conditions") or ()}
        await self._writer.status(one, status)
        ready = conditions["Ready"]
        if ready.status != "True" and before.get("Ready") != ready.reason:
            self._writer.tell(one, Event(ready.reason, ready.message, warning=True))


def _pool(pool: ToolPool) -> Pool:
    return Pool(
        least=pool.min_replicas,
        most=pool.max_replicas,
        concurrency=pool.concurrency,
        wait_objective=pool.wait_objective,
        profile="latency" if pool.profile == "latency" else "balanced",
        mode="Direct" if pool.mode == "Direct" else "Observe",
    )


def _ready(decision: Decision) -> Ready:
    """Whether the pool is looked after as its owner wants it."""
    none = Condition(False, "")
    for name in ("Conflicted", "NoReadyPods"):
        found = decision.conditions.get(name, none)
        if found.status:
            return Ready("False", found.reason or name, found.message)
    seen = decision.conditions.get("MetricsAvailable")
    if seen is not None and not seen.status:
        return Ready("False", seen.reason or "MetricsUnavailable", seen.message)
    return Ready("True", decision.reason, decision.message)


Shape = tuple[frozenset[tuple[str, str, str]], int, int, int]


def _shape(conditions: dict[str, Ready], replicas: int, desired: int, generation: int) -> Shape:
    """What of a status is news; the reason of a pool that is well is in `lastDecision`."""
    said = {
        (name, each.status, "" if (name, each.status) == ("Ready", "True") else each.reason)
        for name, each in conditions.items()
    }
    return frozenset(said), replicas, desired, generation


def _told(one: Object) -> Shape:
    status = one.status
    conditions = {
        each["type"]: Ready(each["status"], each["reason"], "")
        for each in status.get("conditions") or ()
    }
    return _shape(
        conditions,
        int(status.get("currentReplicas", -1)),
        int(status.get("desiredReplicas", -1)),
        int(status.get("observedGeneration", -1)),
    )
