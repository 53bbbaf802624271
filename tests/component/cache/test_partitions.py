"""Replicas that are cut off from one store each: what one makes untrue, no other one goes on
serving, though no message can pass between them; and what all of them can know is served on."""

import asyncio
from contextlib import AsyncExitStack

import pytest
import redis.asyncio

from tests.component.cache.conftest import Cache, key, replica
from tests.support.eventually import eventually

HEARD_NOTHING = {("feed", "INVALIDATIONS_UNKNOWN")}


async def unknown(cache: Cache) -> bool:
    """Whether it says that it does not know what is true."""
    answer = await cache.get(key("a"))
    return {(each.what, each.reason) for each in answer.degradations} == HEARD_NOTHING


async def knows(cache: Cache) -> bool:
    return not await unknown(cache)


def rolls(cache: Cache) -> float:
    level = {"level": "leases", "operation": "roll"}
    return cache.sample("peregrine_cache_tier_seconds_count", **level)


async def roll_is_called(cache: Cache, times: int = 1) -> None:
    before = rolls(cache)
    await eventually(lambda: rolls(cache) >= before + times)


async def goes_on(cache: Cache, value: bytes) -> None:
    """It serves the value while it calls the roll seven times, which takes over a second."""
    for _ in range(7):
        assert await cache.value(key("a")) == value
        await roll_is_called(cache)


async def configure(cache: Cache, name: str, value: str) -> None:
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        await client.config_set(name, value)
    finally:
        await client.aclose()


async def test_what_is_made_untrue_past_redis_is_not_served_by_who_only_reaches_redis(
    cache: Cache, other: Cache
) -> None:
    await cache.set(key("a"), b"old", tags=["red"])
    assert await other.value(key("a")) == b"old"
    other.postgres_proxy.cut()
    cache.redis_proxy.cut()
    await cache.invalidate(tag="red")
    assert await cache.value(key("a")) is None
    await eventually(lambda: unknown(other))
    for _ in range(2):  # whose value nobody could be given is not waited for
        assert (await other.lease(key("a"))).lease.fencing_token == 0
    # What was not published is not made up for by Redis alone.
    cache.redis_proxy.resume()
    await eventually(lambda: published_again(cache))
    assert await other.value(key("a")) is None
    other.postgres_proxy.resume()
    await eventually(lambda: knows(other))
    assert await other.value(key("a")) is None


async def published_again(cache: Cache) -> bool:
    answer = await cache.get(key("nothing"))
    return not answer.degradations


async def test_a_redis_too_full_for_the_feed_is_not_taken_for_a_feed_on_which_nothing_comes(
    cache: Cache, other: Cache
) -> None:
    await cache.set(key("a"), b"old", tags=["red"])
    other.postgres_proxy.cut()
    await configure(cache, "maxmemory", "1")
    await cache.invalidate(tag="red")
    await eventually(lambda: unknown(other))
    await configure(cache, "maxmemory", "0")
    await still_not_served(cache, other)
    other.postgres_proxy.resume()
    await eventually(lambda: knows(other))
    assert await other.value(key("a")) is None


async def still_not_served(cache: Cache, other: Cache) -> None:
    for each in (cache, other):
        await roll_is_called(each, 2)
    assert await other.value(key("a")) is None


async def test_without_postgresql_all_replicas_serve_on_from_redis(
    cache: Cache, other: Cache
) -> None:
    await cache.set(key("a"), b"kept")
    cache.postgres_proxy.cut()
    other.postgres_proxy.cut()
    await asyncio.gather(*(goes_on(each, b"kept") for each in (cache, other)))


async def test_one_that_ended_in_order_is_not_waited_for_and_one_that_fell_silent_is(
    cache: Cache, stack: AsyncExitStack
) -> None:
    await cache.set(key("a"), b"kept")
    async with AsyncExitStack() as theirs:
        await replica(theirs, cache.dsn, cache.redis, cache.clock)
    cache.postgres_proxy.cut()
    await goes_on(cache, b"kept")
    cache.postgres_proxy.resume()
    async with AsyncExitStack() as theirs:
        third = await replica(theirs, cache.dsn, cache.redis, cache.clock)
        third.redis_proxy.cut()
        cache.postgres_proxy.cut()
        await eventually(lambda: unknown(cache))
        third.redis_proxy.resume()
        await eventually(lambda: knows(cache))
        assert await cache.value(key("a")) == b"kept"


@pytest.mark.parametrize("behind", [False, True])
async def test_a_roll_that_redis_lost_does_not_make_the_silent_ones_forgotten(
    cache: Cache, other: Cache, behind: bool
) -> None:
    await cache.set(key("a"), b"x")
    cache.redis_proxy.cut()
    other.postgres_proxy.cut()
    if behind:
        await cache.invalidate(tag="red")
    await other.empty_redis()
    await eventually(lambda: unknown(other))
    cache.redis_proxy.resume()
    if not behind:
        await eventually(lambda: knows(other))
    else:
        await still_not_served(cache, other)
        assert await unknown(other)
