"""What callers of the cache notice of a store that is away: how much longer calls take once the
breaker is open, and how soon all is as before when the store is back. They see misses, no errors.

Callers ask for keys, store what is missing, take leases and compute, all the time and at a steady
pace. Each way of being away is measured beside calls of a moment before, when all was well.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc.aio
from tests.support import broken_stores
from tests.support.broken_stores import FAULTS, PostgresStore, RedisStore, Replica

from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, percentile, spread
from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as rpc
from peregrine.client import CacheClient, Identity

_OPENS = frozenset(FAULTS) - {"full"}  # full is an answer, too

_CALLERS = 5
_PAUSE_SECONDS = 0.01
_KEYS = 200
_HEALTHY_SECONDS = 1.0
_AWAY_SECONDS = 2.0
_PATIENCE_SECONDS = 15.0
_CALL_SECONDS = 5.0


async def outages(lab: Lab) -> AsyncIterator[Row]:
    async with (
        broken_stores.opened(lab.children, lab.directory / "outage", replicas=1) as world,
        _Callers.of(world.replicas[0]) as callers,
    ):
        healthy: list[float] = []
        away: dict[str, list[float]] = {}
        healed: dict[str, float] = {}
        await callers.during(_HEALTHY_SECONDS)  # connections are made, statements prepared
        for store in (world.redis, world.postgres):
            for fault, (take, give) in FAULTS.items():
                name = f"{store.name} {fault}"
                healthy += await callers.during(_HEALTHY_SECONDS)
                await getattr(store, take)()
                if fault in _OPENS:
                    await _until_open(world.replicas[0], store)
                away[name] = await callers.during(_AWAY_SECONDS)
                await getattr(store, give)()
                healed[name] = await _healing(callers, name)
        usual = percentile(healthy, 99)
        for name, taken in away.items():
            yield Row(
                name=f"cache: {name}: added to the p99 once the breaker is open",
                value=max(percentile(taken, 99) - usual, 0.0) * 1e3,
                unit="ms",
                bound=Bound(at_most=20.0),
                detail={"away_s": spread(taken), "healthy_s": spread(healthy)},
            )
        for name, seconds in healed.items():
            yield Row(
                name=f"cache: {name}: healed after its return",
                value=seconds,
                unit="s",
                bound=Bound(at_most=2.0),
            )
        yield Row(
            name="cache: calls that failed or gave a wrong value in all of these outages",
            value=len(callers.problems),
            unit=f"of {callers.calls:,}",
            bound=Bound(at_most=0),
            detail={"problems": callers.problems[:10], "misses_said_why": callers.degraded},
        )


class _Callers:
    """Calls the cache from the beginning to the end, and keeps how long calls took."""

    def __init__(self, stub: rpc.CacheServiceStub, client: CacheClient) -> None:
        self.stub: Any = stub
        self.calls = 0
        self.degraded = 0
        self.problems: list[str] = []
        self._client = client
        self._taken: list[float] = []
        self._chance = random.Random(1)
        self._number = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, replica: Replica) -> "AsyncIterator[_Callers]":
        async with (
            grpc.aio.insecure_channel(replica.address) as channel,
            CacheClient(
                replica.address, identity=Identity("local", "local"), near_bytes=0
            ) as client,
        ):
            callers = cls(rpc.CacheServiceStub(channel), client)
            tasks = [asyncio.create_task(callers._go_on()) for _ in range(_CALLERS)]
            try:
                yield callers
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def during(self, seconds: float) -> list[float]:
        """What calls took that began and ended meanwhile."""
        taken: list[float] = []
        self._taken = taken
        await asyncio.sleep(seconds)
        self._taken = []
        return taken

    async def _go_on(self) -> None:
        while True:
            await self._timed(self._read)
            await self._timed(self._lease if self._chance.random() < 0.5 else self._compute)
            await asyncio.sleep(_PAUSE_SECONDS * self._chance.uniform(0.5, 1.5))

    async def _timed(self, call: Callable[[list[float]], Awaitable[None]]) -> None:
        into = self._taken
        try:
            await call(into)
        except grpc.aio.AioRpcError as error:
            self.problems.append(f"{call.__name__}: {error.code().name}: {error.details()}")
        except Exception as error:
            # Whatever reaches a caller is a row of the result.
            self.problems.append(f"{call.__name__}: {type(error).__name__}: {error}")

    async def call(self, method: str, request: Any, into: list[float] | None = None) -> Any:
        begun = time.perf_counter()
        answer = await getattr(self.stub, method)(request, timeout=_CALL_SECONDS)
        self._note(begun, into)
        return answer

    def key(self, name: str) -> pb.Key:
        return pb.Key(namespace="bench", key=name.encode())

    def new_name(self) -> str:
        self._number += 1
        return f"new {self._number}"

    def _note(self, begun: float, into: list[float] | None) -> None:
        self.calls += 1
        if into is not None and into is self._taken:
            into.append(time.perf_counter() - begun)

    async def _read(self, into: list[float]) -> None:
        name = f"key {self._chance.randrange(_KEYS)}"
        answer = await self.call("Get", pb.GetRequest(key=self.key(name)), into)
        if self._judged(name, answer):
            return
        request = pb.SetRequest(key=self.key(name), value=_value(name))
        await self.call("Set", request, into)

    async def _lease(self, into: list[float]) -> None:
        name = self.new_name()
        answer = await self.call("GetOrLease", pb.GetOrLeaseRequest(key=self.key(name)), into)
        self._judged(name, answer)
        if answer.HasField("lease"):
            request = pb.SetRequest(
                key=self.key(name),
                value=_value(name),
                fencing_token=answer.lease.fencing_token,
                epoch=answer.lease.epoch,
            )
            await self.call("Set", request, into)
        elif not answer.HasField("entry"):
            self.problems.append("_lease: neither an entry nor a lease")

    async def _compute(self, into: list[float]) -> None:
        name = self.new_name()

        async def compute() -> bytes:
            return _value(name)

        key = self._client.key("bench", name.encode())
        begun = time.perf_counter()
        cached = await self._client.get_or_compute(key, compute)
        self._note(begun, into)
        if cached.value != _value(name):
            self.problems.append("_compute: a wrong value")

    def _judged(self, name: str, answer: Any) -> bool:
        """Whether there is a value."""
        self.degraded += bool(answer.degradations)
        if not answer.HasField("entry"):
            return False
        if answer.entry.value != _value(name):
            self.problems.append(f"{name}: a wrong value")
        return True


def _value(name: str) -> bytes:
    return f"the value of {name} ".encode() * 20


async def _until_open(replica: Replica, store: RedisStore | PostgresStore) -> None:
    async def left_out() -> bool:
        return not any([await replica.up(level) for level in store.levels])

    await _until(left_out, f"{store.name} is left out")


async def _healing(callers: _Callers, name: str) -> float:
    """Seconds until it is used as before: for entries, for leases, and for the feed."""
    begun = time.monotonic()
    await _until(partial(_as_before, callers), f"{name}: healed")
    return time.monotonic() - begun


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not await condition():
        if time.monotonic() > give_up:
            raise RuntimeError(f"not within {_PATIENCE_SECONDS:g} s: {what}")
        await asyncio.sleep(0.02)


async def _as_before(callers: _Callers) -> bool:
    key = callers.key(callers.new_name())
    leased = await callers.call("GetOrLease", pb.GetOrLeaseRequest(key=key))
    if leased.degradations or not leased.lease.fencing_token:
        return False
    token = leased.lease.fencing_token
    await callers.call("Set", pb.SetRequest(key=key, value=b"x", fencing_token=token))
    found = await callers.call("Get", pb.GetRequest(key=key))
    if found.degradations or found.entry.tier != pb.TIER_REDIS:
        return False
    try:
        await callers.stub.Invalidate(pb.InvalidateRequest(key=key), timeout=_CALL_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    gone = await callers.call("Get", pb.GetRequest(key=key))
    return not gone.HasField("entry") and not gone.degradations
