"""How long values live: what the writer allowed, what the policy says now, what chance adds."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.cache.entry import Entry
from peregrine.cache.freshness import (
    ABSENT_TTL,
    DEFAULT_TTL,
    MAX_TTL,
    NO_POLICY,
    State,
    Terms,
    judge,
    kept_until,
    renew_early,
    time_to_live,
    while_revalidate,
)

SECONDS = st.floats(0.001, MAX_TTL)
VERSIONS = st.integers(1, 10**16)


def entry(
    *,
    version: int = 1,
    ttl: float = 0.0,
    first_ttl: float = 0.0,
    cost: float = 0.0,
    absent: bool = False,
) -> Entry:
    return Entry(
        value=b"x",
        version=version,
        fetch_time=1_000.0,
        ttl=ttl,
        first_ttl=first_ttl,
        cost=cost,
        absent=absent,
    )


@given(VERSIONS, SECONDS)
def test_what_the_writer_gave_is_kept_to_the_letter_without_a_policy(
    version: int, ttl: float
) -> None:
    assert time_to_live(entry(version=version, ttl=ttl), NO_POLICY) == ttl
    assert time_to_live(entry(version=version, first_ttl=ttl), NO_POLICY) == ttl


@given(VERSIONS)
def test_without_a_word_it_is_an_hour_give_or_take_a_tenth(version: int) -> None:
    ttl = time_to_live(entry(version=version), NO_POLICY)
    assert 0.9 * DEFAULT_TTL <= ttl <= 1.1 * DEFAULT_TTL


@given(VERSIONS, SECONDS, SECONDS)
def test_no_policy_makes_a_value_live_longer_than_its_writer_allowed(
    version: int, ttl: float, policy: float
) -> None:
    assert time_to_live(entry(version=version, ttl=ttl), Terms(ttl=policy)) <= ttl


@given(VERSIONS, SECONDS)
def test_a_policy_takes_the_place_of_the_first_time_to_live(version: int, policy: float) -> None:
    ttl = time_to_live(entry(version=version, first_ttl=7.0), Terms(ttl=policy))
    assert 0.9 * policy <= ttl <= min(1.1 * policy, MAX_TTL) + 1e-9


def test_entries_stored_one_after_the_other_end_far_apart() -> None:
    ends = {round(time_to_live(entry(version=10**15 + n), Terms(ttl=100.0))) for n in range(200)}
    assert len(ends) > 15  # of the 21 whole seconds there are


def test_bounds_hold_what_the_policy_says() -> None:
    assert time_to_live(entry(first_ttl=100), Terms(max_ttl=10)) == 10
    assert time_to_live(entry(first_ttl=1), Terms(min_ttl=10)) == 10
    assert time_to_live(entry(ttl=5), Terms(min_ttl=10)) == 5


def test_that_there_is_nothing_is_believed_for_five_seconds() -> None:
    nothing = entry(first_ttl=100, absent=True)
    terms = Terms(ttl=3600, stale_while_revalidate=3600, stale_if_error=3600)
    assert time_to_live(nothing, terms) == ABSENT_TTL
    assert judge(nothing, terms, 1_004.9)[0] is State.FRESH
    assert judge(nothing, terms, 1_005.1)[0] is State.OVER


def test_a_value_goes_from_fresh_over_stale_and_last_resort_to_over() -> None:
    terms = Terms(stale_while_revalidate=10, stale_if_error=50)
    states = [judge(entry(ttl=100), terms, 1_000 + age)[0] for age in (0, 99, 101, 109, 111, 149)]
    assert states == [State.FRESH] * 2 + [State.STALE] * 2 + [State.LAST_RESORT] * 2
    assert judge(entry(ttl=100), terms, 1_151)[0] is State.OVER
    assert judge(entry(ttl=100), NO_POLICY, 1_100)[0] is State.OVER


@given(VERSIONS, SECONDS, SECONDS, SECONDS)
def test_by_default_a_value_is_had_for_a_thirtieth_longer_and_never_past_what_is_allowed(
    version: int, first: float, cap: float, max_ttl: float
) -> None:
    one = entry(version=version, ttl=cap, first_ttl=first)
    for terms in (NO_POLICY, Terms(ttl=first), Terms(ttl=first, max_ttl=max_ttl)):
        ttl = time_to_live(one, terms)
        longer = while_revalidate(one, terms, ttl)
        assert 0 <= longer <= min(ttl / 30, 120)
        assert ttl + longer <= min(cap, terms.max_ttl or MAX_TTL) + 1e-6 or longer == 0
        if longer > 1e-3:
            assert judge(one, terms, 1_000 + ttl + longer / 2)[0] is State.STALE
        assert judge(one, terms, 1_000 + ttl + longer + 1e-3)[0] is State.OVER


def test_two_minutes_at_an_hour_and_nothing_past_what_the_writer_gave_to_the_letter() -> None:
    assert while_revalidate(entry(first_ttl=3_600), NO_POLICY, 3_600.0) == 120
    assert while_revalidate(entry(ttl=86_400, first_ttl=3_600), NO_POLICY, 3_600.0) == 120
    assert while_revalidate(entry(ttl=3_600), NO_POLICY, 3_600.0) == 0
    assert while_revalidate(entry(ttl=60, first_ttl=60), NO_POLICY, 60.0) == 0
    assert while_revalidate(entry(first_ttl=86_400), NO_POLICY, 86_400.0) == 120


def test_a_policy_says_otherwise_also_that_there_is_none() -> None:
    one = entry(first_ttl=3_600)
    assert while_revalidate(one, Terms(ttl=3_600, stale_while_revalidate=0.0), 3_600.0) == 0
    assert while_revalidate(one, Terms(ttl=3_600, stale_while_revalidate=600), 3_600.0) == 600


def test_a_shorter_policy_bites_what_is_there() -> None:
    there = entry(first_ttl=3600)
    assert judge(there, NO_POLICY, 1_500)[0] is State.FRESH
    assert judge(there, Terms(ttl=60), 1_500)[0] is State.OVER


@given(VERSIONS, SECONDS, st.floats(0, 3600), st.floats(0, 3600), st.floats(0, 2 * MAX_TTL))
def test_tiers_hold_what_can_still_be_of_use(
    version: int, ttl: float, while_: float, if_error: float, age: float
) -> None:
    terms = Terms(ttl=ttl, stale_while_revalidate=while_, stale_if_error=if_error)
    one = entry(version=version)
    if judge(one, terms, 1_000 + age)[0] is not State.OVER:
        assert 1_000 + age <= kept_until(one, terms) + 1e-6


@pytest.mark.parametrize("remaining", [0.0, 0.5, 1.0, 3.0])
def test_renewal_comes_as_often_as_the_paper_says(remaining: float) -> None:
    chance = random.Random(1)
    draws = 20_000
    early = sum(renew_early(remaining, 1.0, 1.0 - chance.random()) for _ in range(draws))
    assert early / draws == pytest.approx(math.exp(-remaining), abs=0.015)
