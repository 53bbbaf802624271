"""Random histories of two tenants and their users against a dictionary that never loses anything.

Between the calls the clock moves, Redis comes back empty, and a tier is cut off for a while. A hit
must be a value set for exactly that user or tenant and within its time; a removed value never comes
back. As long as nothing was cut off, it is the last value, and what was stored is found.
"""

import random
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
import redis.asyncio

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.context import Identity
from tests.component.cache.conftest import ADA, BOB, OTHER_ADA, TENANT, USER, Cache, key
from tests.support.eventually import eventually

_STEPS = 250
_KEYS = ("a", "b", "c")

Place = tuple[str, str, str]
Values = list[tuple[bytes, float]]


class History:
    """`known`: what a place may show, each with the end of its time. More than one only after a
    tier was cut off: what it missed is not wrong before its time is over."""

    def __init__(self, cache: Cache, seed: int) -> None:
        self.cache = cache
        self.random = random.Random(seed)
        self.known: dict[Place, Values] = {}
        self.number = 0
        self.cut = ""
        self.was_cut = False
        self.hits = 0

    async def run(self) -> None:
        steps: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.set, 30),
            (self.get, 45),
            (self.batch, 8),
            (self.delete, 10),
            (self.time_passes, 8),
            (self.redis_is_emptied, 3),
            (self.a_tier_is_cut, 2),
            (self.all_is_back, 4),
        ]
        for step in self.random.choices(
            [step for step, _ in steps], [often for _, often in steps], k=_STEPS
        ):
            await step()
        await self.all_is_back()

    def pick(self) -> tuple[Identity, cache_pb2.Key, Place]:
        who = self.random.choice((ADA, BOB, OTHER_ADA))
        scope, name = self.random.choice((USER, TENANT)), self.random.choice(_KEYS)
        return who, key(name, scope), (who.tenant, who.user if scope == USER else "", name)

    async def set(self) -> None:
        who, one, place = self.pick()
        self.number += 1
        value = f"{place} {self.number}".encode()
        ttl = self.random.choice((1.0, 10.0, 100.0))
        stored = await self.cache.set(one, value, who, ttl=ttl)
        assert stored.stored
        entry = (value, self.cache.clock() + ttl)
        if self.was_cut:
            self.known.setdefault(place, []).append(entry)
        else:
            self.known[place] = [entry]

    async def get(self) -> None:
        who, one, place = self.pick()
        self.judge(place, await self.cache.get(one, who))

    async def batch(self) -> None:
        picks = [self.pick() for _ in range(5)]
        who = picks[0][0]
        mine = [(one, place) for other, one, place in picks if other == who]
        results = await self.cache.batch([one for one, _ in mine], who)
        for (_, place), answer in zip(mine, results, strict=True):
            self.judge(place, answer)

    async def delete(self) -> None:
        who, one, place = self.pick()
        try:
            await self.cache.delete(one, who)
        except grpc.aio.AioRpcError:
            assert self.was_cut  # a connection that broke then may be found out only now
        else:
            self.known.pop(place, None)

    async def time_passes(self) -> None:
        self.cache.clock.ahead += self.random.choice((0.1, 2.0, 20.0))

    async def redis_is_emptied(self) -> None:
        client = redis.asyncio.from_url(self.cache.redis.url())
        try:
            await client.flushall()
        finally:
            await client.aclose()

    async def a_tier_is_cut(self) -> None:
        if not self.cut:
            self.was_cut = True
            self.cut = self.random.choice(("redis", "postgres"))
            getattr(self.cache, f"{self.cut}_proxy").cut()

    async def all_is_back(self) -> None:
        if not self.cut:
            return
        getattr(self.cache, f"{self.cut}_proxy").resume()
        self.cut = ""

        async def healed() -> bool:
            return not (await self.cache.get(key("nothing"))).degradations

        await eventually(healed)

    def judge(self, place: Place, answer: cache_pb2.GetResponse) -> None:
        now = self.cache.clock()
        allowed = [value for value, end in self.known.get(place, []) if now < end]
        if answer.HasField("entry"):
            self.hits += 1
            assert answer.entry.value in allowed, (place, answer, self.known.get(place))
        elif not self.was_cut:
            assert not allowed, (place, self.known[place])


@pytest.mark.parametrize("seed", range(4))
async def test_no_answer_is_wrong_and_nothing_is_lost_before_something_is_away(
    cache: Cache, seed: int
) -> None:
    history = History(cache, seed)
    await history.run()
    assert history.hits > 20
