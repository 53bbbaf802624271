"""Made untrue by key, tag or namespace: gone everywhere, also for what was under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import grpc
import grpc.aio
import pytest

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from peregrine.kit.marks import key_digest
from tests.component.cache.conftest import ADA, BOB, OTHER_ADA, TENANT, Cache, key, replica
from tests.support.eventually import eventually
from tests.support.identity import signed

Events = AsyncIterator[cache_pb2.InvalidationEvent]


@asynccontextmanager
async def watching(cache: Cache, who: Identity = ADA, **request: object) -> AsyncIterator[Events]:
    """The feed, without its heartbeats but for the first event."""
    call = cache.stub.WatchInvalidations(
        cache_pb2.WatchInvalidationsRequest(**request), metadata=signed(who), timeout=60
    )

    async def events() -> Events:
        first = True
        async for response in call:
            for event in response.events:
                if first or event.WhichOneof("payload") != "heartbeat":
                    yield event
                first = False

    async with aclosing(events()) as found:
        yield found
    call.cancel()


async def test_what_an_invalidation_covers_is_gone_and_nothing_else(
    cache: Cache, other: Cache
) -> None:
    await cache.set(key("a"), b"1", tags=["red", "round"])
    await cache.set(key("b"), b"2", tags=["red"])
    await cache.set(key("c"), b"3", tags=["blue"])
    await cache.set(key("c", namespace="tool:other"), b"4")
    await cache.set(key("b"), b"bob's", BOB, tags=["blue"])
    await cache.set(key("a"), b"umbrella's", OTHER_ADA, tags=["red"])

    async def there() -> list[bytes | None]:
        return [
            await cache.value(key("a")),
            await cache.value(key("b")),
            await cache.value(key("c")),
            await cache.value(key("c", namespace="tool:other")),
            await cache.value(key("b"), BOB),
            await cache.value(key("a"), OTHER_ADA),
        ]

    await cache.invalidate(tag="round")
    assert await there() == [None, b"2", b"3", b"4", b"bob's", b"umbrella's"]
    await cache.invalidate(key=key("b"))
    assert await there() == [None, None, b"3", b"4", b"bob's", b"umbrella's"]
    await cache.invalidate(tag="red")
    assert await there() == [None, None, b"3", b"4", b"bob's", b"umbrella's"]
    await other.invalidate(namespace="tool:test")

    async def known() -> bool:
        return await there() == [None, None, None, b"4", None, b"umbrella's"]

    await eventually(known)
    await cache.empty_redis()  # what PostgreSQL still holds is as untrue

    async def back() -> bool:
        return not (await cache.get(key("nothing"))).degradations

    await eventually(back)
    assert await there() == [None, None, None, b"4", None, b"umbrella's"]
    await cache.set(key("a"), b"anew", tags=["red"])
    assert await cache.value(key("a")) == b"anew"


@pytest.mark.parametrize("target", [{"tag": "red"}, {"namespace": "tool:test"}, {"key": key("a")}])
async def test_a_fill_that_began_before_does_not_bring_the_old_value_back(
    cache: Cache, other: Cache, target: dict[str, object]
) -> None:
    lease = (await cache.lease(key("a"))).lease
    missed = await other.get(key("a"))
    await cache.invalidate(**target)
    late = await cache.set(
        key("a"), b"old", tags=["red"], epoch=lease.epoch, fencing_token=lease.fencing_token
    )
    assert (late.stored, late.reason) == (False, "INVALIDATED")

    async def refused() -> bool:
        # The other replica may hear of it a moment later, and then what it took is untrue.
        answer = await other.set(key("a"), b"old", tags=["red"], epoch=missed.epoch)
        assert await cache.value(key("a")) is None
        return str(answer.reason) == "INVALIDATED"

    await eventually(refused)
    begun = await cache.get(key("a"))
    assert (await cache.set(key("a"), b"new", tags=["red"], epoch=begun.epoch)).stored
    assert await cache.value(key("a")) == b"new"


async def test_the_feed_tells_a_tenant_what_happened_to_it_in_order(
    cache: Cache, other: Cache
) -> None:
    async with watching(other, from_now=True) as events:
        first = await anext(events)
        assert first.WhichOneof("payload") == "heartbeat" and first.sequence > 0
        sequences = [
            await cache.invalidate(tag="red"),
            await cache.invalidate(OTHER_ADA, tag="not-theirs"),
            await cache.invalidate(namespace="tool:test"),
            await cache.invalidate(key=key("a")),
            await cache.invalidate(key=key("a", TENANT)),
            await cache.invalidate(BOB, key=key("secret of bob's")),
        ]
        await cache.apply(ttl=10)
        del sequences[1]
        found = [await anext(events) for _ in range(6)]
    assert [each.sequence for each in found[:5]] == sequences
    assert found[0].tag == "red" and found[0].create_time.seconds > 0
    assert found[1].namespace == "tool:test"
    assert (found[2].key, found[3].key) == (key("a"), key("a", TENANT))
    digest = key_digest("bob", "tool:test", b"secret of bob's")
    assert found[4].entry_digest == digest and b"secret" not in found[4].SerializeToString()
    assert found[5].policy.ttl.ToSeconds() == 10 and found[5].policy.version == 1


async def test_the_feed_goes_on_from_any_position_at_any_replica(
    cache: Cache, other: Cache
) -> None:
    sequences = [await cache.invalidate(tag=f"t{number}") for number in range(5)]
    for one, after, rest in (
        (cache, sequences[1], sequences[2:]),
        (other, sequences[3], sequences[4:]),
        (other, 0, sequences),
    ):
        async with watching(one, after_sequence=after) as events:
            assert [(await anext(events)).sequence for _ in rest] == rest


async def test_a_position_that_is_not_kept_any_more_is_said_to_be_gone(cache: Cache) -> None:
    await cache.invalidate(tag="x")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with watching(cache, after_sequence=5) as events:
            await anext(events)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert from_rpc_error(caught.value).reason == "EVENTS_COMPACTED"


async def test_heartbeats_come_while_the_replica_knows_and_stop_when_it_does_not(
    cache: Cache,
) -> None:
    call = cache.stub.WatchInvalidations(
        cache_pb2.WatchInvalidationsRequest(from_now=True), metadata=signed(ADA), timeout=60
    )
    loop = asyncio.get_running_loop()
    for _ in range(4):
        begun = loop.time()
        await call.read()
        assert loop.time() - begun < 10, "a feed that is silent breaks off"
    cache.postgres_proxy.cut()
    for _ in range(6):  # the stream in Redis says that nothing happens
        await call.read()
    cache.redis_proxy.cut()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            while True:
                await call.read()
    assert (await cache.get(key("a"))).degradations[0].what == "feed"
    call.cancel()


async def test_a_replica_that_was_cut_off_from_redis_hears_of_it_from_postgresql(
    cache: Cache, other: Cache
) -> None:
    other.redis_proxy.cut()
    await cache.set(key("a"), b"x")
    async with watching(other, from_now=True) as events:
        await anext(events)
        await cache.invalidate(tag="red")
        assert (await anext(events)).tag == "red"


async def test_a_replica_that_was_cut_off_from_postgresql_hears_of_it_from_redis(
    cache: Cache, other: Cache
) -> None:
    other.postgres_proxy.cut()
    await cache.set(key("a"), b"x", tags=["red"])
    assert await other.value(key("a")) == b"x"
    await cache.invalidate(tag="red")

    async def gone() -> bool:
        return await other.value(key("a")) is None

    await eventually(gone)


async def test_an_invalidation_is_made_once_per_request_id(cache: Cache) -> None:
    first = await cache.invalidate(tag="red", request_id="r1")
    assert await cache.invalidate(tag="red", request_id="r1") == first
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cache.invalidate(tag="blue", request_id="r1")
    assert from_rpc_error(caught.value).reason == "REQUEST_ID_REUSED"
    assert await cache.invalidate(OTHER_ADA, tag="blue", request_id="r1") != first


async def test_without_postgresql_an_invalidation_fails_and_says_why(cache: Cache) -> None:
    cache.postgres_proxy.cut()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cache.invalidate(tag="red")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert from_rpc_error(caught.value).reason == "CACHE_TIER_UNAVAILABLE"


async def test_what_was_made_untrue_is_known_to_a_replica_that_starts_later(
    cache: Cache, stack: AsyncExitStack
) -> None:
    await cache.set(key("a"), b"x", tags=["red"])
    cache.redis_proxy.cut()  # so that Redis keeps the entry
    await cache.invalidate(tag="red")
    later = await replica(stack, cache.dsn, cache.redis, cache.clock)
    answer = await later.get(key("a"))
    assert not answer.HasField("entry") and not answer.degradations
