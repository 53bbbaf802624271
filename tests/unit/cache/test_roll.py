"""The roll of replicas: all that were ever heard count, by Redis's clock, until they leave."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.redis_tier import REASONS
from peregrine.cache.roll import Heard, Roll
from peregrine.cache.tier import Away, Guard
from peregrine.kit.breaker import Breaker


class Redis:
    """What `roll.lua` does, on a clock of the test's."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.fields: dict[bytes, bytes] = {}
        self.away = False

    async def eval(self, _script: str, _keys: int, _key: bytes, name: bytes, word: str) -> Any:
        if self.away:
            raise OSError("away")
        now = b"%d" % round(self.time * 1e6)
        self.fields.setdefault(b"begun", now)
        if word:
            self.fields[name] = word.encode()
        return [now, [part for pair in self.fields.items() for part in pair]]

    async def hdel(self, _key: bytes, name: bytes) -> int:
        return int(self.fields.pop(name, None) is not None)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class World:
    """Two replicas whose own clocks have nothing to do with each other or with Redis's."""

    def __init__(self) -> None:
        self.redis = Redis()
        self.clocks = (Clock(50.0), Clock(7_000.0))
        self.one, self.two = (roll(self.redis, clock) for clock in self.clocks)

    def pass_(self, seconds: float) -> None:
        self.redis.time += seconds
        for clock in self.clocks:
            clock.now += seconds


def roll(redis: Redis, clock: Clock) -> Roll:
    async def answers() -> bool:
        return True

    metrics = CacheMetrics(CollectorRegistry())
    guard = Guard(
        name="leases",
        reasons=REASONS,
        limit=1.0,
        breaker=Breaker(name="leases", probe=answers, failures=1_000),
        observe=metrics.observer("leases"),
        refused=metrics.refusals("leases"),
    )
    stand_in: Any = redis
    return Roll(stand_in, guard=guard, clock=clock)


async def heard(one: Roll, sequence: int) -> Heard:
    found = await one.call(sequence)
    assert found is not None
    return found


@pytest.fixture
async def world() -> World:
    return World()


async def test_who_is_alone_knows_what_there_is(world: World) -> None:
    found = await heard(world.one, 5)
    assert found.sequence == 0 and found.as_of == pytest.approx(50.0, abs=1e-3)


async def test_the_oldest_word_says_as_of_when_and_the_best_one_how_far(world: World) -> None:
    await heard(world.two, 9)
    world.pass_(0.4)
    found = await heard(world.one, 5)
    assert found.sequence == 9 and found.as_of == pytest.approx(50.0, abs=1e-3)
    world.pass_(30.0)
    found = await heard(world.one, 5)
    assert found.as_of == pytest.approx(50.0, abs=1e-3), "one that fell silent is waited for"
    await world.two.leave()
    found = await heard(world.one, 5)
    assert found.sequence == 0 and found.as_of == pytest.approx(80.4, abs=1e-3)


async def test_a_word_that_arrives_late_counts_from_when_it_was_meant(world: World) -> None:
    await heard(world.two, 9)
    late = dict(world.redis.fields)
    world.pass_(10.0)
    world.redis.fields |= late
    assert (await heard(world.one, 9)).as_of == pytest.approx(50.0, abs=1e-3)


async def test_a_clock_of_redis_that_went_back_says_nothing_until_all_spoke_again(
    world: World,
) -> None:
    await heard(world.two, 9)
    world.redis.time -= 100.0
    assert await world.one.call(9) is None
    assert await world.two.call(9) is not None, "the other one was heard on the new clock"
    assert await world.two.call(9) is not None
    assert await world.one.call(9) is not None


async def test_who_was_in_a_roll_that_redis_lost_is_waited_for(world: World) -> None:
    await heard(world.two, 9)
    await heard(world.one, 5)
    world.redis.fields.clear()
    world.pass_(5.0)
    found = await heard(world.one, 5)
    assert found.sequence == 9 and found.as_of == pytest.approx(50.0, abs=1e-3)
    world.pass_(5.0)
    assert (await heard(world.one, 5)).as_of == pytest.approx(50.0, abs=1e-3)
    await heard(world.two, 9)
    found = await heard(world.one, 9)
    assert found.sequence == 9 and found.as_of == pytest.approx(60.0, abs=1e-3)
    world.redis.fields.clear()
    await heard(world.one, 9)
    world.pass_(3_601.0)
    assert (await heard(world.one, 9)).sequence == 0, "after an hour it is forgotten"


async def test_while_redis_is_away_nobody_is_heard(world: World) -> None:
    world.redis.away = True
    with pytest.raises(Away):
        await world.one.call(5)
    await world.one.leave()
