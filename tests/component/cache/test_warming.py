"""Warming: what is missing is loaded, what is there is not, at the rate that was said."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest

from peregrine.api.cache.v1 import cache_pb2
from peregrine.cache.entry import Address
from peregrine.cache.frequencies import Frequencies
from peregrine.cache.loaders import load_modules
from peregrine.kit.background import Failures
from peregrine.kit.errors import StartRefused, from_rpc_error
from peregrine.kit.postgres import Database
from peregrine.local.servers import RedisServer
from tests.component.cache import loaders_module
from tests.component.cache.conftest import ADA, BOB, TENANT, USER, Cache, Clock, key, replica
from tests.support.eventually import eventually
from tests.support.identity import signed

MODULE = "tests.component.cache.loaders_module"


async def warmable(stack: AsyncExitStack, dsn: str, redis: RedisServer) -> Cache:
    loaders_module.loaded.clear()
    database = await stack.enter_async_context(await Database.connect(dsn, size=2))
    loaders = load_modules([MODULE], database=database, tools=None)
    return await replica(stack, dsn, redis, Clock(), loaders)


@pytest.fixture
async def warm(migrated_dsn: str, redis_server: RedisServer, stack: AsyncExitStack) -> Cache:
    return await warmable(stack, migrated_dsn, redis_server)


async def run(cache: Cache, request: cache_pb2.WarmRequest) -> list[cache_pb2.WarmResponse]:
    call = cache.stub.Warm(request, metadata=signed(ADA), timeout=60)
    return [each async for each in call]


def keys(*names: str, scope: Any = TENANT) -> cache_pb2.KeyList:
    return cache_pb2.KeyList(keys=[cache_pb2.Key(key=name.encode(), scope=scope) for name in names])


async def test_a_list_is_loaded_with_progress_and_only_once(warm: Cache) -> None:
    await warm.set(key("there", TENANT, "made"), b"already")
    request = cache_pb2.WarmRequest(
        namespace="made", keys=keys("a", "b", "there", "nothing", "broken"), max_rate=1_000
    )
    end = (await run(warm, request))[-1]
    assert (end.loaded, end.failed, end.present, end.total) == (2, 2, 1, 5)
    # One loader broke; the other one had nothing.
    assert warm.sample("peregrine_background_failures_total", task="warming") == 1
    assert await warm.value(key("a", TENANT, "made"), BOB) == b"value of a"
    assert await warm.value(key("a", USER, "made")) is None
    end = (await run(warm, request))[-1]
    assert (end.loaded, end.present) == (0, 3)
    await warm.invalidate(tag="made")
    assert (await run(warm, request))[-1].loaded == 2


async def test_a_query_is_a_loader(warm: Cache) -> None:
    await run(warm, cache_pb2.WarmRequest(namespace="asked", keys=keys("who")))
    assert await warm.value(key("who", TENANT, "asked")) == b'[{"answer": "who!"}]'


async def test_the_rate_is_kept(warm: Cache) -> None:
    names = [f"k{number}" for number in range(30)]
    begun = asyncio.get_running_loop().time()
    answers = await run(
        warm, cache_pb2.WarmRequest(namespace="made", keys=keys(*names), max_rate=20)
    )
    assert asyncio.get_running_loop().time() - begun >= 0.7
    assert len(answers) > 1 and answers[0].loaded < 30 == answers[-1].loaded


async def test_the_most_frequent_keys_of_the_last_day_are_loaded(warm: Cache) -> None:
    for number in range(10):
        for _ in range(10 - number):
            await warm.get(key(f"k{number}", TENANT, "made"))
    await warm.get(key("own", USER, "made"), ADA)
    for _ in range(50):
        await warm.get(key("bob's", USER, "made"), BOB)
    async with await Database.connect(warm.dsn, size=1) as database:
        counted = Frequencies(
            database=database, failures=Failures().of("frequencies"), now=warm.clock
        )
        for each in range(10):
            # What the service does twice a minute.
            for _ in range(10 - each):
                counted.count(address(f"k{each}"))
        await counted.flush()
    end = (await run(warm, cache_pb2.WarmRequest(namespace="made", most_frequent=3)))[-1]
    assert (end.loaded, end.total) == (3, 3)
    assert sorted(loaders_module.loaded) == [b"k0", b"k1", b"k2"]


def address(name: str) -> Address:
    return Address("acme", "", "made", name.encode())


async def test_a_replica_warms_itself_at_its_start_when_the_policy_says_so(
    warm: Cache, stack: AsyncExitStack
) -> None:
    await warm.apply("made", ttl=600, warm_at_start=True)
    async with await Database.connect(warm.dsn, size=1) as database:
        counted = Frequencies(
            database=database, failures=Failures().of("frequencies"), now=warm.clock
        )
        counted.count(address("hot"))
        await counted.flush()
    later = await warmable(stack, warm.dsn, warm.redis)

    async def warmed() -> bool:
        return await later.value(key("hot", TENANT, "made")) == b"value of hot"

    await eventually(warmed)


async def test_what_cannot_be_warmed_is_refused_with_a_reason(warm: Cache) -> None:
    for request, reason in (
        (cache_pb2.WarmRequest(namespace="unknown", most_frequent=1), "LOADER_UNKNOWN"),
        (cache_pb2.WarmRequest(namespace="made"), "SOURCE_MISSING"),
        (cache_pb2.WarmRequest(namespace="made", keys=keys("")), "KEY_INVALID"),
        (cache_pb2.WarmRequest(namespace="made", keys=keys(*["a"] * 10_001)), "BATCH_TOO_LARGE"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await run(warm, request)
        assert from_rpc_error(caught.value).reason == reason


async def test_a_module_that_cannot_be_imported_stops_the_start(migrated_dsn: str) -> None:
    async with await Database.connect(migrated_dsn, size=1) as database:
        with pytest.raises(StartRefused, match=r"no\.such\.module"):
            load_modules(["no.such.module"], database=database, tools=None)
