"""A cache service in this process, on a real PostgreSQL and a Redis of its own, over gRPC."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.cache import main
from peregrine.cache.loaders import Loaders
from peregrine.kit.context import Identity
from peregrine.kit.options import channel_options
from peregrine.kit.settings import Secret
from peregrine.local.servers import RedisServer
from tests.support.dsn import socket_path, through
from tests.support.identity import KEYS_TEXT, signed
from tests.support.proxy import FaultProxy, fault_proxy

ADA, BOB = Identity("acme", "ada"), Identity("acme", "bob")
OTHER_ADA = Identity("umbrella", "ada")
TENANT, USER = common_pb2.SCOPE_TENANT, common_pb2.SCOPE_USER


def key(name: str | bytes, scope: Any = USER, namespace: str = "tool:test") -> cache_pb2.Key:
    utf8 = name if isinstance(name, bytes) else name.encode()
    return cache_pb2.Key(namespace=namespace, key=utf8, scope=scope)


POLICY_TIMES = ("ttl", "min_ttl", "max_ttl", "stale_while_revalidate", "stale_if_error")


@dataclass
class Clock:
    """The wall clock of the service; `ahead` moves it."""

    base: float = 1_800_000_000.0
    ahead: float = 0.0

    def __call__(self) -> float:
        return self.base + self.ahead


@dataclass(kw_only=True)
class Cache:
    """Calls of a cache service, and the parts around it."""

    stub: cache_pb2_grpc.CacheServiceStub
    target: str
    registry: CollectorRegistry
    clock: Clock
    redis: RedisServer
    redis_proxy: FaultProxy
    postgres_proxy: FaultProxy
    dsn: str

    async def get(self, one: cache_pb2.Key, who: Identity = ADA) -> cache_pb2.GetResponse:
        answer: cache_pb2.GetResponse = await self.stub.Get(
            cache_pb2.GetRequest(key=one), metadata=signed(who), timeout=20
        )
        return answer

    async def value(self, one: cache_pb2.Key, who: Identity = ADA) -> bytes | None:
        answer = await self.get(one, who)
        return answer.entry.value if answer.HasField("entry") else None

    async def set(
        self, one: cache_pb2.Key, value: bytes, who: Identity = ADA, *, ttl: float = 60, **more: Any
    ) -> cache_pb2.SetResponse:
        request = cache_pb2.SetRequest(key=one, value=value, **more)
        request.ttl.FromMicroseconds(round(ttl * 1e6))
        answer: cache_pb2.SetResponse = await self.stub.Set(
            request, metadata=signed(who), timeout=20
        )
        return answer

    async def delete(self, one: cache_pb2.Key, who: Identity = ADA) -> bool:
        answer = await self.stub.Delete(
            cache_pb2.DeleteRequest(key=one), metadata=signed(who), timeout=20
        )
        return bool(answer.deleted)

    async def batch(
        self, keys: list[cache_pb2.Key], who: Identity = ADA
    ) -> list[cache_pb2.GetResponse]:
        answer = await self.stub.BatchGet(
            cache_pb2.BatchGetRequest(keys=keys), metadata=signed(who), timeout=20
        )
        return list(answer.results)

    async def call(
        self, method: str, request: Any, who: Identity = ADA, *, timeout: float = 20
    ) -> Any:
        return await getattr(self.stub, method)(request, metadata=signed(who), timeout=timeout)

    async def lease(
        self, one: cache_pb2.Key, who: Identity = ADA, *, timeout: float = 20, **more: Any
    ) -> cache_pb2.GetOrLeaseResponse:
        request = cache_pb2.GetOrLeaseRequest(key=one, **more)
        answer: cache_pb2.GetOrLeaseResponse = await self.call(
            "GetOrLease", request, who, timeout=timeout
        )
        return answer

    async def invalidate(self, who: Identity = ADA, **target: Any) -> int:
        request = cache_pb2.InvalidateRequest(**target)
        answer = await self.stub.Invalidate(
            request, metadata=signed(who), timeout=20, wait_for_ready=True
        )
        return int(answer.sequence)

    async def apply(
        self,
        namespace: str = "tool:test",
        who: Identity = ADA,
        *,
        request_id: str = "",
        expected_version: int | None = None,
        **fields: Any,
    ) -> cache_pb2.Policy:
        """Times in seconds."""
        policy = cache_pb2.Policy(namespace=namespace)
        for name, value in fields.items():
            if name in POLICY_TIMES:
                getattr(policy, name).FromMicroseconds(round(value * 1e6))
            else:
                setattr(policy, name, value)
        request = cache_pb2.ApplyPolicyRequest(
            policy=policy, request_id=request_id, expected_version=expected_version
        )
        applied: cache_pb2.Policy = (await self.call("ApplyPolicy", request, who)).policy
        return applied

    async def empty_redis(self) -> None:
        await self.redis.kill()
        await self.redis.restart(empty=True)

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def stack(migrated_dsn: str) -> AsyncIterator[AsyncExitStack]:
    # Before the database goes, whoever uses it.
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def cache(
    migrated_dsn: str, redis_server: RedisServer, stack: AsyncExitStack
) -> AsyncIterator[Cache]:
    yield await replica(stack, migrated_dsn, redis_server, Clock())


@pytest.fixture
async def other(cache: Cache, stack: AsyncExitStack) -> AsyncIterator[Cache]:
    """Another replica of the same cache."""
    yield await replica(stack, cache.dsn, cache.redis, cache.clock)


async def replica(
    stack: AsyncExitStack,
    dsn: str,
    redis: RedisServer,
    clock: Clock,
    loaders: Loaders | None = None,
    *,
    listen: str = "127.0.0.1:0",
) -> Cache:
    redis_proxy = await stack.enter_async_context(fault_proxy(str(redis.socket_path)))
    postgres_proxy = await stack.enter_async_context(fault_proxy(socket_path(dsn)))
    settings = main.Settings(
        identity_keys=Secret(KEYS_TEXT),
        listen=listen,
        postgres_dsn=Secret(through(dsn, postgres_proxy.address)),
        postgres_pool_size=4,
        cache_redis_url=Secret(f"redis://{redis_proxy.address}/0"),
        # Two busy cores must not look like a store that is away.
        redis_timeout_seconds=2.0,
        postgres_timeout_seconds=2.0,
    )
    registry = CollectorRegistry()
    server = await stack.enter_async_context(
        main.build(settings, registry=registry, now=clock, loaders=loaders)
    )
    await stack.enter_async_context(server)
    await server.serving()
    channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(server.address, options=channel_options(server.address))
    )
    return Cache(
        stub=cache_pb2_grpc.CacheServiceStub(channel),
        target=server.address,
        registry=registry,
        clock=clock,
        redis=redis,
        redis_proxy=redis_proxy,
        postgres_proxy=postgres_proxy,
        dsn=dsn,
    )
