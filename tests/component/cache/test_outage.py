"""Redis and PostgreSQL cut, frozen and killed: misses in time, said as such, and soon healed."""

import asyncio

import grpc
import grpc.aio
import pytest
import redis.asyncio

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.errors import from_rpc_error
from tests.component.cache.conftest import ADA, Cache, key
from tests.support.eventually import eventually
from tests.support.identity import signed

REDIS_GONE = {("redis", "REDIS_UNAVAILABLE"), ("redis", "REDIS_TIMEOUT")}
POSTGRES_GONE = {("postgres", "POSTGRES_UNAVAILABLE"), ("postgres", "POSTGRES_TIMEOUT")}


def said(answer: cache_pb2.GetResponse) -> set[tuple[str, str]]:
    return {(each.what, each.reason) for each in answer.degradations}


def is_open(cache: Cache, level: str) -> bool:
    return cache.sample("peregrine_cache_tier_up", level=level) == 0


async def until_open(cache: Cache, level: str) -> None:
    """Asks until the breaker of the tier opened."""

    async def opened() -> bool:
        await cache.get(key("ask"))
        return is_open(cache, level)

    await eventually(opened)


async def unknown(cache: Cache) -> bool:
    return ("feed", "INVALIDATIONS_UNKNOWN") in said(await cache.get(key("a")))


def asked(cache: Cache) -> float:
    """How often the tiers were asked."""
    return sum(
        cache.sample("peregrine_cache_tier_seconds_count", level=level, operation=operation)
        for level in ("redis", "postgres")
        for operation in ("read", "write")
    )


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_without_redis_entries_come_from_postgresql_and_the_answer_says_so(
    cache: Cache, how: str
) -> None:
    await cache.set(key("a"), b"kept")
    getattr(cache.redis_proxy, how)()
    answer = await cache.get(key("a"))
    assert answer.entry.value == b"kept" and answer.entry.tier == cache_pb2.TIER_POSTGRES
    assert said(answer) <= REDIS_GONE and said(answer)
    missed = await cache.get(key("b"))
    assert not missed.HasField("entry") and said(missed) <= REDIS_GONE
    assert (await cache.set(key("c"), b"only in PostgreSQL")).stored
    assert await cache.value(key("c")) == b"only in PostgreSQL"
    cache.redis_proxy.resume()
    await until_answers_without_degradation(cache, key("a"))


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_without_postgresql_redis_serves_alone(cache: Cache, how: str) -> None:
    await cache.set(key("a"), b"kept")
    getattr(cache.postgres_proxy, how)()
    answer = await cache.get(key("a"))
    assert answer.entry.value == b"kept" and not answer.degradations
    missed = await cache.get(key("b"))
    assert not missed.HasField("entry") and said(missed) <= POSTGRES_GONE and said(missed)
    assert (await cache.set(key("c"), b"only in Redis")).stored
    assert await cache.value(key("c")) == b"only in Redis"
    cache.postgres_proxy.resume()
    await until_answers_without_degradation(cache, key("nothing"))


async def until_answers_without_degradation(cache: Cache, one: cache_pb2.Key) -> None:
    async def healed() -> bool:
        return not (await cache.get(one)).degradations

    await eventually(healed)


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_once_the_breakers_are_open_nobody_waits_for_the_tiers(
    cache: Cache, how: str
) -> None:
    await cache.set(key("a"), b"x")
    getattr(cache.redis_proxy, how)()
    getattr(cache.postgres_proxy, how)()

    async def left_out() -> bool:
        # Storing asks both; reading asks neither once nobody says what was made untrue.
        await cache.set(key("b"), b"x")
        return is_open(cache, "redis") and is_open(cache, "postgres")

    await eventually(left_out)
    await eventually(lambda: unknown(cache))
    before = asked(cache)
    assert said(await cache.get(key("a"))) == {("feed", "INVALIDATIONS_UNKNOWN")}
    refused = await cache.set(key("b"), b"x")
    assert (refused.stored, refused.reason) == (False, "UNAVAILABLE")
    assert asked(cache) == before
    cache.redis_proxy.resume()
    cache.postgres_proxy.resume()
    await until_answers_without_degradation(cache, key("nothing"))
    assert await cache.value(key("a")) == b"x"


async def test_callers_by_the_hundred_meet_a_frozen_redis_and_all_get_their_answer_in_time(
    cache: Cache,
) -> None:
    await cache.set(key("a"), b"x")
    cache.redis_proxy.stall()
    async with asyncio.timeout(15):
        answers = await asyncio.gather(*(cache.get(key("a")) for _ in range(200)))
    # PostgreSQL has few connections, so under such a load it may be too slow for some: misses.
    assert all(each.entry.value in (b"x", b"") for each in answers)
    cache.redis_proxy.resume()
    await until_answers_without_degradation(cache, key("a"))


async def test_a_killed_redis_is_used_again_when_it_is_back(cache: Cache) -> None:
    await cache.set(key("a"), b"x")
    await cache.redis.kill()
    await until_open(cache, "redis")
    await cache.redis.restart(empty=True)
    await eventually(lambda: not is_open(cache, "redis"))

    async def promoted() -> bool:
        return (await cache.get(key("a"))).entry.tier == cache_pb2.TIER_REDIS

    await eventually(promoted)


async def test_a_removal_that_cannot_be_told_to_anybody_fails_and_works_when_repeated(
    cache: Cache,
) -> None:
    await cache.set(key("a"), b"x")
    cache.postgres_proxy.cut()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cache.delete(key("a"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    error = from_rpc_error(caught.value)
    assert (error.reason, error.retry_after) == ("CACHE_TIER_UNAVAILABLE", 1.0)
    cache.postgres_proxy.resume()

    async def deleted() -> bool:
        try:
            await cache.delete(key("a"))
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(deleted)
    assert await cache.value(key("a")) is None
    await cache.empty_redis()
    await until_answers_without_degradation(cache, key("a"))
    assert await cache.value(key("a")) is None


async def test_what_was_removed_while_redis_was_away_does_not_come_back_with_it(
    cache: Cache,
) -> None:
    await cache.set(key("a"), b"x")
    cache.redis_proxy.cut()
    assert await cache.delete(key("a"))
    assert await cache.value(key("a")) is None
    cache.redis_proxy.resume()
    await until_answers_without_degradation(cache, key("a"))
    assert await cache.value(key("a")) is None


async def test_a_full_redis_refuses_writes_and_serves_what_it_has(cache: Cache) -> None:
    await cache.set(key("a"), b"x")
    await configure(cache, "maxmemory", "1")
    stored = await cache.set(key("b"), b"y")
    assert stored.stored  # in PostgreSQL
    assert await cache.value(key("a")) == b"x"
    answer = await cache.get(key("b"))
    assert answer.entry.value == b"y" and answer.entry.tier == cache_pb2.TIER_POSTGRES
    for _ in range(5):
        await cache.set(key("b"), b"y")
    assert not is_open(cache, "redis")
    await configure(cache, "maxmemory", "0")
    await cache.set(key("b"), b"z")
    assert (await cache.get(key("b"))).entry.tier == cache_pb2.TIER_REDIS


async def configure(cache: Cache, name: str, value: str) -> None:
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        await client.config_set(name, value)
    finally:
        await client.aclose()


async def test_a_caller_in_a_hurry_does_not_open_the_breaker(cache: Cache) -> None:
    cache.redis_proxy.delay = 0.1
    for _ in range(5):
        try:
            answer = await cache.stub.Get(
                cache_pb2.GetRequest(key=key("a")), metadata=signed(ADA), timeout=0.05
            )
            assert said(answer)
        except grpc.aio.AioRpcError as late:
            assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not is_open(cache, "redis")
