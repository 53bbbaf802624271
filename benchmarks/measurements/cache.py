"""What a hit costs, near and far. A far one is measured beside a bare echo and a bare Redis GET."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, median, spread
from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as rpc
from peregrine.client import CacheClient, Identity
from peregrine.kit import redis

_VALUE = b"x" * 1_000
_NEAR_HITS = 20_000
_ROUNDS = 8
_CALLS = 100
_CONCURRENT = 50
_RATED = 2_000


async def cache(lab: Lab) -> AsyncIterator[Row]:
    echo = await lab.echo()
    peregrine = await lab.peregrine()
    stores = await lab.stores()
    address = peregrine.address("cache")
    identity = Identity("local", "local")
    client = redis.connect(stores.cache_redis_url)
    try:
        async with (
            CacheClient(address, identity=identity, entry_timeout=5.0) as near,
            grpc.aio.insecure_channel(address) as channel,
        ):
            key = near.key("bench", b"key")
            await near.set(key, _VALUE, ttl=3_600)
            yield _near(near, key)
            stub = rpc.CacheServiceStub(channel)
            await client.set("bench", _VALUE)
            request = pb.GetRequest(key=key.message)
            bare, hits, echoes = [], [], []
            for _ in range(_ROUNDS):
                echoes.append(await echo.sample(_CALLS))
                bare.append(await _median(lambda: client.get("bench")))
                hits.append(await _median(lambda: stub.Get(request, timeout=5)))
            yield Row(
                name="cache: hit in Redis over an echo and a Redis GET, p50",
                value=median(hits) / (median(echoes) + median(bare)),
                unit="times",
                bound=Bound(at_most=1.5),
                detail={
                    "hit_ms": spread([each * 1e3 for each in hits]),
                    "echo_ms": spread([each * 1e3 for each in echoes]),
                    "redis_ms": spread([each * 1e3 for each in bare]),
                },
            )
            yield Row(
                name=f"cache: hits in Redis, {_CONCURRENT} at a time",
                value=await _rate(lambda: stub.Get(request, timeout=30)),
                unit="calls/s",
            )
            missing = pb.GetRequest(key=near.key("bench", b"missing").message)
            yield Row(
                name="cache: miss in both tiers, p50",
                value=await _median(lambda: stub.Get(missing, timeout=5)) * 1e3,
                unit="ms",
            )
    finally:
        await redis.close(client)


def _near(near: CacheClient, key: Any) -> Row:
    taken = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        for _ in range(_NEAR_HITS):
            near.near(key)
        taken.append((time.perf_counter() - begun) / _NEAR_HITS)
    if near.near(key) is None:
        raise RuntimeError("the near cache lost the value while it was measured")
    return Row(
        name="cache: near hit, p50",
        value=median(taken) * 1e6,
        unit="µs",
        bound=Bound(at_most=3.0),
    )


async def _median(call: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(_CALLS):
        begun = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begun)
    return median(taken)


async def _rate(call: Callable[[], Awaitable[Any]]) -> float:
    left = iter(range(_RATED))

    async def caller() -> None:
        for _ in left:
            await call()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CONCURRENT):
            group.create_task(caller())
    return _RATED / (time.perf_counter() - begun)
