"""What a hit costs, near and far. A far one is measured beside a bare echo and a bare Redis GET."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import psutil

from benchmarks import hit_rates, trace
from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, median, spread
from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as rpc
from peregrine.client import CacheClient, CacheKey, Identity
from peregrine.kit import redis

_VALUE = b"x" * 1_000
_NEAR_HITS = 20_000
_ROUNDS = 8
_CALLS = 100
_CONCURRENT = 50
_RATED = 2_000


async def cache(lab: Lab) -> AsyncIterator[Row]:
    for row in await asyncio.to_thread(_hit_rates):
        yield row
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
            await _until_near(near, key)
            yield _near(near, key)
            yield _ghosts(near)
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
            service = _listening_on(int(address.rpartition(":")[2]))
            busy = service.cpu_times()
            rate = await _rate(lambda: stub.Get(request, timeout=30))
            after = service.cpu_times()
            cpu = (after.user + after.system - busy.user - busy.system) / _RATED
            yield Row(
                name=f"cache: hits in Redis, {_CONCURRENT} at a time",
                value=rate,
                unit="calls/s",
                detail={"cpu_ms_per_call": cpu * 1e3},
            )
            yield Row(name="cache: Get per second and core", value=1 / cpu, unit="calls/s")
            missing = pb.GetRequest(key=near.key("bench", b"missing").message)
            yield Row(
                name="cache: miss in both tiers, p50",
                value=await _median(lambda: stub.Get(missing, timeout=5)) * 1e3,
                unit="ms",
            )
    finally:
        await redis.close(client)


def _listening_on(port: int) -> psutil.Process:
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
            return psutil.Process(each.pid)
    raise RuntimeError(f"nobody listens on port {port}")


async def _until_near(near: CacheClient, key: CacheKey) -> None:
    """Near values are served once the feed of invalidations lives."""
    async with asyncio.timeout(20):
        while near.near(key) is None:
            await near.set(key, _VALUE, ttl=3_600)
            await asyncio.sleep(0.05)


def _ghosts(near: CacheClient) -> Row:
    """What counting ghosts adds to a request, on average: one key in sixteen has them."""
    keys = [near.key("bench", b"%d" % number) for number in range(512)]
    plain = [each._replace(ghost=False) for each in keys]
    taken = []
    for _ in range(_ROUNDS):
        spent = []
        for some in (plain, keys):
            begun = time.perf_counter()
            for _ in range(_NEAR_HITS // len(some)):
                for each in some:
                    near.near(each)
            spent.append(time.perf_counter() - begun)
        taken.append((spent[1] - spent[0]) / (_NEAR_HITS // len(keys) * len(keys)))
    return Row(
        name="cache: ghost counters per request, mean",
        value=median(taken) * 1e6,
        unit="µs",
        bound=Bound(at_most=3.0),
    )


def _near(near: CacheClient, key: CacheKey) -> Row:
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


def _hit_rates() -> list[Row]:
    """In virtual time, on the committed trace."""
    keys = list(trace.with_scans(0.5))
    entries = 1_000
    lru = hit_rates.least_recently_used(keys, entries=entries)
    sieve = hit_rates.sieve(keys, entries=entries)
    shipped = hit_rates.hit_rate(hit_rates.SHIPPED)
    return [
        Row(
            name="cache: hit rate, 1 h to live, cold, default policy, for who allows stale",
            value=shipped.hits * 100,
            unit="%",
            bound=Bound(at_least=76.0),
            detail={"stale": shipped.stale * 100},
        ),
        Row(
            name="cache: of these, up to 2 min past their time, flagged, while renewed",
            value=shipped.stale * 100,
            unit="%",
        ),
        Row(
            name="cache: hit rate, 1 h to live, cold, plain expiry (75.8 is the most there is)",
            value=hit_rates.hit_rate(hit_rates.PLAIN).hits * 100,
            unit="%",
        ),
        Row(
            name="cache: hit rate, tuned time to live, warmed, plain expiry",
            value=hit_rates.hit_rate(hit_rates.TUNED, warmed=True).hits * 100,
            unit="%",
            bound=Bound(at_least=80.0),
        ),
        Row(
            name="cache: hit rate of the first minute, cold",
            value=hit_rates.hit_rate(hit_rates.SHIPPED, within=60.0).hits * 100,
            unit="%",
        ),
        Row(
            name="cache: hit rate of the first minute, warmed",
            value=hit_rates.hit_rate(hit_rates.SHIPPED, warmed=True, within=60.0).hits * 100,
            unit="%",
        ),
        Row(
            name="cache: SIEVE over LRU with half the keys asked for once",
            value=sieve / lru,
            unit="times",
            bound=Bound(at_least=1.0),
            detail={"sieve": sieve, "lru": lru, "entries": entries},
        ),
    ]
