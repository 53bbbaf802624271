"""Cache policies: given to the cache as they stand, and tuned once a minute within their bounds.

What is decided is `ttl.decide`'s; this is how its input comes together and what becomes of its
output. In Observe it is only said. What must not be forgotten is in the status, before the cache is
told of it.

The cache knows no deletion of a policy. When the resource goes, its namespace gets a policy that
says nothing, which is what a namespace without one has.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from peregrine.api.cache.v1 import cache_pb2
from peregrine.client import CacheClient
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError
from peregrine_operator import cache_signals, decisions, policy_status, ttl
from peregrine_operator.decisions import FINALIZER, Ready
from peregrine_operator.evidence import NoData
from peregrine_operator.kubernetes import ApiError
from peregrine_operator.metrics import Metrics
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.ttl import Decision
from peregrine_operator.view import Object, View
from peregrine_operator.writing import Event, Gone, Writer

LOOK = 5.0
_SERVICE = "the cache"
_LIST_EVERY = 30.0
_LOOK_SECONDS = 15.0
_AT_ONCE = 8

log = structlog.get_logger(__name__)


class Policies:
    """`clock` gives Unix seconds; `turned` is told that the loop turns."""

    def __init__(
        self,
        *,
        view: View,
        cache: CacheClient,
        prometheus: Prometheus,
        writer: Writer,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._view = view
        self._cache = cache
        self._prometheus = prometheus
        self._writer = writer
        self._metrics = metrics
        self._clock = clock
        self._turned = turned
        self._held: dict[str, cache_pb2.Policy] | None = None
        self._away: PeregrineError | None = None
        self._listed_at = 0.0
        self._ticked_at = 0.0
        self._again: dict[str, tuple[int, float]] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look_at_all()
            await asyncio.sleep(LOOK)

    async def look_at_all(self) -> None:
        self._turned()
        policies = self._view.of("CachePolicy")
        if not policies:
            return
        now = self._clock()
        if self._held is None or now - self._listed_at >= _LIST_EVERY:
            await self._list(now)
        await self._each(policies, lambda one: self._look(one, now))
        if now - self._ticked_at < ttl.TICK:
            return
        self._ticked_at = now
        answers = await self._prometheus.ask(cache_signals.QUERIES, at=now)

        async def tune(one: Object) -> str:
            return await self._tune(one, cache_signals.read(answers, one.claim[1]), now)

        await self._each(self._view.of("CachePolicy"), tune)

    async def _each(self, policies: list[Object], work: Callable[[Object], Awaitable[str]]) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one_of_them(one: Object) -> None:
            async with gate:
                await self._guarded(one, work)
                self._turned()

        async with asyncio.TaskGroup() as group:
            for one in policies:
                group.create_task(one_of_them(one))

    async def _list(self, now: float) -> None:
        try:
            with context.bind(retries=0):
                self._held = {each.namespace: each async for each in self._cache.list_policies()}
            self._listed_at, self._away = now, None
        except PeregrineError as error:
            self._held, self._away = None, error
            log.warning("policies_not_listed", reason=error.reason, error=error.message)

    async def _guarded(self, one: Object, work: Callable[[Object], Awaitable[str]]) -> None:
        began = time.perf_counter()
        outcome = "failed"
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                with context.bind(retries=1):
                    outcome = await work(one)
        except Gone:
            outcome = "unchanged"
        except PeregrineError as error:
            outcome = await self._failed(one, error)
        except ApiError as error:
            log.warning("policy_not_looked_at", resource=str(one.key), error=error)
        except TimeoutError:
            log.warning("look_timed_out", resource=str(one.key), seconds=_LOOK_SECONDS)
        except Exception as error:
            # The top of a background task: the other policies are still to be looked at.
            self._metrics.failures.inc()
            log.error(
                "look_broke", resource=str(one.key), error=type(error).__name__, exc_info=error
            )
        self._metrics.reconciles.labels("CachePolicy", outcome).inc()
        self._metrics.reconcile_time.labels("CachePolicy").observe(time.perf_counter() - began)

    async def _failed(self, one: Object, error: PeregrineError) -> str:
        failure = decisions.failure(error, _SERVICE, deleting=one.deleting)
        if failure.refused:
            self._again[one.uid] = one.generation, self._clock() + decisions.REFUSED_AGAIN
        try:
            await self._say(one, failure.ready)
        except (ApiError, Gone) as problem:
            log.warning("status_not_written", resource=str(one.key), error=problem)
        return "refused" if failure.refused else "waiting"

    # ---- The policy as it stands ----

    async def _look(self, one: Object, now: float) -> str:
        namespace = one.claim[1]
        owner = self._view.owner(one.claim)
        if one.deleting:
            return await self._remove(one, takes_over=owner is not None)
        if owner is not None and owner.key != one.key:
            name = f"{owner.key.namespace}/{owner.key.name}"
            why = f"{name} is older and is about the same namespace: delete one of the two"
            await self._say(one, Ready("False", "Conflicted", why))
            return "refused"
        wanted, problems = policy_status.wanted(one)
        if wanted is None:
            await self._say(one, Ready("False", "Invalid", problems))
            return "refused"
        generation, until = self._again.get(one.uid, (-1, 0.0))
        applied = one.status.get("applied") or {}
        if self._held is None:
            if self._away is not None and applied.get("generation") != one.generation:
                raise self._away
            return "unchanged"
        if generation == one.generation and now < until:
            return "unchanged"
        held = self._held.get(namespace)
        fresh = applied.get("generation") == one.generation and FINALIZER in one.finalizers
        if fresh and held is not None and held.version == applied.get("version"):
            return "unchanged"
        if FINALIZER not in one.finalizers:
            one = await self._writer.finalizer(one, present=True)
        target = policy_status.target(one, wanted, held)
        # Another version of the same is ours: its answer was lost, or did not reach the status.
        ours = held is not None and policy_status.same(target, held)
        stored = held if held is not None and ours else await self._apply(one, target)
        if fresh and not ours:
            self._metrics.drift.labels("CachePolicy").inc()
            said = f"the policy of {namespace} was changed by somebody else: applied again"
            self._writer.tell(one, Event("DriftRepaired", said, warning=True))
        await self._say(one, Ready("True", "Applied", f"applied as version {stored.version}"))
        return "applied"

    async def _remove(self, one: Object, *, takes_over: bool) -> str:
        if FINALIZER not in one.finalizers:
            return "unchanged"
        if not takes_over and one.status.get("applied"):
            nothing = cache_pb2.Policy(namespace=one.claim[1], mode=cache_pb2.POLICY_MODE_OBSERVE)
            request_id = decisions.request_id(one, deleting=True)
            stored = await self._cache.apply_policy(nothing, request_id=request_id)
            if self._held is not None:
                self._held[stored.namespace] = stored
        await self._writer.finalizer(one, present=False)
        self._again.pop(one.uid, None)
        return "removed"

    async def _apply(self, one: Object, policy: cache_pb2.Policy) -> cache_pb2.Policy:
        """Gives it to the cache; the status is remembered with the next word that is said."""
        digest = hashlib.sha256(policy.SerializeToString(deterministic=True)).hexdigest()[:16]
        request_id = f"{decisions.request_id(one)}-{digest}"
        stored = await self._cache.apply_policy(policy, request_id=request_id)
        if self._held is not None:
            self._held[stored.namespace] = stored
        return stored

    # ---- Its tuning ----

    async def _tune(self, one: Object, sample: ttl.Sample | NoData, now: float) -> str:
        namespace = one.claim[1]
        wanted, _ = policy_status.wanted(one)
        held = (self._held or {}).get(namespace)
        applied = one.status.get("applied") or {}
        owner = self._view.owner(one.claim)
        mine = owner is not None and owner.key == one.key
        if one.deleting or not mine or wanted is None or held is None or held.never:
            return "unchanged"
        if applied.get("generation") != one.generation:
            return "unchanged"
        in_force = policy_status.seconds(held) or policy_status.FIRST_TTL
        decision = ttl.decide(
            policy_status.bounds(one, wanted),
            policy_status.state(one, in_force),
            sample,
            now=now,
            in_force=in_force,
        )
        if decision.reason is ttl.Reason.TOO_EARLY:
            return "unchanged"
        before = (one.status.get("lastDecision") or {}).get("reason")
        if decision.apply:
            one = await self._announce(one, decision, now)
            await self._apply(one, policy_status.moved(wanted, held, decision))
            in_force = decision.ttl
            log.info("ttl_changed", resource=str(one.key), ttl=in_force, reason=decision.reason)
        if decision.apply or decision.reason != before:
            self._writer.tell(one, Event(str(decision.reason), decision.message))
        await self._say(one, policy_status.ready(decision, sample), decision, in_force, now)
        return "applied" if decision.apply else "unchanged"

    async def _announce(self, one: Object, decision: Decision, now: float) -> Object:
        """What cannot be remembered is not done."""
        return await self._writer.status(
            one, {**one.status, **policy_status.decided(decision, now)}
        )

    async def _say(
        self,
        one: Object,
        ready: Ready,
        decision: Decision | None = None,
        in_force: float | None = None,
        now: float = 0.0,
    ) -> None:
        made = self._writer.conditions(one, {"Ready": ready})
        status: dict[str, Any] = {
            **one.status,
            "conditions": made,
            "observedGeneration": one.generation,
        }
        held = (self._held or {}).get(one.claim[1])
        if held is not None and ready.status == "True":
            status |= policy_status.applied(one, held, in_force)
        if decision is not None:
            status |= policy_status.decided(decision, now)
        before = {each["type"]: each["reason"] for each in one.status.get("conditions") or ()}
        await self._writer.status(one, status)
        if ready.status != "True" and before.get("Ready") != ready.reason:
            self._writer.tell(one, Event(ready.reason, ready.message, warning=True))
