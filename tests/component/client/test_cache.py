"""The client of the cache over a real cache service: near, far, away, and whose it is."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.client import CacheClient, CacheKey, Identity
from peregrine.kit import context
from peregrine.kit.errors import InvalidArgument, Unauthenticated
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.proxy import FaultProxy

ADA, BOB = Identity("acme", "ada"), Identity("acme", "bob")
MIB = 1024 * 1024


async def client(
    stack: AsyncExitStack, proxy: FaultProxy, *, near_bytes: int = MIB, identity: Identity = ADA
) -> CacheClient:
    return await stack.enter_async_context(
        CacheClient(proxy.address, near_bytes=near_bytes, identity=identity, entry_timeout=2.0)
    )


async def live(one: CacheClient, key: CacheKey) -> None:
    """Waits until the feed of invalidations lives: only then is anything served from near by."""

    async def served() -> bool:
        probe = one.key("probe", b"p", identity=key.identity)
        await one.set(probe, b"x", ttl=60)
        return one.near(probe) is not None

    await eventually(served)


async def test_a_value_is_found_near_by_who_set_it_and_far_by_others(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    one, other = await client(stack, proxy), await client(stack, proxy)
    key = one.key("ns", b"k")
    await live(one, key)
    await live(other, key)
    assert await one.get(key) is None and one.near(key) is None
    assert await one.set(key, b"value", ttl=100, cost=0.5, born=time.monotonic() - 7) == ""
    near, far = await one.get(key), await other.get(other.key("ns", b"k"))
    assert near is not None and far is not None
    assert (near.value, near.tier, near.cost) == (b"value", pb.TIER_NEAR, 0.5)
    assert (far.value, far.tier, far.cost) == (b"value", pb.TIER_REDIS, 0.5)
    assert near.age == pytest.approx(7, abs=2) and far.age == pytest.approx(7, abs=2)
    again = await other.get(other.key("ns", b"k"))
    assert again is not None and again.tier == pb.TIER_NEAR


async def test_a_value_near_its_end_is_not_kept_near_beyond_it(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    one = await client(stack, proxy)
    key = one.key("ns", b"k")
    await one.set(key, b"old", ttl=60, born=time.monotonic() - 61)
    assert one.near(key) is None
    assert await one.get(key) is None


async def test_no_key_of_one_reaches_what_is_anothers(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    async with CacheClient(proxy.address, entry_timeout=2.0) as shared:
        with pytest.raises(Unauthenticated):
            shared.key("ns", b"k")
        with context.with_identity(ADA):
            hers = shared.key("ns", b"k")
            await shared.set(hers, b"ada's", ttl=60)
        with context.with_identity(BOB):
            his = shared.key("ns", b"k")
            assert await shared.get(his) is None
            await shared.set(his, b"bob's", ttl=60)
            # A key stays whose it is, whoever uses it.
            found = await shared.get(hers)
            assert found is not None and found.value == b"ada's"
            for_all = shared.key("ns", b"k", shared=True)
            await shared.set(for_all, b"everyone's", ttl=60)
    strangers = await client(stack, proxy, identity=Identity("umbrella", "ada"))
    friends = await client(stack, proxy, identity=ADA)
    assert await strangers.get(strangers.key("ns", b"k", shared=True)) is None
    found = await friends.get(friends.key("ns", b"k", shared=True))
    assert found is not None and found.value == b"everyone's"
    found = await friends.get(friends.key("ns", b"k"))
    assert found is not None and found.value == b"ada's"


async def test_what_was_deleted_is_gone_here_and_there(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    one, other = await client(stack, proxy), await client(stack, proxy, near_bytes=0)
    key = one.key("ns", b"k")
    await live(one, key)
    await one.set(key, b"value", ttl=60)
    assert await one.delete(key)
    assert one.near(key) is None and await one.get(key) is None and await other.get(key) is None
    assert not await one.delete(key)


async def test_what_is_not_stored_is_said_and_not_kept_near_either(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    registry = CollectorRegistry()
    one = await stack.enter_async_context(
        CacheClient(proxy.address, near_bytes=4 * MIB, identity=ADA, registry=registry)
    )
    key = one.key("ns", b"k")
    assert await one.set(key, b"x", ttl=60, sensitive=True) == "SENSITIVE"
    assert await one.set(key, bytes(MIB + 1), ttl=60) == "TOO_LARGE"
    assert one.near(key) is None
    for reason in ("SENSITIVE", "TOO_LARGE"):
        labels = {"ns": "ns", "outcome": reason}
        assert registry.get_sample_value("peregrine_cache_sets_total", labels) == 1
    with pytest.raises(InvalidArgument):
        await one.set(one.key("no such name!", b"k"), b"x", ttl=60)
    with pytest.raises(InvalidArgument):
        await one.get(one.key("ns", b""))


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_service_that_is_away_is_a_miss_soon_at_no_cost_and_used_again_when_back(
    stack: AsyncExitStack, proxy: FaultProxy, how: str
) -> None:
    one = await stack.enter_async_context(
        CacheClient(proxy.address, near_bytes=0, identity=ADA, entry_timeout=0.3)
    )
    key = one.key("ns", b"k")
    assert await one.set(key, b"value", ttl=60) == ""
    getattr(proxy, how)()
    for _ in range(3):
        assert await one.get(key) is None
    async with asyncio.timeout(20):  # a tenth of what it takes if each of them waits
        for _ in range(1_000):
            assert await one.get(key) is None
    assert await one.set(key, b"other", ttl=60) == "UNAVAILABLE"
    proxy.resume()

    async def back() -> bool:
        found = await one.get(key)
        return found is not None and found.value == b"value"

    await eventually(back, timeout=10)


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_near_values_are_not_served_once_the_feed_was_silent_for_a_second(
    stack: AsyncExitStack, proxy: FaultProxy, how: str
) -> None:
    one = await client(stack, proxy)
    key = one.key("ns", b"k")
    await live(one, key)
    await one.set(key, b"value", ttl=60)
    assert one.near(key) is not None
    getattr(proxy, how)()
    begun = time.monotonic()
    await eventually(lambda: one.near(key) is None)
    assert time.monotonic() - begun < 4.0  # it would have been near for 5 s
    proxy.resume()

    async def back() -> bool:
        await one.get(key)
        return one.near(key) is not None

    await eventually(back)


async def test_a_service_that_was_never_there_is_a_miss() -> None:
    async with CacheClient(f"127.0.0.1:{free_port()}", identity=ADA) as one:
        key = one.key("ns", b"k")
        for _ in range(5):
            assert await one.get(key) is None
        assert await one.set(key, b"x", ttl=60) == "UNAVAILABLE"


async def test_a_caller_that_can_hardly_wait_does_not_ask_the_service(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    one = await client(stack, proxy, near_bytes=0)
    key = one.key("ns", b"k")
    await one.set(key, b"value", ttl=60)
    with context.bind(timeout=0.1):
        assert await one.get(key) is None
    assert await one.get(key) is not None
