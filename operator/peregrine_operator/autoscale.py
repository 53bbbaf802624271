"""How many workers a pool gets: a pure function of what is wanted, remembered and seen.

`decide` is called every five seconds for each pool. Nothing here reads a clock or talks to anybody,
so the simulator runs the very same function as the operator, and a decision can be replayed.

- It follows the offered load (`sizing`), seen through two windows: one of a minute that is believed
  as it stands, and a fast one that is believed when it says much more. If that is twice what is
  ready, it is panic: all is believed, and nothing is taken away for a minute. (Two windows and
  panic are Knative's, the window of recommendations is that of the HorizontalPodAutoscaler.)
- It grows at once, by at most four times; by more only when two looks in a row want it, or the one
  before was in panic already.
- It shrinks to the highest of what it would have recommended in the last five minutes, by a fifth
  per minute, and by no less than a tenth of the pool, so that it does not flap.
- Unknown is not zero (`signals`). Without data the pool is held as it is, and shrinking needs a
  minute of good data first, and after three looks without, five minutes: what comes and goes is
  not trusted. What is lost can only ever be made up for by more workers.
- Who else changes the replicas is obeyed for five minutes, and for ten not undercut.
"""

import math
from dataclasses import replace

from peregrine_operator import pool_state, sizing
from peregrine_operator.pool_state import DOWN_WINDOW, State
from peregrine_operator.scaling import Cluster, Condition, Decision, Event, Pool
from peregrine_operator.signals import NoData, Signals
from peregrine_operator.sizing import Load

LOOK = 5.0
"""Seconds between two looks."""
STABLE = 60.0
"""Seconds: the slow window, the length of panic, the trust that good data must earn."""
_SAMPLE_AGE = 2.5
"""Seconds: half a scrape, by which a queue that grows is ahead of what is seen of it."""
SETTLING = 10.0
"""Two scrapes."""
PANIC = 2.0
MAX_JUMP = 4
FAST_MARGIN = 1.1
DEADBAND = 0.10
DOWN_STEP = 0.20
DOWN_EVERY = 60.0
SLOW_LOOKS = 3
DEGRADED_LOOKS = 3
FALLBACK_AFTER = 120.0
OVERRIDE_HOLD = 300.0
FLOOR_FOR = 600.0
PENDING_TOO_LONG = 60.0
UNREADY_TOO_LONG = 120.0
IDLE_BEFORE_ZERO = 900.0
_SERVICE_DOUBLES_IN = 60.0
# A look may come a little early without that making two writes of one.
_EARLY = 0.25

_NO_DATA = {
    "error": "QueryFailed",
    "empty": "NoSeries",
    "nonfinite": "NotFinite",
    "shape": "InvalidQuery",
    "stale": "Stale",
    "coverage": "TooFewTargets",
}


def decide(
    pool: Pool, state: State, cluster: Cluster, sample: Signals | NoData, *, now: float
) -> Decision:
    """`state` is that of the last decision, or what `pool_state.resume` made of the status."""
    return _Look(pool, state, cluster, now).decide(sample)


class _Look:
    """One decision while it is made."""

    def __init__(self, pool: Pool, state: State, cluster: Cluster, now: float) -> None:
        self.pool = pool
        self.cluster = cluster
        self.now = now
        self.acts = pool.mode == "Direct" and not cluster.conflict and not cluster.pause.stops
        self.events: list[Event] = []
        self.conditions: dict[str, Condition] = {}
        self.figures: dict[str, float] = {}
        self.hold = ""
        self.state = replace(state)
        if state.replicas < 0:
            self.state.replicas = self.state.wanted = cluster.replicas
        # Who does not scale goes by what it would have done.
        self.current = cluster.replicas if self.acts else self.state.wanted

    def decide(self, sample: Signals | NoData) -> Decision:
        self._notice_others()
        self._notice_workers()
        self._notice_conflict_and_pause()
        if isinstance(sample, NoData):
            target, reason, message = self._without_data(sample)
        else:
            target, reason, message = self._with_data(sample)
        target, reason = self._limited(target, reason, certain=isinstance(sample, Signals))
        return self._decided(target, reason, message)

    # What is noticed, with data or without.

    def _notice_others(self) -> None:
        seen, known = self.cluster.replicas, self.state.replicas
        if self.acts and seen != known:
            self.events.append(
                Event("ExternalOverride", f"somebody changed replicas from {known} to {seen}")
            )
            self.state.override_until = self.now + OVERRIDE_HOLD
            if seen > known:
                self.state.floor = seen
                self.state.floor_until = self.now + FLOOR_FOR
        held = self.acts and self.now < self.state.override_until
        self._condition(
            "ExternalOverride",
            held,
            "ReplicasChanged" if held else "NoOverride",
            f"somebody changed replicas: held for {OVERRIDE_HOLD:g} s. To keep a number, pause the "
            "pool or change its bounds"
            if held
            else "",
        )

    def _notice_workers(self) -> None:
        ready, before = self.cluster.ready, self.state.ready
        if before and abs(ready - before) > 0.3 * before:
            self.state.settling_until = self.now + SETTLING
        unready = ready == 0 and self.cluster.replicas > 0
        since = self.state.unready_since or self.now
        self.state.ready = ready
        self.state.unready_since = since if unready else 0.0
        self._lasting(
            "NoReadyPods",
            unready and self.now - since >= UNREADY_TOO_LONG,
            f"none of {self.cluster.replicas} pods has become ready in {UNREADY_TOO_LONG:g} s: "
            "nothing is scaled until one is; look at their Events and logs",
        )
        pending = self.cluster.pending_since
        self.blocked = pending is not None and self.now - pending > PENDING_TOO_LONG
        self._lasting(
            "CapacityBlocked",
            self.blocked,
            f"a pod has had no node for more than {PENDING_TOO_LONG:g} s: no more are asked for; "
            "add nodes, or lower maxReplicas or what a pod requests",
        )

    def _notice_conflict_and_pause(self) -> None:
        conflict, pause = self.cluster.conflict, self.cluster.pause
        self._lasting(
            "Conflicted",
            bool(conflict),
            f"{conflict} scales the same target: nothing is written; delete it to have it scaled "
            "here, or let it follow peregrine_tool_pool_desired_replicas",
        )
        paused = pause.stops or pause.scale_in or pause.scale_out
        self._condition("Paused", paused, "Annotated" if paused else "NotPaused", pause.words)

    # Without data: hold, and after a while go to the fallback if that is more.

    def _without_data(self, sample: NoData) -> tuple[int, str, str]:
        since = self.state.bad_since or self.now
        looks = self.state.bad_looks + 1
        self.state.bad_since = since
        self.state.bad_looks = looks
        self.state.good_since = 0.0
        self.state.slow_looks = 0
        self.state.jump_seen = False
        self.hold = sample.reason
        reason = _NO_DATA[sample.reason]
        self._condition("MetricsAvailable", False, reason, sample.message)
        self._lasting("Degraded", looks >= DEGRADED_LOOKS, f"holding: {sample.message}")
        if self.now - since >= FALLBACK_AFTER and self.pool.fallback > self.current:
            return self.pool.fallback, "Fallback", f"no data for {self.now - since:.0f} s"
        return self.current, reason, sample.message

    # With data.

    def _with_data(self, sample: Signals) -> tuple[int, str, str]:
        state = self.state
        gap = state.bad_looks >= DEGRADED_LOOKS or self.now - state.good_at > STABLE
        self.state.bad_since = 0.0
        self.state.bad_looks = 0
        self.state.good_at = self.now
        self.state.good_since = (state.good_since or self.now) if sample.coverage >= 1 else 0.0
        self.state.covered_since = (
            self.now if gap and state.good_at else state.covered_since or self.now
        )
        self._condition("MetricsAvailable", True, "Read")
        self._lasting("Degraded", False, "")
        fast, stable, slow, executed = self._sizes(sample)
        alarmed = self.now < self.state.panic_until
        panic = self._panics(fast)
        floor = self.state.floor if self.now < self.state.floor_until else 0
        sure = max(stable, slow, floor)
        # What the fast window says is noise until it says much more.
        clear = panic or fast >= FAST_MARGIN * max(self.current, stable) + 1
        up = max(fast, sure) if clear else sure
        recommended = min(max(up, executed), self.pool.most)
        self.state.window = pool_state.remember(self.state.window, self.now, recommended)
        self.figures |= {"fast": fast, "stable": stable, "panic": float(panic)}
        summary = (
            f"{sample.demand_stable:.3g} calls/s (fast {sample.demand_fast:.3g}) of "
            f"{self.state.service:.3g} s, {sample.queued:.0f} queued: {up} workers"
        )
        if self.cluster.ready == 0 and self.current > 0 and self.acts:
            self.hold = "unready"
            return self.current, "NoReadyPods", "no pod is ready; " + summary
        if up > self.current:
            target, reason = self._raised(up, panic, alarmed)
            if reason == "Load" and up == slow > max(stable, floor):
                reason = "SlowQueue"
        else:
            target, reason = self._lowered(sample, panic)
        return target, reason, summary

    def _sizes(self, sample: Signals) -> tuple[int, int, int, int]:
        """Workers for the fast window, the stable one, a queue that stays slow, and for what was
        executed."""
        concurrency, ready = self.pool.concurrency, self.cluster.ready
        service = self._service(sample.service)
        demand, queued = self._now(sample, service)
        load = Load(demand=demand, service=service, queued=queued, inflight=sample.inflight)
        extra = sizing.drain(load, profile=self.pool.tuning, concurrency=concurrency, ready=ready)
        at_least = load.offered if service > sizing.LONG_SERVICE else 0.0
        stable_load = max(sample.demand_stable * service, at_least)
        stable = sizing.replicas(stable_load + extra, concurrency=concurrency)
        fast = sizing.replicas(load.offered + extra, concurrency=concurrency)
        if self.now < self.state.settling_until and not sample.by_callers:
            fast = stable
        executed = sizing.replicas(sample.started_stable * service, concurrency=concurrency)
        slow = self._slow(sample, max(fast, stable))
        self.figures |= {
            "demand_fast": sample.demand_fast,
            "demand_stable": sample.demand_stable,
            "service": service,
            "queued": sample.queued,
            "coverage": sample.coverage,
        }
        idle = sample.demand_fast == sample.demand_stable == sample.queued == sample.inflight == 0
        self.state.queued = sample.queued
        self.state.idle_since = (self.state.idle_since or self.now) if idle else 0.0
        return fast, stable, slow, executed

    def _now(self, sample: Signals, service: float) -> tuple[float, float]:
        """The demand and the queue at this moment, not half a scrape or half a window ago.

        What arrives is either started or queued: while the queue grows, its growth between two
        looks and what is started (by Little's law, what runs over the time it takes) are the
        demand of the last five seconds.
        """
        growth = max(sample.queued - self.state.queued, 0.0)
        usual = sizing.USUAL_QUEUE * self.pool.concurrency * max(self.cluster.ready, 1)
        if growth <= usual:
            return sample.demand_fast, sample.queued
        started = sample.started_stable
        if self.now >= self.state.settling_until:
            started = max(started, sample.inflight / service)
        demand = max(sample.demand_fast, started + growth / LOOK)
        return demand, sample.queued + growth * _SAMPLE_AGE / LOOK

    def _service(self, measured: float | None) -> float:
        """The time of an execution; it may double or halve in a minute, so that one poisoned tool
        does not size the fleet."""
        known = self.state.service
        if measured is None or measured <= 0:
            service = known or self.pool.expected_service
        elif not known:
            service = measured
        else:
            passed = max(self.now - self.state.service_at, 0.0)
            factor = 2.0 ** min(passed / _SERVICE_DOUBLES_IN, 60.0)
            service = min(max(measured, known / factor), known * factor)
        if measured is not None or known:
            self.state.service = service
            self.state.service_at = self.now
        return service

    def _slow(self, sample: Signals, sized: int) -> int:
        """The safety net for when the time of an execution or the concurrency is not what it is
        said to be: one more while the queue is slow and does not get shorter."""
        slow = (
            sample.wait_p95 is not None
            and sample.wait_p95 > self.pool.wait_objective
            and sample.queued > 0
            and sample.queued >= 0.9 * self.state.queued
            and sized <= self.current
        )
        looks = self.state.slow_looks + 1 if slow else 0
        self.state.slow_looks = looks
        return self.cluster.ready + 1 if looks >= SLOW_LOOKS else 0

    def _panics(self, fast: int) -> bool:
        if fast >= PANIC * max(1, self.cluster.ready):
            self.state.panic_until = self.now + STABLE
        return self.now < self.state.panic_until

    def _raised(self, up: int, panic: bool, alarmed: bool) -> tuple[int, str]:
        limit = MAX_JUMP * max(self.current, 1)
        seen, far = self.state.jump_seen, up > limit
        self.state.jump_seen = far
        if far and not (seen or alarmed):
            return limit, "Confirming"
        return up, "Panic" if panic else "Load"

    def _lowered(self, sample: Signals, panic: bool) -> tuple[int, str]:
        self.state.jump_seen = False
        target = max(pool_state.most(self.state.window), self._least())
        if target >= self.current:
            return self.current, "Steady"
        if self.current - target < _gap(self.current):
            return self.current, "Steady"
        why = self._not_lowering(sample, panic)
        if why:
            self.hold = why
            return self.current, "Holding" + why.capitalize()
        # Rounded down as the HorizontalPodAutoscaler rounds percentages on the way down.
        step = max(1, math.ceil(DOWN_STEP * self.current - 1e-9))
        lowered = max(target, self.current - step)
        # Not to where the rest of the way would be too little to go.
        while target < lowered < self.current - 1 and lowered - target < _gap(lowered):
            lowered += 1
        return lowered, "Lowered"

    def _not_lowering(self, sample: Signals, panic: bool) -> str:
        state, now = self.state, self.now
        if panic:
            return "panic"
        if sample.coverage < 1:
            return "partial"
        if now - state.good_since < STABLE:
            return "recovering"
        if now - state.covered_since < DOWN_WINDOW:
            return "window"
        if self.cluster.draining:
            return "draining"
        if now - state.lowered_at < DOWN_EVERY:
            return "step"
        return ""

    # What limits whatever was found.

    def _least(self) -> int:
        """Zero takes a quarter of an hour without a call, and leave to go there."""
        idle = self.state.idle_since
        if self.pool.scale_to_zero and idle and self.now - idle >= IDLE_BEFORE_ZERO:
            return 0
        return max(self.pool.least, 1)

    def _limited(self, target: int, reason: str, *, certain: bool) -> tuple[int, str]:
        current, pool, pause = self.current, self.pool, self.cluster.pause
        # A pool that was put at zero stays there until somebody calls.
        least = 0 if pool.scale_to_zero and current == 0 else self._least()
        bounded = min(max(target, least), pool.most)
        if not certain:
            bounded = max(bounded, current)
        limited = bounded < target
        self._condition(
            "ScalingLimited",
            limited,
            "TooManyReplicas" if limited else "WithinBounds",
            f"{target} workers are wanted, maxReplicas is {pool.most}" if limited else "",
        )
        if bounded != target:
            target, reason = bounded, "AtMost" if limited else "AtLeast"
        if self.acts and self.now < self.state.override_until:
            self.hold = self.hold or "override"
            return current, "ExternalOverride"
        if target > current and self.blocked:
            self.hold = "capacity"
            return current, "CapacityBlocked"
        if (target > current and pause.scale_out) or (target < current and pause.scale_in):
            self.hold = "paused"
            return current, "Paused"
        return target, reason

    def _decided(self, target: int, reason: str, message: str) -> Decision:
        seen, pause = self.cluster.replicas, self.cluster.pause
        write = target if self.acts and target != seen else None
        if self.pool.mode == "Direct" and not self.cluster.conflict and pause.stops:
            reason, self.hold = "Paused", self.hold or "paused"
            fixed = None if pause.replicas is None else min(pause.replicas, self.pool.most)
            write = fixed if fixed is not None and fixed != seen else None
        elif write is not None and self.now - self.state.written_at < LOOK - _EARLY:
            write, target, self.hold = None, seen, "step"
        lowers = target < self.current
        self.state.replicas = seen if write is None else write
        self.state.wanted = target
        self.state.written_at = self.state.written_at if write is None else self.now
        self.state.lowered_at = self.now if lowers else self.state.lowered_at
        if write is not None:
            kind = "ScaledUp" if write > seen else "ScaledDown"
            self.events.append(Event(kind, f"{seen} → {write} ({reason}): {message}"))
        return Decision(
            desired=target,
            write=write,
            reason=reason,
            message=message,
            hold=self.hold,
            state=self.state,
            conditions=self.conditions,
            events=tuple(self.events),
            figures=self.figures,
        )

    # Bookkeeping.

    def _condition(self, name: str, status: bool, reason: str, message: str = "") -> None:
        self.conditions[name] = Condition(status, reason, message)

    def _lasting(self, name: str, status: bool, message: str) -> None:
        """A condition, and an event when it begins."""
        told = name in self.state.told
        if status and not told:
            self.events.append(Event(name, message, warning=True))
            self.state.told = (*self.state.told, name)
        elif told and not status:
            self.state.told = tuple(one for one in self.state.told if one != name)
        self._condition(name, status, name if status else "Not" + name, message if status else "")


def _gap(replicas: int) -> float:
    """By how many a pool is lowered at least."""
    return max(1.0, DEADBAND * replicas)
