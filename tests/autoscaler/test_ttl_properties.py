"""What holds for every history of samples, good and bad: random ones, ten minutes to hours long."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peregrine_operator import changes, evidence, ttl
from peregrine_operator.changes import BUCKETS, Ages
from peregrine_operator.evidence import Sample
from peregrine_operator.ttl import Decision, NoData, Policy, Reason, State
from tests.autoscaler.ttl_samples import NOW, ages, sample


@dataclass(frozen=True)
class Minute:
    """What one minute brings: a world to sample, or what is wrong with the sample."""

    change_every: float
    keys: int
    compared: float
    compared_at: float
    miss_cost: float
    memory_used: float | None
    bad: str = ""

    def sample(self, now: float) -> Sample | NoData:
        good = sample(
            now=now,
            change_every=self.change_every,
            keys=self.keys,
            compared=self.compared,
            compared_at=self.compared_at,
            miss_cost=self.miss_cost,
            memory_used=self.memory_used,
            entry_bytes=2048.0,
        )
        match self.bad:
            case "":
                return good
            case "down":
                return NoData("down")
            case "stale":
                return replace(good, time=now - 600.0)
            case "nan":
                return replace(good, ghost_requests=math.nan)
        return replace(good, ghost_misses={}, ghost_hit_ages={})


BAD = ("down", "stale", "nan", "incomplete")
minutes = st.builds(
    Minute,
    change_every=st.floats(1.0, 1e7),
    keys=st.integers(1, 400),
    compared=st.floats(0.0, 500.0),
    compared_at=st.floats(0.5, 50_000.0),
    miss_cost=st.floats(0.0, 30.0),
    memory_used=st.none() | st.floats(0.0, 1.0),
    bad=st.just("") | st.sampled_from(("", *BAD)),
)
histories = st.lists(minutes, min_size=1, max_size=40)
policies = st.builds(
    Policy,
    lowest=st.sampled_from((5.0, 7.0, 40.0)),
    highest=st.sampled_from((60.0, 320.0, 20480.0, 86400.0)),
    stale_share=st.floats(0.001, 1.0),
    stale_cost=st.floats(0.0, 100.0),
    active=st.just(True),
)
starts = st.sampled_from((5.0, 30.0, 60.0, 320.0, 20480.0))


def play(
    policy: Policy,
    history: list[Minute],
    start: float,
    *,
    restart: Callable[[int], bool] = lambda _: True,
) -> list[Decision]:
    """`restart(tick)`: whether the operator comes back from the status before that tick."""
    state, in_force, decisions = State(ttl=start), start, []
    for tick, minute in enumerate(history, start=1):
        now = NOW + tick * ttl.TICK
        if restart(tick):
            state = State.from_status(json.loads(json.dumps(state.to_status())))
        decision = ttl.decide(policy, state, minute.sample(now), now=now, in_force=in_force)
        state = decision.state
        in_force = decision.ttl if decision.apply else in_force
        decisions.append(decision)
    return decisions


@settings(deadline=None)
@given(policies, histories, starts)
def test_what_is_applied_is_within_the_bounds_and_steps_are_of_a_factor_of_two(
    policy: Policy, history: list[Minute], start: float
) -> None:
    before = start
    for decision in play(policy, history, start):
        if decision.apply:
            assert policy.lowest <= decision.ttl <= policy.highest
        if decision.reason is Reason.LENGTHENED:
            assert before < decision.ttl <= 2.0 * before
        if decision.reason is Reason.SHORTENED:
            assert before / 2.0 <= decision.ttl < before
        if not decision.apply:
            assert decision.ttl == before
        before = decision.ttl


@settings(deadline=None)
@given(policies, histories, starts, st.integers(0, 39), st.sampled_from(BAD))
def test_bad_data_changes_nothing_whatever_was_before(
    policy: Policy, history: list[Minute], start: float, at: int, kind: str
) -> None:
    at %= len(history)
    spoilt = [replace(one, bad=kind) if place >= at else one for place, one in enumerate(history)]
    decisions = play(policy, spoilt, start)
    for decision in decisions[max(at, 1) :]:
        assert decision.reason is Reason.NO_DATA
        assert not decision.apply
        assert decision.ttl == decisions[max(at, 1) - 1].ttl


@settings(deadline=None)
@given(policies, histories, starts)
def test_within_five_minutes_of_bad_data_nothing_moves(
    policy: Policy, history: list[Minute], start: float
) -> None:
    bad = [tick for tick, one in enumerate(history) if one.bad]
    decisions = play(policy, history, start)
    for tick, decision in enumerate(decisions):
        if any(0 <= tick - one < 5 for one in bad) and decision.apply:
            assert decision.reason is Reason.OUT_OF_BOUNDS


@settings(deadline=None)
@given(policies, histories, starts, st.sets(st.integers(1, 40)))
def test_a_restart_at_any_tick_changes_no_decision(
    policy: Policy, history: list[Minute], start: float, at: set[int]
) -> None:
    never = play(policy, history, start, restart=lambda _: False)
    some = play(policy, history, start, restart=lambda tick: tick in at)
    assert never == some


@settings(deadline=None)
@given(policies, histories, starts)
def test_observe_never_applies_and_learns_the_same(
    policy: Policy, history: list[Minute], start: float
) -> None:
    for decision in play(replace(policy, active=False), history, start):
        assert not decision.apply
        assert decision.ttl == start


@settings(deadline=None)
@given(policies, histories, starts)
def test_every_number_that_is_kept_or_said_is_finite(
    policy: Policy, history: list[Minute], start: float
) -> None:
    for decision in play(policy, history, start):
        json.dumps(decision.state.to_status(), allow_nan=False)
        assert "nan" not in decision.message.split(":")[-1]
        for number in (decision.stale_share, decision.best, decision.while_revalidate):
            assert number is None or math.isfinite(number)


@settings(deadline=None)
@given(policies, histories, starts)
def test_lengthening_follows_shortening_at_most_once_an_hour_in_one_world(
    policy: Policy, history: list[Minute], start: float
) -> None:
    turns = []
    last = 0
    for tick, decision in enumerate(play(policy, history, start)):
        if decision.state.turned == 0.0:
            turns.clear()  # another world
        if not decision.apply:
            continue
        move = decision.state.last_move
        if move > 0 and last < 0:
            turns.append(tick)
        last = move
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(turns))


counts = st.dictionaries(st.floats(0.5, 1e5), st.floats(0.1, 1e4), max_size=6)


@settings(deadline=None)
@given(counts, counts, st.floats(2.0, 50.0))
def test_the_rate_of_change_grows_with_what_changed_and_falls_with_what_did_not(
    changed: dict[float, float], unchanged: dict[float, float], more: float
) -> None:
    known = changes.rate(ages(changed), ages(unchanged))
    if not changed and not unchanged:
        assert known is None
        return
    assert known is not None
    assert 0.0 < known.likely <= known.upper or known.upper == pytest.approx(10.0)
    grown = changes.rate(ages({age: more * n for age, n in changed.items()}), ages(unchanged))
    still = changes.rate(ages(changed), ages({age: more * n for age, n in unchanged.items()}))
    assert grown is not None and grown.likely >= known.likely * (1.0 - 1e-6)
    assert still is not None and still.likely <= known.likely * (1.0 + 1e-6)


@settings(deadline=None)
@given(
    st.floats(20.0, 20_000.0),
    st.floats(5.0, 5_000.0),
    st.floats(1_000.0, 1e6),
)
def test_the_rate_of_change_is_found_again(every: float, age: float, looks: float) -> None:
    changed = looks * -math.expm1(-age / every)
    known = changes.rate(ages({age: changed}), ages({age: looks - changed}))
    assert known is not None
    if changed >= 50.0 and looks - changed >= 50.0:
        assert 1.0 / known.likely == pytest.approx(every, rel=0.05)
        assert known.upper > known.likely


@settings(max_examples=30, deadline=None)
@given(st.floats(10.0, 1e6), st.integers(0, 12))
def test_the_estimate_of_staleness_is_that_of_evenly_spread_ages(every: float, place: int) -> None:
    one = evidence.grid(20480.0)[place]
    found = sample(change_every=every)
    known = evidence.Evidence().plus(found, ttls=tuple(found.ghost_misses), passed=0.0)
    rate = changes.Rate(1.0 / every, 1.0 / every, 100.0, 100.0)
    point = known.curve(
        least=1.0,
        ttls=tuple(found.ghost_misses),
        rate=rate,
        miss_cost=1.0,
        stale_cost=1.0,
        byte_price=0.0,
    )[place]
    hits = 1.0 - found.ghost_misses[one] / found.ghost_requests
    passed = one / every
    share = hits * (1.0 + math.expm1(-passed) / passed)
    assert point.stale == pytest.approx(share, rel=0.05, abs=1e-4)
    assert point.cost == pytest.approx(point.misses + point.likely_stale, rel=1e-6)


def test_what_is_known_halves_every_quarter_of_an_hour() -> None:
    found = sample()
    ttls = tuple(found.ghost_misses)
    known = evidence.Evidence().plus(found, ttls=ttls, passed=0.0)
    empty = replace(
        found,
        ghost_requests=0.0,
        ghost_misses=dict.fromkeys(ttls, 0.0),
        ghost_hit_ages={one: () for one in ttls},
        changed=Ages(),
        unchanged=Ages(),
    )
    later = known.plus(empty, ttls=ttls, passed=900.0)
    assert later.requests == pytest.approx(known.requests / 2)
    assert later.changed.count() == pytest.approx(known.changed.count() / 2, rel=1e-5)


def test_comparisons_that_have_faded_to_nothing_say_nothing() -> None:
    least = Ages((math.ulp(0.0), *(0.0,) * (BUCKETS - 1)), 0.0)
    assert changes.rate(Ages(), least, about=5.0) is None
