"""Each store stopped, frozen, slow, full and lost, for real: callers see values or misses, never an
error, nobody waits for it once it is left out, and the probe that finds it back brings all back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.cache import main
from peregrine.client import CacheClient
from peregrine.kit.settings import Secret
from peregrine.local.processes import Children
from tests.component.cache.conftest import ADA, key
from tests.support import broken_stores
from tests.support.broken_stores import FAULTS, PostgresStore, RedisStore
from tests.support.eventually import eventually
from tests.support.identity import KEYS_TEXT, signed, signer

OPENING = sorted(set(FAULTS) - {"full"})  # who is full does answer
NAMES = [f"kept {number}" for number in range(5)]

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Callers:
    """All that callers do, and what they may get: a right value or none."""

    def __init__(self, stub: Any, client: CacheClient, registry: CollectorRegistry) -> None:
        self._stub = stub
        self._client = client
        self._registry = registry
        self._number = 0
        self.what: set[str] = set()

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, metadata=signed(ADA), timeout=20)

    async def all_calls(self) -> None:
        """One of each kind; notes what answers said is away."""
        self._number += 1
        new = f"new {self._number}"
        one = NAMES[self._number % len(NAMES)]
        for name in (one, new):
            found = await self.call("Get", cache_pb2.GetRequest(key=key(name)))
            self._judge(name, found)
        keys = [key(name) for name in (*NAMES, new)]
        batch = await self.call("BatchGet", cache_pb2.BatchGetRequest(keys=keys))
        for name, found in zip((*NAMES, new), batch.results, strict=True):
            self._judge(name, found)
        leased = await self.call("GetOrLease", cache_pb2.GetOrLeaseRequest(key=key(new)))
        assert leased.HasField("lease"), "nobody else computes it"
        self._judge(new, leased)
        stored = await self.call(
            "Set",
            cache_pb2.SetRequest(
                key=key(new), value=new.encode(), fencing_token=leased.lease.fencing_token
            ),
        )
        assert stored.stored or stored.reason == "UNAVAILABLE"
        self._judge(new, await self.call("Get", cache_pb2.GetRequest(key=key(new))))
        computed = f"computed {self._number}"

        async def compute() -> bytes:
            return computed.encode()

        with signer().acting_as(ADA, set()):
            mine = self._client.key("tool:test", computed.encode())
            values = await asyncio.gather(
                *(self._client.get_or_compute(mine, compute) for _ in range(3))
            )
        assert {each.value for each in values} == {computed.encode()}

    async def kept(self) -> None:
        for name in NAMES:
            request = cache_pb2.SetRequest(key=key(name), value=name.encode(), tags=["kept"])
            assert (await self.call("Set", request)).stored

    async def as_before(self) -> bool:
        """Entries, leases and the feed."""
        self._number += 1
        name = f"again {self._number}"
        leased = await self.call("GetOrLease", cache_pb2.GetOrLeaseRequest(key=key(name)))
        if leased.degradations or not leased.lease.fencing_token:
            return False
        request = cache_pb2.SetRequest(
            key=key(name),
            value=name.encode(),
            tags=["again"],
            fencing_token=leased.lease.fencing_token,
        )
        if not (await self.call("Set", request)).stored:
            return False
        found = await self.call("Get", cache_pb2.GetRequest(key=key(name)))
        self._judge(name, found)
        if found.degradations or found.entry.tier != cache_pb2.TIER_REDIS:
            return False
        try:
            await self.call("Invalidate", cache_pb2.InvalidateRequest(tag="again"))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            return False
        gone = await self.call("Get", cache_pb2.GetRequest(key=key(name)))
        assert not gone.HasField("entry")
        return not gone.degradations

    def _judge(self, name: str, found: Any) -> None:
        self.what |= {each.what for each in found.degradations}
        if found.HasField("entry"):
            assert found.entry.value == name.encode()

    def _samples(self, name: str, levels: tuple[str, ...]) -> float:
        return sum(
            sample.value
            for metric in self._registry.collect()
            for sample in metric.samples
            if sample.name == name and sample.labels["level"] in levels
        )

    def left_out(self, levels: tuple[str, ...]) -> bool:
        return self._samples("peregrine_cache_tier_up", levels) == 0

    def asked(self, levels: tuple[str, ...]) -> float:
        return self._samples("peregrine_cache_tier_seconds_count", levels)

    def probes(self, levels: tuple[str, ...]) -> float:
        """Of each of them, on average."""
        return self._samples("peregrine_cache_tier_probes_total", levels) / len(levels)

    def refusals(self, levels: tuple[str, ...]) -> float:
        return self._samples("peregrine_cache_tier_refusals_total", levels)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[dict[str, RedisStore | PostgresStore], Callers]]:
    """One of each store for all of this file, and a cache service on them in this process."""
    directory: Path = tmp_path_factory.mktemp("broken") / "stores"
    async with AsyncExitStack() as stack:
        children = await stack.enter_async_context(Children(grace=5.0))
        stores = await stack.enter_async_context(
            broken_stores.opened(children, directory, replicas=0, durable=False)
        )
        settings = main.Settings(
            identity_keys=Secret(KEYS_TEXT),
            listen="127.0.0.1:0",
            postgres_dsn=Secret(stores.postgres.dsn),
            postgres_pool_size=4,
            cache_redis_url=Secret(stores.redis.url),
            # Less than what a slow store takes, more than a busy machine's.
            redis_timeout_seconds=0.25,
            postgres_timeout_seconds=0.25,
        )
        registry = CollectorRegistry()
        server = await stack.enter_async_context(main.build(settings, registry=registry))
        await stack.enter_async_context(server)
        await server.serving()
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        client = await stack.enter_async_context(
            CacheClient(server.address, entry_timeout=5.0, near_bytes=0)
        )
        callers = Callers(cache_pb2_grpc.CacheServiceStub(channel), client, registry)
        yield {"Redis": stores.redis, "PostgreSQL": stores.postgres}, callers


@pytest.mark.parametrize("fault", OPENING)
@pytest.mark.parametrize("name", ["Redis", "PostgreSQL"])
async def test_a_store_that_is_away_costs_hits_and_comes_back_by_a_probe(
    world: tuple[dict[str, RedisStore | PostgresStore], Callers], name: str, fault: str
) -> None:
    stores, callers = world
    store = stores[name]
    take, give = FAULTS[fault]
    await callers.kept()
    await getattr(store, take)()
    try:

        async def left_out() -> bool:
            await callers.all_calls()
            return callers.left_out(store.levels)

        await eventually(left_out, timeout=30)
        asked = callers.asked(store.levels)
        callers.what.clear()
        for _ in range(3):
            await callers.all_calls()
            await callers.call("GetStats", cache_pb2.GetStatsRequest())
        assert callers.asked(store.levels) == asked, "somebody waited for it"
        assert callers.what, "nobody was told"
    finally:
        await getattr(store, give)()
    probes = callers.probes(store.levels)
    await eventually(callers.as_before, timeout=30)
    # One was under way, and one more may have met a busy machine.
    assert callers.probes(store.levels) <= probes + 3, "found back by a probe"
    await callers.all_calls()


@pytest.mark.parametrize("name", ["Redis", "PostgreSQL"])
async def test_a_full_store_costs_what_it_would_have_kept(
    world: tuple[dict[str, RedisStore | PostgresStore], Callers],
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stores, callers = world
    store = stores[name]
    await callers.kept()
    await store.full()
    try:
        capsys.readouterr()
        refused = callers.refusals(store.levels)
        for _ in range(5):
            await callers.all_calls()
        assert callers.refusals(store.levels) >= refused + 5
        # As many warnings as there are kinds of operations, however many entries it refused.
        assert 1 <= capsys.readouterr().out.count("tier_refuses") <= 4
        assert not callers.left_out(store.levels)
    finally:
        await store.roomy()
    await eventually(callers.as_before, timeout=30)
