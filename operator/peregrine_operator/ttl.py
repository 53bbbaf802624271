"""How long the values of a namespace live: decided once a minute from what its ghosts say.

The bound comes first: of the times to live whose share of stale answers is within the bound, even
by an upper estimate, the cheapest is the best; when none is, the shortest. The time to live moves
toward it by one step of the grid, a factor of two, at most once a minute, when the best costs
clearly less or the present one breaks the bound, and two minutes in a row say so. What would be
stale far beyond the bound is shortened at once, as far as needed. After a step that lengthened, a
rise of stale answers above the bound takes the step back, and lengthening waits.

Without data there is no decision: an answer that is missing, stale, incomplete or not a number
holds the time to live as it is, and so do the first minutes after one. What Prometheus does not
know is neither zero nor infinity.

`decide` is a pure function. What it has to remember is a `State`, which it returns with every
decision and which goes into the status of the resource: a restart forgets nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from peregrine_operator import evidence
from peregrine_operator.changes import ENOUGH_CHANGED, Rate
from peregrine_operator.evidence import NoData, Point, Sample
from peregrine_operator.ttl_state import SETTLED, Decision, Policy, Reason, State

__all__ = ["TICK", "Decision", "NoData", "Policy", "Reason", "Sample", "State", "decide"]

TICK = 60.0
# A tick may come a little early.
_SOONEST = 55.0
# A sample that is older than this says nothing about now.
_OLDEST = 90.0
# Ghost requests and comparisons below which chance decides.
_ENOUGH_REQUESTS = 50.0
_ENOUGH_COMPARED = 5.0
_WORTH = 0.97
_AGREE = 2
_EMERGENCY = 2.0
# How long a lengthening is watched, and how long none follows one that was taken back.
_WATCH = 300.0
_BACK_OFF = 1800.0
# Lengthening wants more room below the bound than staying does, so that the bound holds in nearly
# all windows of ten minutes, not only in the mean: see `_bad_window`.
_WINDOW = 600.0
_CONCENTRATION = 0.01
# How long no lengthening follows a shortening that took back one, unless values change at another
# rate since.
_TURN = 3600.0
# Seconds that a byte kept for a second costs while there is room: a GiB for a month is three
# dollars, an hour of waiting two.
_BYTE_PRICE = 2e-12
_FULL, _ROOMY, _EVICTED = 0.85, 0.75, 0.01
_DEAREST = 2.0**30
_WHILE_REVALIDATE = 30.0


def decide(
    policy: Policy, state: State, sample: Sample | NoData, *, now: float, in_force: float
) -> Decision:
    """One tick. Called more often than once a minute it says so and changes nothing.

    Args:
      in_force: the time to live that the cache has now, whoever set it.
    """
    if in_force != state.ttl:
        # Somebody else set it, or what was decided did not arrive: go on from there.
        state = replace(state, ttl=in_force, direction=0, agreed=0, shorter=0.0)
    early = 0.0 <= now - state.time < _SOONEST
    trouble = "" if early else _trouble(policy, state, sample, now)
    if trouble:
        state = replace(state, settled=0, direction=0, agreed=0)
    bounded = policy.within(in_force)
    if bounded != in_force and policy.active and not policy.paused:
        state = replace(state, direction=0, agreed=0, shorter=0.0)
        words = f"{in_force:g} s is outside {policy.lowest:g} s to {policy.highest:g} s"
        return _moved(policy, state, bounded, Reason.OUT_OF_BOUNDS, words, now)
    if early:
        return _stays(state, Reason.TOO_EARLY, "the last decision is less than a minute old")
    if trouble:
        return _stays(state, Reason.NO_DATA, f"no data to decide by ({trouble}); nothing changes")
    assert isinstance(sample, Sample)  # noqa: S101 - NoData is a trouble
    state = _learnt(policy, state, sample, now)
    known = state.evidence
    rate, miss_cost = known.rate(in_force), known.miss_cost
    if (
        rate is None
        or miss_cost is None
        or known.requests < _ENOUGH_REQUESTS
        or rate.compared < _ENOUGH_COMPARED
    ):
        compared = rate.compared if rate else 0.0
        held = replace(state, direction=0, agreed=0)
        return _stays(
            held,
            Reason.THIN,
            f"{known.requests:.0f} sampled requests and {compared:.0f} comparisons are too few",
        )
    points = known.curve(
        least=_ENOUGH_REQUESTS,
        ttls=policy.grid,
        rate=rate,
        miss_cost=miss_cost,
        stale_cost=policy.stale_cost,
        byte_price=_BYTE_PRICE * state.dearness,
    )
    return _judged(policy, state, points, rate, now)


def _trouble(policy: Policy, state: State, sample: Sample | NoData, now: float) -> str:
    if isinstance(sample, NoData):
        return sample.why
    needed = [ttl for ttl in policy.grid if ttl <= max(state.ttl, evidence.FIRST)]
    after = state.evidence.newest
    return evidence.problem(sample, needed=needed, now=now, oldest=_OLDEST, after=after)


def _learnt(policy: Policy, state: State, sample: Sample, now: float) -> State:
    passed = now - state.time if state.time > 0.0 else 0.0
    dearness = state.dearness
    evicts = sample.evicted is not None and sample.evicted > _EVICTED
    if evicts or (sample.memory_used is not None and sample.memory_used > _FULL):
        dearness = min(2.0 * dearness, _DEAREST)
    elif sample.memory_used is not None and sample.memory_used < _ROOMY:
        dearness = max(0.9 * dearness, 1.0)
    # In another world, what was found out about this one is no reason to wait.
    turned = 0.0 if state.evidence.surprised(sample) else state.turned
    return replace(
        state,
        time=now,
        turned=turned,
        settled=min(state.settled + 1, SETTLED),
        dearness=dearness,
        evidence=state.evidence.plus(sample, ttls=policy.grid, passed=passed),
    )


def _judged(
    policy: Policy, state: State, points: Sequence[Point], rate: Rate, now: float
) -> Decision:
    """What the estimates mean for the time to live in force."""
    here = _at(points, state.ttl)
    bound = policy.stale_share
    allowed = [point for point in points if policy.lowest <= point.ttl <= policy.highest]
    if not allowed:
        return _stays(state, Reason.CHEAPEST, "no time to live of the grid is within the bounds")
    within = [point for point in allowed if point.stale <= bound] or allowed[:1]
    roomy = [p for p in within if p.ttl <= state.ttl or _bad_window(p) <= bound]
    best = min(roomy or within, key=lambda point: point.cost)
    decision = _moves(policy, state, allowed, within, here, best, rate, now)
    return replace(
        decision,
        stale_share=here.stale,
        best=best.ttl,
        rate=rate,
        while_revalidate=_while_revalidate(points, decision.ttl, bound),
    )


def _moves(
    policy: Policy,
    state: State,
    allowed: Sequence[Point],
    within: Sequence[Point],
    here: Point,
    best: Point,
    rate: Rate,
    now: float,
) -> Decision:
    """At once, back, by a step, or not at all."""
    bound = policy.stale_share
    words = (
        f"{here.stale:.1%} of answers stale at {state.ttl:g} s (bound {bound:.1%}), "
        f"a change every {_often(rate.likely)}; best is {best.ttl:g} s: "
        f"{best.cost:.3g} s a request against {here.cost:.3g} s"
    )
    if policy.paused:
        return _stays(state, Reason.PAUSED, f"paused; {words}")
    if state.settled < SETTLED:
        held = replace(state, direction=0, agreed=0)
        return _stays(held, Reason.SETTLING, f"data came back just now; {words}")
    certain = rate.changed >= ENOUGH_CHANGED
    if certain and here.stale > _EMERGENCY * bound and within[-1].ttl < state.ttl:
        calm = replace(state, direction=0, agreed=0, shorter=0.0)
        calm = replace(calm, backs_off_until=max(calm.backs_off_until, now + _WATCH))
        return _moved(policy, calm, within[-1].ttl, Reason.EMERGENCY, words, now)
    if state.shorter and now <= state.watched_until:
        if certain and here.stale > max(bound, state.stale_before):
            back = replace(
                state, direction=0, agreed=0, shorter=0.0, backs_off_until=now + _BACK_OFF
            )
            return _moved(policy, back, state.shorter, Reason.ROLLED_BACK, words, now)
    elif state.shorter:
        state = replace(state, shorter=0.0)
    if not certain and best.ttl < state.ttl and state.dearness <= 1.0:
        # What is not known to change is not known to be stale; only memory may be short.
        calm = replace(state, direction=0, agreed=0)
        return _stays(calm, Reason.THIN, f"too few changes seen to shorten; {words}")
    return _stepped(policy, state, allowed, here, best, words, now)


def _stepped(
    policy: Policy,
    state: State,
    allowed: Sequence[Point],
    here: Point,
    best: Point,
    words: str,
    now: float,
) -> Decision:
    """One step toward the best, when it is worth it and was last minute as well."""
    breaks = here.stale > policy.stale_share
    direction = (best.ttl > state.ttl) - (best.ttl < state.ttl)
    if direction == 0 or not (breaks or best.cost < _WORTH * here.cost):
        calm = replace(state, direction=0, agreed=0)
        return _stays(calm, Reason.CHEAPEST, words)
    turns = state.last_move < 0 and now < state.turned + _TURN
    if direction > 0 and (now < state.backs_off_until or turns):
        calm = replace(state, direction=0, agreed=0)
        return _stays(calm, Reason.WAITING, f"shortened not long ago; {words}")
    agreed = state.agreed + 1 if direction == state.direction else 1
    state = replace(state, direction=direction, agreed=agreed)
    if agreed < _AGREE:
        return _stays(state, Reason.AGREEING, f"to be said once more; {words}")
    if direction > 0:
        target = min(point.ttl for point in allowed if point.ttl > state.ttl)
        watched = replace(
            state,
            shorter=state.ttl,
            stale_before=here.stale,
            watched_until=now + _WATCH,
        )
        return _moved(policy, watched, target, Reason.LENGTHENED, words, now)
    target = max(point.ttl for point in allowed if point.ttl < state.ttl)
    return _moved(policy, replace(state, shorter=0.0), target, Reason.SHORTENED, words, now)


def _stays(state: State, reason: Reason, message: str) -> Decision:
    return Decision(
        ttl=state.ttl,
        apply=False,
        reason=reason,
        message=message,
        state=state,
        proposed=state.ttl,
    )


def _moved(
    policy: Policy,
    state: State,
    ttl: float,
    reason: Reason,
    words: str,
    now: float,
) -> Decision:
    """In Observe the same is said, and the time to live stays."""
    said = f"{state.ttl:g} s to {ttl:g} s: {words}"
    if policy.active:
        move = 1 if ttl > state.ttl else -1
        # What was an emergency may have gone too far: from there it may come back.
        turns = move == -state.last_move and reason is not Reason.EMERGENCY
        turned = now if turns else state.turned
        kept = replace(state, ttl=ttl, last_move=move, turned=turned)
    else:
        kept = replace(state, shorter=0.0)
    return Decision(
        ttl=kept.ttl,
        apply=policy.active,
        reason=reason,
        message=said if policy.active else f"would go from {said}",
        state=kept,
        proposed=ttl,
    )


def _at(points: Sequence[Point], ttl: float) -> Point:
    """Between points of the grid: on the line through its neighbours."""
    before = max((p for p in points if p.ttl <= ttl), key=lambda p: p.ttl, default=points[0])
    after = min((p for p in points if p.ttl >= ttl), key=lambda p: p.ttl, default=points[-1])
    if after.ttl <= before.ttl:
        return replace(before, ttl=ttl)
    part = (ttl - before.ttl) / (after.ttl - before.ttl)
    return Point(
        ttl,
        before.misses + part * (after.misses - before.misses),
        before.stale + part * (after.stale - before.stale),
        before.likely_stale + part * (after.likely_stale - before.likely_stale),
        before.cost + part * (after.cost - before.cost),
    )


def _bad_window(point: Point) -> float:
    """The share of stale answers in the worst of twenty windows.

    A key that takes the share p of all requests and changes is stale for half the time to live, and
    with it p of the answers. Keys change independently, so the variance over windows is the stale
    share times the sum of p squared, less what a window averages out. That sum is about a hundredth
    when a few thousand keys are asked for by Zipf's law.
    """
    averaged = min(2.0 * point.ttl / (3.0 * _WINDOW), 1.0)
    return min(point.stale + 1.64 * math.sqrt(_CONCENTRATION * point.stale * averaged), 1.0)


def _while_revalidate(points: Sequence[Point], ttl: float, bound: float) -> float:
    """The extra seconds only if answers that old were within the bound as well."""
    extra = min(ttl, _WHILE_REVALIDATE)
    return extra if _at(points, ttl + extra).stale <= bound else 0.0


def _often(rate: float) -> str:
    """How long until the next change, for people."""
    seconds = 1.0 / rate
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
