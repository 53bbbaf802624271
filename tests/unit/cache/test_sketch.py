"""Counts in little room: what is frequent is there, with about its count."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from peregrine.cache.sketch import Frequent


@given(st.lists(st.integers(0, 60), max_size=400), st.integers(2, 12))
def test_no_count_is_too_high_and_none_too_low_by_more_than_its_share(
    things: list[int], k: int
) -> None:
    frequent: Frequent[int] = Frequent(k)
    for thing in things:
        frequent.count(thing)
        assert len(frequent) < 2 * k
    counts = frequent.take()
    for thing, count in Counter(things).items():
        assert count - len(things) / k <= counts.get(thing, 0) <= count
    assert len(frequent) == 0


def test_the_head_of_a_long_tail_is_found() -> None:
    chance = random.Random(7)
    frequent: Frequent[int] = Frequent(500)
    weights = [1 / rank for rank in range(1, 20_001)]
    for thing in chance.choices(range(20_000), weights, k=60_000):
        frequent.count(thing)
    assert {thing for thing, _ in frequent.most(20)} == set(range(20))


def test_counts_are_added_with_their_weight() -> None:
    frequent: Frequent[str] = Frequent(3)
    frequent.count("a", 5)
    frequent.count("b")
    frequent.count("a")
    assert frequent.most(1) == [("a", 6)]
