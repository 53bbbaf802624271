"""Tool pools: every five seconds each is looked at, decided about, and scaled if that is its mode.

What is decided is `autoscale.decide`'s, the function that is simulated; this is how its input comes
together and what becomes of its output. Prometheus is asked once for all pools. What must not be
forgotten is in the status of the pool, written when it matters and every half a minute.

A pool whose Deployment is not there, or whose selector finds no pods, is not decided about at all.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from peregrine.client import resources
from peregrine.client.resources import ResourceError, ToolPool
from peregrine_operator import autoscale, pool_state, pool_status, signals, victims
from peregrine_operator.decisions import Ready
from peregrine_operator.kubernetes import ApiError, Key
from peregrine_operator.metrics import Metrics
from peregrine_operator.pool_state import State
from peregrine_operator.pool_status import Unusable
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.scaling import Cluster, Decision, Pause, Pool
from peregrine_operator.signals import Answered, Answers, Failure, NoData
from peregrine_operator.view import Object, View
from peregrine_operator.workloads import Workload, Workloads
from peregrine_operator.writing import Event, Gone, Writer

_LOOK_SECONDS = 15.0
_AT_ONCE = 8
# A Deployment that was made a moment ago has no pods yet.
_PODLESS_SECONDS = 15.0
_WRITING = "writing"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What this process keeps of a pool between looks; all of it can be made anew."""

    uid: str
    state: State
    saved: dict[str, Any] = field(default_factory=dict)
    saved_at: float = 0.0
    writing: int = -1
    """What was last to be written as the scale: if it is found there, it was not somebody else."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """What all looks of one round share."""

    now: float
    answered: Answered
    pools: frozenset[str]
    """Those that Prometheus knows workers of."""
    owners: Mapping[str, Object]
    """By the label that workers carry: the pool that had it first."""


class Pools:
    """`clock` gives Unix seconds; `turned` is told that the loop turns."""

    def __init__(
        self,
        *,
        view: View,
        workloads: Workloads,
        prometheus: Prometheus,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = view
        self._workloads = workloads
        self._prometheus = prometheus
        self._writer = writer
        self._metrics = metrics
        self._clock = clock
        self._turned = turned
        self._known: dict[Key, _Known] = {}
        self._podless: dict[Key, float] = {}

    async def run(self) -> None:
        """For ever, on a grid of five seconds."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.look_at_all()
            due = max(due + autoscale.LOOK, loop.time())
            await asyncio.sleep(due - loop.time())

    async def look_at_all(self) -> None:
        self._turned()
        pools = [one for one in self._view.of("ToolPool") if not one.deleting]
        self._forget_all_but({one.key for one in pools})
        if not pools:
            return
        now = self._clock()
        answers = await self._prometheus.ask(signals.QUERIES, at=now)
        moment = _Moment(now, Answered(answers), _named(answers), _owners(pools))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(one: Object) -> None:
            async with gate:
                await self._guarded(one, moment)
                self._turned()

        async with asyncio.TaskGroup() as group:
            for one in pools:
                group.create_task(look(one))

    def _forget_all_but(self, present: set[Key]) -> None:
        for key in self._known.keys() - present:
            del self._known[key]
            self._metrics.forget_pool(key.namespace, key.name)
        for key in self._podless.keys() - present:
            del self._podless[key]

    async def _guarded(self, one: Object, moment: _Moment) -> None:
        began = time.perf_counter()
        outcome = "failed"
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                outcome = await self._look(one, moment)
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

    async def _look(self, one: Object, moment: _Moment) -> str:
        try:
            pool = self._wanted(one)
            workload = await self._read(one, pool)
            self._checked(one, pool, workload, moment)
        except Unusable as problem:
            await self._say(one, {"Ready": problem.ready}, {})
            return "refused"
        known = self._resumed(one, workload, moment.now)
        decision = await self._decided(one, pool, workload, known, moment)
        if decision.write is not None:
            one, workload, decision = await self._scale(
                one, pool, workload, known, moment, decision
            )
        known.state = decision.state
        for event in decision.events:
            self._writer.tell(one, Event(event.reason, event.message, event.warning))
        self._count(one, decision)
        await self._save(one, workload, known, decision, moment.now)
        if decision.write is None:
            await self._tidy(one, workload, known, moment.now)
        return "applied" if decision.write is not None else "unchanged"

    # ---- Reading ----

    def _wanted(self, one: Object) -> ToolPool:
        owner = self._view.owner(one.claim)
        if owner is not None and owner.key != one.key:
            why = f"{owner.key.name} is older and scales the same Deployment: delete one of the two"
            raise Unusable("Conflicted", why)
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
            raise Unusable("Invalid", said) from None
        if not isinstance(value, ToolPool):
            raise TypeError(f"{one.key} is no ToolPool")
        return value

    async def _read(self, one: Object, pool: ToolPool) -> Workload:
        namespace = one.key.namespace
        try:
            return await self._workloads.read(namespace, pool.deployment)
        except ApiError as error:
            if error.status == 404:
                why = (
                    f"there is no Deployment {pool.deployment} in {namespace}: nothing is scaled; "
                    "create it, or correct spec.deployment"
                )
                raise Unusable("DeploymentMissing", why) from None
            if error.status == 403:
                why = (
                    f"the operator may not scale in {namespace}: {error.message}. Give it the Role "
                    "operator-pools there"
                )
                raise Unusable("Forbidden", why) from None
            raise

    def _checked(self, one: Object, pool: ToolPool, workload: Workload, moment: _Moment) -> None:
        """Raises Unusable when what is found is not, or not only, what is to be scaled."""
        owner = moment.owners.get(pool.deployment)
        if owner is not None and owner.key != one.key:
            where = f"{owner.key.namespace}/{owner.key.name}"
            raise Unusable(
                "NameTaken",
                f"the workers of {where} carry the same label pool={pool.deployment} in "
                "Prometheus, so their load cannot be told apart: rename one of the Deployments",
            )
        if workload.pods or workload.replicas == 0:
            self._podless.pop(one.key, None)
            return
        since = self._podless.setdefault(one.key, moment.now)
        if moment.now - since >= _PODLESS_SECONDS:
            raise Unusable(
                "WrongSelector",
                f"the selector {workload.selector or '(none)'} of the Deployment {pool.deployment} "
                f"finds none of its {workload.replicas} pods: nothing is scaled; look at the "
                "labels of its template, and at its Events for why there are no pods",
            )

    def _resumed(self, one: Object, workload: Workload, now: float) -> _Known:
        known = self._known.get(one.key)
        if known is None or known.uid != one.uid:
            saved = dict(one.status.get("autoscaler") or {})
            state = pool_state.from_status(saved)
            state = pool_state.resume(state, replicas=workload.replicas, now=now)
            known = self._known[one.key] = _Known(one.uid, state, saved)
            known.writing = _whole(saved.get(_WRITING))
        if workload.replicas == known.writing != known.state.replicas:
            # Written by us, and the answer was lost, or this process was another one.
            known.state = replace(known.state, replicas=workload.replicas)
            known.writing = -1
        return known

    # ---- Deciding ----

    async def _decided(
        self, one: Object, pool: ToolPool, workload: Workload, known: _Known, moment: _Moment
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
        workers = workload.seen(moment.now)
        sample = signals.read(
            moment.answered.of(pool.deployment), fast=wanted.tuning.fast, workers=workers
        )
        if isinstance(sample, NoData) and sample.reason == "empty" and workers:
            sample = NoData("empty", _unseen(pool.deployment, moment.pools) or sample.message)
        return autoscale.decide(wanted, known.state, cluster, sample, now=moment.now)

    # ---- Writing ----

    async def _scale(
        self,
        one: Object,
        pool: ToolPool,
        workload: Workload,
        known: _Known,
        moment: _Moment,
        decision: Decision,
    ) -> tuple[Object, Workload, Decision]:
        """Writes; what could not be written was not decided, so the former state stays."""
        for attempt in (1, 2):
            if decision.write is None:
                return one, workload, decision
            try:
                one = await self._announce(one, known, decision.write)
                await self._write(one, pool, workload, decision.write)
                known.writing = -1
                return one, workload, decision
            except ApiError as error:
                self._metrics.scale_failures.inc()
                log.warning("scale_not_written", resource=str(one.key), error=error)
                if error.status != 409 or attempt == 2:
                    break
            workload = await self._workloads.read(one.key.namespace, pool.deployment)
            decision = await self._decided(one, pool, workload, known, moment)
        return one, workload, replace(decision, write=None, state=known.state, events=())

    async def _announce(self, one: Object, known: _Known, to: int) -> Object:
        """Says in the status what is about to be written, so that whoever finds it there knows
        that it was no stranger, even if this process does not live to hear the answer."""
        known.writing = to
        announced = {**known.saved, _WRITING: to}
        return await self._writer.status(one, {**one.status, "autoscaler": announced})

    async def _write(self, one: Object, pool: ToolPool, workload: Workload, to: int) -> None:
        namespace = one.key.namespace
        gone: list[str] = []
        if to < workload.replicas:
            workers = await self._workloads.workers(workload)
            chosen = victims.choose(workers, workload.replicas - to)
            gone = [each.name for each in chosen]
            costs = victims.costs(workers, chosen, now=self._clock())
            await self._workloads.set_costs(namespace, costs)
        await self._workloads.scale(namespace, pool.deployment, workload, to)
        log.info(
            "scaled", resource=str(one.key), before=workload.replicas, after=to, victims=gone[:20]
        )

    async def _tidy(self, one: Object, workload: Workload, known: _Known, now: float) -> None:
        """Takes back the deletion costs of survivors, once the pool does not shrink any more."""
        left = [pod for pod in workload.living if pod.mark is not None]
        quiet = now - known.state.lowered_at >= victims.STALE_AFTER
        if left and quiet and not workload.draining:
            await self._workloads.clear_costs(one.key.namespace, left)

    def _count(self, one: Object, decision: Decision) -> None:
        labels = one.key.namespace, one.key.name
        self._metrics.desired_replicas.labels(*labels).set(decision.desired)
        if decision.hold:
            self._metrics.hold(*labels, decision.hold)

    async def _save(
        self, one: Object, workload: Workload, known: _Known, decision: Decision, now: float
    ) -> None:
        said = pool_status.conditions(decision)
        replicas = workload.replicas if decision.write is None else decision.write
        fresh = pool_status.word(
            said, replicas=replicas, desired=decision.desired, generation=one.generation
        )
        since = now - known.saved_at
        if pool_status.told(one) == fresh and not pool_state.worth_saving(
            known.saved, decision.state, since=since
        ):
            return
        saved = decision.state.to_status()
        # As long as it is not known whether the last write arrived, whoever comes next must know.
        pending = {_WRITING: known.writing} if known.writing >= 0 else {}
        figures = pool_status.figures(decision, replicas=replicas, saved=saved | pending, now=now)
        await self._say(one, said, figures, told={each.reason for each in decision.events})
        known.saved, known.saved_at = saved, now

    async def _say(
        self,
        one: Object,
        conditions: dict[str, Ready],
        more: dict[str, Any],
        *,
        told: Collection[str] = (),
    ) -> None:
        made = self._writer.conditions(one, conditions)
        status = {**one.status, **more, "conditions": made, "observedGeneration": one.generation}
        before = {each["type"]: each["reason"] for each in one.status.get("conditions") or ()}
        await self._writer.status(one, status)
        ready = conditions["Ready"]
        known = ready.status == "True" or before.get("Ready") == ready.reason
        if not known and ready.reason not in told:
            self._writer.tell(one, Event(ready.reason, ready.message, warning=True))


def _pool(pool: ToolPool) -> Pool:
    return Pool(
        least=pool.min_replicas,
        most=pool.max_replicas,
        concurrency=pool.concurrency,
        wait_objective=pool.wait_objective,
        profile="latency" if pool.profile == "latency" else "balanced",
        mode="Direct" if pool.mode == "Direct" else "Observe",
        scale_to_zero=pool.scale_to_zero,
        expected_service=pool.expected_service,
        fallback=pool.fallback,
    )


def _owners(pools: Iterable[Object]) -> dict[str, Object]:
    found: dict[str, Object] = {}
    for one in sorted(pools, key=lambda each: each.seniority):
        if pool_status.usable(one):
            found.setdefault(str(one.spec.get("deployment")), one)
    return found


def _named(answers: Answers) -> frozenset[str]:
    found = answers["workers"]
    named = () if isinstance(found, Failure) else (each.labels.get("pool", "") for each in found)
    return frozenset(named)


def _unseen(deployment: str, pools: frozenset[str]) -> str:
    """What to do when Prometheus knows no worker of a pool that has workers; else nothing."""
    if deployment in pools:
        return ""
    known = ", ".join(sorted(pools)[:5]) or "none"
    return (
        f"Prometheus knows no worker of the pool {deployment} (it knows: {known}): the pods of the "
        f"Deployment need PEREGRINE_TOOLS_POOL={deployment}, and Prometheus has to scrape them"
    )


def _whole(saved: object) -> int:
    return saved if isinstance(saved, int) else -1
