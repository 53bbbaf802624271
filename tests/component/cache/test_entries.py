"""Entries over gRPC: kept, found in either tier, over when they are over, refused with a reason."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
import redis.asyncio

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from peregrine.kit.postgres import Database
from tests.component.cache.conftest import ADA, BOB, OTHER_ADA, TENANT, USER, Cache, key
from tests.support.identity import signed

MIB = 1024 * 1024


async def test_what_was_set_is_got_with_all_that_was_said_of_it(cache: Cache) -> None:
    request = cache_pb2.SetRequest(key=key("a"), value=b"\x00value\xff", tags=["docs", "prices"])
    request.ttl.FromSeconds(60)
    request.cost.FromMilliseconds(250)
    request.fetch_time.FromMilliseconds(int(cache.clock() * 1000) - 5_500)
    stored = await cache.stub.Set(request, metadata=signed(ADA), timeout=20)
    assert stored.stored and not stored.reason and stored.version > 0
    answer = (await cache.get(key("a"))).entry
    assert answer.value == b"\x00value\xff"
    assert list(answer.tags) == ["docs", "prices"]
    assert answer.fetch_time == request.fetch_time
    assert (answer.ttl.ToSeconds(), answer.cost.ToMilliseconds()) == (60, 250)
    assert answer.age.ToMilliseconds() == 5_500
    assert (answer.tier, answer.version, answer.stale) == (
        cache_pb2.TIER_REDIS,
        stored.version,
        False,
    )


async def test_a_miss_is_an_answer(cache: Cache) -> None:
    answer = await cache.get(key("nothing"))
    assert not answer.HasField("entry") and not answer.degradations


async def test_an_empty_value_is_not_a_miss(cache: Cache) -> None:
    await cache.set(key("a"), b"")
    assert await cache.value(key("a")) == b""


async def test_a_redis_that_came_back_empty_is_filled_from_postgresql(cache: Cache) -> None:
    await cache.set(key("a"), b"kept", tags=["t"])
    before = (await cache.get(key("a"))).entry
    await cache.empty_redis()
    again = (await cache.get(key("a"))).entry
    # The first call may find the connections of the old Redis dead; then it is not promoted.
    while again.tier == cache_pb2.TIER_POSTGRES:
        assert again.value == b"kept"
        again = (await cache.get(key("a"))).entry
    assert again.tier == cache_pb2.TIER_REDIS
    assert again == before
    assert cache.sample(
        "peregrine_cache_requests_total", ns="tool:test", outcome="hit", level="postgres"
    )


async def test_what_was_kept_survives_the_service(cache: Cache) -> None:
    await cache.set(key("a"), b"kept", ttl=3600)
    await cache.empty_redis()
    database = await Database.connect(cache.dsn, size=1)
    async with database, database.transaction("acme", user="ada") as conn:
        assert await conn.fetchval("count", "SELECT count(*) FROM cache.entries") == 1


async def test_an_entry_is_over_when_its_time_is_over_in_both_tiers(cache: Cache) -> None:
    await cache.set(key("a"), b"x", ttl=60)
    cache.clock.ahead += 59.9
    assert await cache.value(key("a")) == b"x"
    cache.clock.ahead += 0.2
    answer = await cache.get(key("a"))
    assert not answer.HasField("entry") and not answer.degradations


async def test_the_newer_value_replaces_the_older_one_in_both_tiers(cache: Cache) -> None:
    first = await cache.set(key("a"), b"old")
    second = await cache.set(key("a"), b"new")
    assert second.version > first.version
    assert await cache.value(key("a")) == b"new"
    await cache.empty_redis()
    assert await cache.value(key("a")) == b"new"


async def test_a_clock_that_went_back_does_not_freeze_an_entry(cache: Cache) -> None:
    await cache.set(key("a"), b"old", ttl=600)
    cache.clock.ahead -= 30
    await cache.set(key("a"), b"new", ttl=600)
    assert await cache.value(key("a")) == b"new"


async def test_what_was_deleted_is_gone_from_both_tiers_and_may_be_set_again(cache: Cache) -> None:
    await cache.set(key("a"), b"old")
    assert await cache.delete(key("a"))
    assert await cache.value(key("a")) is None
    assert not await cache.delete(key("a"))
    await cache.empty_redis()
    assert await cache.value(key("a")) is None
    await cache.set(key("a"), b"new")
    assert await cache.value(key("a")) == b"new"


async def test_a_reader_that_saw_the_old_row_does_not_bring_it_back(cache: Cache) -> None:
    for number in range(30):
        one = key(f"k{number}")
        await cache.set(one, b"old")
        await _forget_in_redis(cache, one)  # so that the next read promotes from PostgreSQL
        _, deleted = await asyncio.gather(cache.value(one), cache.delete(one))
        assert deleted
        assert await cache.value(one) is None


async def _forget_in_redis(cache: Cache, one: cache_pb2.Key) -> None:
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        assert await client.delete(b"pc:acme/ada/tool:test/" + one.key) == 1
    finally:
        await client.aclose()


async def test_a_batch_is_answered_in_the_order_asked_from_both_tiers(cache: Cache) -> None:
    await cache.set(key("old"), b"1")
    await _forget_in_redis(cache, key("old"))
    await cache.set(key("new", TENANT), b"2")
    asked = [key("new", TENANT), key("none"), key("old"), key("new", TENANT), key("new", USER)]
    results = await cache.batch(asked)
    assert [each.entry.value for each in results] == [b"2", b"", b"1", b"2", b""]
    assert [each.HasField("entry") for each in results] == [True, False, True, True, False]
    assert [each.entry.tier for each in results if each.HasField("entry")] == [
        cache_pb2.TIER_REDIS,
        cache_pb2.TIER_POSTGRES,
        cache_pb2.TIER_REDIS,
    ]
    assert await cache.batch([]) == []
    assert len(await cache.batch([key(str(number)) for number in range(256)])) == 256


@pytest.mark.parametrize("from_postgres", [False, True])
async def test_a_batch_of_large_values_gives_as_many_as_fit(
    cache: Cache, from_postgres: bool
) -> None:
    keys = [key(f"large{number}") for number in range(20)]
    for each in keys:
        await cache.set(each, bytes(MIB))
    if from_postgres:
        await cache.empty_redis()
    results = await cache.batch(keys)
    got = sum(each.HasField("entry") for each in results)
    assert 10 <= got <= 12
    assert "BATCH_FULL" in {each.reason for one in results for each in one.degradations}


async def test_nobody_sees_what_belongs_to_another_user_or_tenant(cache: Cache) -> None:
    everyone = [ADA, BOB, OTHER_ADA]
    for who in everyone:
        await cache.set(key("own"), str(who).encode(), who)
        await cache.set(key("shared", TENANT), who.tenant.encode(), who)

    async def check() -> None:
        for who in everyone:
            assert await cache.value(key("own"), who) == str(who).encode()
            assert await cache.value(key("shared", TENANT), who) == who.tenant.encode()
            results = await cache.batch([key("own"), key("shared", TENANT)], who)
            assert [each.entry.value for each in results] == [
                str(who).encode(),
                who.tenant.encode(),
            ]
        for stranger in (Identity("acme", "eve"), Identity("umbrella", "bob")):
            assert await cache.value(key("own"), stranger) is None
        assert await cache.value(key("shared", TENANT), Identity("third", "ada")) is None

    await check()
    await cache.empty_redis()
    await check()
    assert not await cache.delete(key("own"), Identity("acme", "eve"))
    await check()


async def test_a_frame_that_stands_in_another_ones_place_is_a_miss(cache: Cache) -> None:
    await cache.set(key("a"), b"ada's")
    client = redis.asyncio.from_url(cache.redis.url())
    try:
        stolen = await client.get(b"pc:acme/ada/tool:test/a")
        await client.set(b"pc:acme/bob/tool:test/a", stolen)
        assert await cache.value(key("a"), BOB) is None
        damaged = stolen[:-1] + bytes([stolen[-1] ^ 1])
        await client.set(b"pc:acme/ada/tool:test/a", damaged)
        assert await cache.value(key("a")) is None
        for nonsense in (b"", b"PC1", b"x" * 100, stolen[:40]):
            await client.set(b"pc:acme/ada/tool:test/a", nonsense)
            assert await cache.value(key("a")) is None
        await client.delete(b"pc:acme/ada/tool:test/a")
        await client.lpush(b"pc:acme/ada/tool:test/a", b"no string at all")
        assert await cache.value(key("a")) == b"ada's"
    finally:
        await client.aclose()
    assert cache.sample("peregrine_cache_corrupt_total", level="redis") == 6
    await cache.set(key("b"), b"mends it")
    assert await cache.value(key("b")) == b"mends it"


NOT_STORED = [
    ({"sensitive": True}, "SENSITIVE"),
    ({"value": bytes(MIB + 1)}, "TOO_LARGE"),
    ({"ttl": 5.0, "fetched": -6}, "EXPIRED"),
]


async def test_what_is_not_stored_is_said_with_a_reason(
    cache: Cache, subtests: pytest.Subtests
) -> None:
    for fields, reason in NOT_STORED:
        with subtests.test(reason=reason):
            given: dict[str, Any] = dict(fields)
            value = given.pop("value", b"x")
            if "fetched" in given:
                given["fetch_time"] = {"seconds": int(cache.clock() + given.pop("fetched"))}
            answer = await cache.set(key("a"), value, **given)
            assert (answer.stored, answer.reason, answer.version) == (False, reason, 0)
            assert await cache.value(key("a")) is None
            counted = cache.sample("peregrine_cache_sets_total", ns="tool:test", outcome=reason)
            assert counted == 1
    assert (await cache.set(key("a"), bytes(MIB))).stored


async def test_a_value_from_the_future_is_as_old_as_now(cache: Cache) -> None:
    await cache.set(key("a"), b"x", ttl=60, fetch_time={"seconds": int(cache.clock()) + 3600})
    assert (await cache.get(key("a"))).entry.age.ToMilliseconds() == 0
    cache.clock.ahead += 61
    assert await cache.value(key("a")) is None


def seconds(amount: float) -> dict[str, int]:
    return {"seconds": int(amount)}


INVALID = [
    ("Get", cache_pb2.GetRequest(), "KEY_INVALID"),
    ("Get", cache_pb2.GetRequest(key=key(b"")), "KEY_INVALID"),
    ("Get", cache_pb2.GetRequest(key=key(b"x" * 513)), "KEY_INVALID"),
    ("Get", cache_pb2.GetRequest(key=key("a", namespace="a/b")), "KEY_INVALID"),
    ("Get", cache_pb2.GetRequest(key=key("a", namespace="x" * 129)), "KEY_INVALID"),
    ("Delete", cache_pb2.DeleteRequest(), "KEY_INVALID"),
    ("BatchGet", cache_pb2.BatchGetRequest(keys=[key("a")] * 257), "BATCH_TOO_LARGE"),
    ("BatchGet", cache_pb2.BatchGetRequest(keys=[key("a"), key(b"")]), "KEY_INVALID"),
    ("Set", cache_pb2.SetRequest(key=key("a"), ttl=seconds(0)), "TTL_INVALID"),
    ("Set", cache_pb2.SetRequest(key=key("a"), ttl=seconds(-1)), "TTL_INVALID"),
    ("Set", cache_pb2.SetRequest(key=key("a"), ttl=seconds(31 * 86_400)), "TTL_INVALID"),
    ("Set", cache_pb2.SetRequest(key=key("a"), tags=["x"] * 33), "TAGS_INVALID"),
    ("Set", cache_pb2.SetRequest(key=key("a"), tags=["two\nlines"]), "TAGS_INVALID"),
]


async def test_a_bad_request_is_refused_with_a_reason(
    cache: Cache, subtests: pytest.Subtests
) -> None:
    for method, request, reason in INVALID:
        with subtests.test(method=method, request=str(request)[:60]):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(cache.stub, method)(request, metadata=signed(ADA), timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert from_rpc_error(caught.value).reason == reason


async def test_a_lease_that_nobody_gave_does_not_hold(cache: Cache) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cache.set(key("a"), b"x", fencing_token=1)
    assert from_rpc_error(caught.value).reason == "LEASE_LOST"


async def test_metrics_count_hits_by_tier_misses_sets_and_bytes(cache: Cache) -> None:
    await cache.set(key("a"), b"x" * 1_000)
    await cache.value(key("a"))
    await cache.value(key("b"))
    counted = "peregrine_cache_requests_total"
    assert cache.sample(counted, ns="tool:test", outcome="hit", level="redis") == 1
    assert cache.sample(counted, ns="tool:test", outcome="miss", level="none") == 1
    assert cache.sample("peregrine_cache_sets_total", ns="tool:test", outcome="stored") == 1
    moved = "peregrine_cache_transferred_bytes_total"
    for level in ("redis", "postgres"):
        assert cache.sample(moved, level=level, direction="written") > 1_000
        assert cache.sample("peregrine_cache_tier_up", level=level) == 1
    assert cache.sample(moved, level="redis", direction="read") > 1_000
    timed = "peregrine_cache_tier_seconds_count"
    assert cache.sample(timed, level="redis", operation="read") == 2


async def test_namespaces_of_any_number_do_not_make_series_of_any_number(cache: Cache) -> None:
    for number in range(210):
        await cache.get(key("a", namespace=f"ns-{number}"))
    counted = "peregrine_cache_requests_total"
    assert cache.sample(counted, ns="other", outcome="miss", level="none") == 10
