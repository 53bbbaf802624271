"""Leases over gRPC: one computes, the others wait; a dead or late holder changes nothing."""

import asyncio

import grpc
import grpc.aio
import pytest
import redis.asyncio

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.errors import from_rpc_error
from tests.component.cache.conftest import ADA, BOB, TENANT, Cache, key
from tests.support.eventually import eventually

HELD = ("lease", "LEASE_HELD")


def said(answer: cache_pb2.GetOrLeaseResponse) -> set[tuple[str, str]]:
    return {(each.what, each.reason) for each in answer.degradations}


async def end_lease(cache: Cache, name: bytes) -> None:
    """What five seconds without a heartbeat do."""
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        assert await client.delete(b"pl:pc:acme/ada/tool:test/" + name) == 1
    finally:
        await client.aclose()


async def test_the_first_gets_the_lease_and_the_next_the_value_as_soon_as_it_is_there(
    cache: Cache, other: Cache
) -> None:
    first = await cache.lease(key("a"))
    assert first.lease.fencing_token > 0 and first.lease.duration.ToSeconds() == 5
    waiting = [asyncio.create_task(each.lease(key("a"))) for each in (cache, cache, other, other)]
    await eventually(lambda: cache.sample("peregrine_cache_requests_total", **MISSES) >= 1)
    stored = await cache.set(
        key("a"),
        b"value",
        fencing_token=first.lease.fencing_token,
        epoch=first.lease.epoch,
    )
    assert stored.stored
    for answer in await asyncio.gather(*waiting):
        assert answer.entry.value == b"value"
        assert not answer.HasField("lease") and not answer.HasField("refresh")


MISSES = {"ns": "tool:test", "outcome": "miss", "level": "none"}


async def test_who_cannot_wait_longer_gets_neither_in_time(cache: Cache) -> None:
    await cache.lease(key("a"))
    answer = await cache.lease(key("a"), timeout=1.5)
    assert answer.WhichOneof("outcome") is None and HELD in said(answer)


async def test_users_do_not_wait_for_each_other_unless_they_share_the_key(cache: Cache) -> None:
    assert (await cache.lease(key("a"), ADA)).HasField("lease")
    assert (await cache.lease(key("a"), BOB)).HasField("lease")
    assert (await cache.lease(key("a", TENANT), ADA)).HasField("lease")
    assert HELD in said(await cache.lease(key("a", TENANT), BOB, timeout=1.5))


async def test_a_lease_that_was_given_back_goes_to_one_of_those_who_wait(cache: Cache) -> None:
    token = (await cache.lease(key("a"))).lease.fencing_token
    waiting = [asyncio.create_task(cache.lease(key("a"), timeout=2)) for _ in range(5)]
    release = cache_pb2.ReleaseLeaseRequest(key=key("a"), fencing_token=token)
    await cache.call("ReleaseLease", release)
    await cache.call("ReleaseLease", release)  # idempotent
    answers = await asyncio.gather(*waiting)
    leases = [each.lease.fencing_token for each in answers if each.HasField("lease")]
    assert len(leases) == 1 and leases[0] > token


async def test_a_lease_whose_holder_fell_silent_passes_on_and_the_holder_is_fenced_off(
    cache: Cache, other: Cache
) -> None:
    dead = (await cache.lease(key("a"))).lease.fencing_token
    waiting = asyncio.create_task(other.lease(key("a")))
    await end_lease(cache, b"a")
    next_one = (await waiting).lease.fencing_token
    assert next_one > dead
    for late in (dead, next_one + 1):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cache.set(key("a"), b"late", fencing_token=late)
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert from_rpc_error(caught.value).reason == "LEASE_LOST"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cache.lease(key("a"), fencing_token=late)
        assert from_rpc_error(caught.value).reason == "LEASE_LOST"
    assert await cache.value(key("a")) is None
    assert (await other.set(key("a"), b"value", fencing_token=next_one)).stored
    assert await cache.value(key("a")) == b"value"


async def test_a_lease_lives_as_long_as_it_is_renewed(cache: Cache) -> None:
    token = (await cache.lease(key("a"))).lease.fencing_token
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        name = b"pl:pc:acme/ada/tool:test/a"
        await client.pexpire(name, 1_000)
        renewed = await cache.lease(key("a"), fencing_token=token)
        assert renewed.lease.fencing_token == token
        assert 4_000 < await client.pttl(name) <= 5_000
    finally:
        await client.aclose()


async def test_tokens_grow_even_when_the_clock_of_redis_would_not(cache: Cache) -> None:
    tokens = []
    for _ in range(20):
        token = (await cache.lease(key("a"))).lease.fencing_token
        tokens.append(token)
        await cache.call(
            "ReleaseLease", cache_pb2.ReleaseLeaseRequest(key=key("a"), fencing_token=token)
        )
    assert tokens == sorted(set(tokens))


async def test_nobody_waits_for_a_value_that_will_not_be_kept(cache: Cache) -> None:
    token = (await cache.lease(key("a"))).lease.fencing_token
    waiting = [asyncio.create_task(cache.lease(key("a"))) for _ in range(3)]
    refused = await cache.set(key("a"), b"x", sensitive=True, fencing_token=token)
    assert refused.reason == "SENSITIVE"
    answers = await asyncio.gather(*waiting, cache.lease(key("a")))
    assert all(each.HasField("lease") and each.lease.fencing_token == 0 for each in answers)


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_without_redis_everybody_computes_and_the_answer_says_so(
    cache: Cache, how: str
) -> None:
    getattr(cache.redis_proxy, how)()
    for _ in range(5):
        answer = await cache.lease(key("a"))
        assert answer.lease.fencing_token == 0
        assert "leases" in {what for what, _ in said(answer)}
    assert (await cache.set(key("a"), b"x", epoch=answer.lease.epoch)).stored
    assert (await cache.lease(key("a"))).entry.value == b"x"


async def test_those_who_wait_when_redis_goes_away_compute(cache: Cache) -> None:
    await cache.lease(key("a"))
    waiting = [asyncio.create_task(cache.lease(key("a"))) for _ in range(3)]
    await eventually(lambda: cache.sample(*WATCHED[0], **WATCHED[1]) > 3)
    cache.redis_proxy.cut()
    answers = await asyncio.gather(*waiting)
    assert all(each.HasField("lease") and not each.lease.fencing_token for each in answers)


WATCHED = (
    ("peregrine_cache_tier_seconds_count",),
    {"level": "leases", "operation": "lease"},
)


async def test_a_stale_value_is_given_at_once_and_one_of_all_renews_it(cache: Cache) -> None:
    await cache.apply(ttl=10, stale_while_revalidate=30)
    await cache.set(key("a"), b"old", ttl=10)
    cache.clock.ahead += 15
    assert await cache.value(key("a")) is None
    answers = await asyncio.gather(*(cache.lease(key("a"), allow_stale=True) for _ in range(10)))
    assert all(each.entry.value == b"old" and each.entry.stale for each in answers)
    assert sum(each.HasField("refresh") for each in answers) == 1
    (refresh,) = [each.refresh for each in answers if each.HasField("refresh")]
    stored = await cache.set(
        key("a"), b"new", fencing_token=refresh.fencing_token, epoch=refresh.epoch
    )
    assert stored.stored
    fresh = await cache.lease(key("a"), allow_stale=True)
    assert fresh.entry.value == b"new" and not fresh.entry.stale


async def test_a_value_soon_over_is_renewed_by_one_while_all_have_it(cache: Cache) -> None:
    await cache.set(key("a"), b"old", ttl=100, cost={"seconds": 3})
    cache.clock.ahead += 99.9
    answers = [await cache.lease(key("a")) for _ in range(30)]
    assert {each.entry.value for each in answers} == {b"old"}
    assert not any(each.entry.stale for each in answers)
    assert sum(each.HasField("refresh") for each in answers) == 1
