"""Ghosts count what caches with other times to live would have done, no more and no less."""

import itertools
import random
import tracemalloc
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peregrine.client import _ghosts as ghosts
from peregrine.client._ghosts import EDGES, GRID, GhostNamespace

requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0.0, 4000.0), st.booleans()), max_size=60
)


class OneCache:
    """A cache with one time to live, written down as one would say it."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.fetched: dict[str, float] = {}
        self.misses = 0
        self.ages: list[float] = []

    def requested(self, key: str, now: float) -> None:
        if key in self.fetched and now - self.fetched[key] < self.ttl:
            self.ages.append(now - self.fetched[key])
        else:
            self.misses += 1
            self.fetched[key] = now


@settings(deadline=None)
@given(requests)
def test_every_time_to_live_is_counted_as_a_cache_of_its_own(
    history: list[tuple[str, float, bool]],
) -> None:
    seen = GhostNamespace()
    caches = [OneCache(ttl) for ttl in GRID]
    now = 0.0
    for key, pause, invalidated in history:
        now += pause
        if invalidated:
            seen.forget(key)
            for cache in caches:
                cache.fetched.pop(key, None)
        seen.requested(key, now)
        for cache in caches:
            cache.requested(key, now)
    assert seen.requests == len(history)
    assert seen.misses == [cache.misses for cache in caches]
    for cache, counts in zip(caches, seen.hit_ages, strict=True):
        expected = [0] * len(counts)
        for age in cache.ages:
            expected[bisect_left(EDGES, age)] += 1
        assert counts == expected


@settings(deadline=None)
@given(requests)
def test_a_longer_time_to_live_never_misses_more_and_all_requests_are_accounted_for(
    history: list[tuple[str, float, bool]],
) -> None:
    seen, now = GhostNamespace(), 0.0
    for key, pause, _ in history:
        now += pause
        seen.requested(key, now)
    for place, misses in enumerate(seen.misses):
        assert misses + sum(seen.hit_ages[place]) == len(history)
        assert place == 0 or misses <= seen.misses[place - 1]


def test_one_key_in_sixteen_has_ghosts_the_same_everywhere() -> None:
    keys = [b"%d" % number for number in range(16_000)]
    found = [key for key in keys if ghosts.sampled(key)]
    assert 900 <= len(found) <= 1100
    assert found == [key for key in keys if ghosts.sampled(key)]
    # What every process, of whatever release, has to agree on.
    assert [number for number in range(60) if ghosts.sampled(b"%d" % number)] == [0, 15, 22, 43]


def test_keys_are_bounded_and_the_one_known_longest_goes() -> None:
    seen = GhostNamespace(max_keys=2)
    for number, key in enumerate("abca"):
        seen.requested(key, float(number))
    assert len(seen) == 2
    assert seen.misses == [4] * len(GRID)  # "a" was forgotten in between


@pytest.mark.parametrize(
    ("highest", "count", "last"),
    [(60.0, 4, 40.0), (20480.0, 13, 20480.0), (86400.0, 15, 81920.0), (2592000.0, 19, 1310720.0)],
)
def test_the_grid_doubles_from_five_seconds_to_the_cap(
    highest: float, count: int, last: float
) -> None:
    found = ghosts.grid(highest)
    assert (len(found), found[0], found[-1]) == (count, 5.0, last)
    assert all(high == 2.0 * low for low, high in itertools.pairwise(found))


def test_times_to_live_lie_in_the_middle_of_their_buckets() -> None:
    for ttl in GRID:
        place = bisect_left(EDGES, ttl)
        assert EDGES[place - 1] * 2**0.5 == pytest.approx(ttl)


def test_memory_is_a_few_hundred_bytes_a_key() -> None:
    random_ = random.Random(1)
    keys = [random_.randbytes(16) for _ in range(1000)]
    tracemalloc.start()
    seen = GhostNamespace()
    for key in keys:
        seen.requested(key, 1.0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1000 * 400
