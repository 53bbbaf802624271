"""The near cache: never a wrong value, never over its bounds, and scans do not empty it."""

import gc
import random
import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from peregrine.client._near_cache import ENTRY_BYTES, NearCache

KEYS = st.sampled_from([f"k{number}" for number in range(12)])
ROOM = 5 * (ENTRY_BYTES + 100)


class Against(RuleBasedStateMachine):
    """The cache beside a dictionary that forgets nothing but what is over or was taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: NearCache[str, int] = NearCache(max_bytes=ROOM)
        self.model: dict[str, tuple[int, float]] = {}
        self.now = 0.0
        self.number = 0

    @rule(key=KEYS, size=st.integers(0, 900), ttl=st.floats(0, 20))
    def put(self, key: str, size: int, ttl: float) -> None:
        self.number += 1
        fits = self.cache.put(key, self.number, size=size, expires=self.now + ttl)
        assert fits == (size + ENTRY_BYTES <= ROOM)
        self.model.pop(key, None)
        if fits:
            self.model[key] = (self.number, self.now + ttl)

    @rule(key=KEYS, size=st.integers(ROOM, 2 * ROOM))
    def put_what_is_too_large(self, key: str, size: int) -> None:
        self.put(key, size, 5.0)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        value, expires = self.model.get(key, (None, 0.0))
        found = self.cache.get(key, self.now)
        assert found is None or (found == value and self.now < expires)

    @rule(key=KEYS, ttl=st.floats(1, 20))
    def what_was_just_put_is_there(self, key: str, ttl: float) -> None:
        self.put(key, 100, ttl)
        assert self.cache.get(key, self.now) == self.number

    @rule(key=KEYS)
    def discard(self, key: str) -> None:
        there = self.cache.discard(key)
        assert not there or key in self.model
        self.model.pop(key, None)
        assert self.cache.get(key, self.now) is None

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()
        assert len(self.cache) == 0

    @invariant()
    def it_keeps_to_its_bounds(self) -> None:
        assert 0 <= self.cache.bytes <= ROOM
        assert len(self.cache) * ENTRY_BYTES <= self.cache.bytes
        assert (len(self.cache) == 0) == (self.cache.bytes == 0)


TestAgainstADictionary = Against.TestCase
TestAgainstADictionary.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def small(entries: int) -> NearCache[int, int]:
    return NearCache(max_bytes=entries * (ENTRY_BYTES + 1))


def fill(cache: NearCache[int, int], keys: range) -> None:
    for key in keys:
        cache.put(key, key, size=1, expires=1e9)


def kept(cache: NearCache[int, int], keys: range) -> list[int]:
    return [key for key in keys if cache.get(key, 0.0) is not None]


def test_a_value_is_there_until_its_time_is_over_and_not_longer() -> None:
    cache = small(3)
    cache.put(1, 1, size=1, expires=10.0)
    assert cache.get(1, 9.99) == 1
    assert cache.get(1, 10.0) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_sieve_evicts_as_in_the_paper() -> None:
    # Figure 1 of the paper: A to G came in that order, A, B and G were asked for again.
    cache = small(7)
    fill(cache, range(7))
    kept(cache, range(2))
    cache.get(6, 0.0)
    fill(cache, range(10, 12))  # the hand passes A and B, takes C, then D
    assert kept(cache, range(7)) == [0, 1, 4, 5, 6]
    assert cache.evictions == 2


def test_what_is_asked_for_survives_a_scan_of_what_is_asked_for_once() -> None:
    cache = small(10)
    fill(cache, range(5))
    assert kept(cache, range(5)) == list(range(5))
    for key in range(100, 1_000):
        fill(cache, range(key, key + 1))
        kept(cache, range(5))
    assert kept(cache, range(5)) == list(range(5))


def lru(entries: int) -> Callable[[int], bool]:
    held: dict[int, None] = {}

    def ask(key: int) -> bool:
        hit = key in held
        held.pop(key, None)
        held[key] = None
        if len(held) > entries:
            del held[next(iter(held))]
        return hit

    return ask


def sieve(entries: int) -> Callable[[int], bool]:
    cache = small(entries)

    def ask(key: int) -> bool:
        if cache.get(key, 0.0) is not None:
            return True
        fill(cache, range(key, key + 1))
        return False

    return ask


def test_it_hits_more_often_than_lru_when_half_of_the_requests_are_scans() -> None:
    draw = random.Random(7)
    keys = 2_000
    weights = [1 / rank for rank in range(1, keys + 1)]
    asked = draw.choices(range(keys), weights, k=20_000)
    trace = [each if draw.random() < 0.5 else keys + number for number, each in enumerate(asked)]

    def hits(ask: Callable[[int], bool]) -> int:
        return sum(ask(key) for key in trace)

    assert hits(sieve(200)) > 1.1 * hits(lru(200))


def test_a_large_value_makes_room_for_itself() -> None:
    cache = small(10)
    fill(cache, range(10))
    assert cache.put(99, 99, size=3 * ENTRY_BYTES, expires=1e9)
    assert cache.get(99, 0.0) == 99
    assert cache.bytes <= cache.max_bytes


@pytest.mark.parametrize("how", ["discard", "clear", "expire", "evict"])
def test_what_left_is_freed_at_once(how: str) -> None:
    class Value:
        pass

    cache: NearCache[int, Value] = NearCache(max_bytes=ENTRY_BYTES + 1)
    gc.disable()
    try:
        value = Value()
        alive = weakref.ref(value)
        cache.put(1, value, size=1, expires=1.0)
        del value
        match how:
            case "discard":
                cache.discard(1)
            case "clear":
                cache.clear()
            case "expire":
                cache.get(1, 2.0)
            case "evict":
                cache.put(2, Value(), size=1, expires=1.0)
        assert alive() is None
    finally:
        gc.enable()
