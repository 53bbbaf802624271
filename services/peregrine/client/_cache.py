"""The shared cache: entries with a near cache in front, and the policies of namespaces.

`get` asks the near cache of this process first, then the service. A miss is None, and so is a cache
that is away: after a few failures in a row it is not asked any more until it answers again, which a
task of the client's own finds out. So a caller that can compute the value itself needs no `except`.

A `CacheKey` belongs to the identity it was made under, in every tier, whoever uses it later.
"""

import time
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import grpc
import grpc.aio
from google.protobuf import duration_pb2, timestamp_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as pb_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.client._connection import ServiceClient, new_request_id, unary_methods
from peregrine.client._near_cache import NearCache
from peregrine.kit import context
from peregrine.kit.breaker import Breaker
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error

MAX_VALUE_BYTES = 1024 * 1024

_SERVICE = pb.DESCRIPTOR.services_by_name["CacheService"]
# What the near cache adds to the age of a value: a tenth of its time to live, 5 s at most.
_NEAR_SECONDS = 5.0
_NEAR_SHARE = 0.1
# These are given up at once instead of tried again: computing the value is the second try.
_ENTRIES = frozenset({"Get", "BatchGet", "GetOrLease", "Set"})


class CacheKey(NamedTuple):
    """Where an entry lives; made by `CacheClient.key`."""

    identity: Identity
    near: tuple[str, str, str, bytes]
    message: pb.Key


class Cached(NamedTuple):
    """A value found. `born`: when it was true, on `time.monotonic()`; `cost` in seconds."""

    value: bytes
    tier: pb.Tier
    born: float
    cost: float

    @property
    def age(self) -> float:
        """Seconds."""
        return max(time.monotonic() - self.born, 0.0)


class CacheClient(ServiceClient):
    """Entries, and the policies that say how long those of a namespace live.

    Args:
      near_bytes: room of the near cache; 0 means there is none.
      entry_timeout: seconds that the service gets to find or take an entry.
    """

    name: ClassVar[str] = "cache"

    def __init__(
        self,
        target: str = "127.0.0.1:50054",
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
        near_bytes: int = 16 * 1024 * 1024,
        entry_timeout: float = 0.3,
    ) -> None:
        super().__init__(target, connections=connections, timeout=timeout, identity=identity)
        self._near: NearCache[tuple[str, str, str, bytes], Cached] = NearCache(max_bytes=near_bytes)
        self._entry_timeout = entry_timeout
        self._breaker = Breaker(name=self.name, probe=self._answers)

    @property
    def near_bytes(self) -> int:
        """What the near cache holds."""
        return self._near.bytes

    @property
    def near_evictions(self) -> int:
        return self._near.evictions

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._breaker.close()
        await super().__aexit__(kind, error, traceback)

    def _bind(self, pool: ChannelPool) -> None:
        self._cache = pb_grpc.CacheServiceStub(pool)
        self._health = health_pb2_grpc.HealthStub(pool)

    def _idempotent(self) -> frozenset[str]:
        return unary_methods(_SERVICE, without=_ENTRIES)

    def key(
        self,
        namespace: str,
        key: bytes,
        *,
        shared: bool = False,
        identity: Identity | None = None,
    ) -> CacheKey:
        """The key of an entry of one user, or of its whole tenant when `shared`.

        Args:
          namespace: 1 to 128 of [A-Za-z0-9_.:-].
          key: 1 to 512 bytes.
          identity: whose it is; by default the client's, else that of the current call.

        Raises:
          Unauthenticated: IDENTITY_MISSING, when nothing says who the current user is.
        """
        who = identity or self._identity or context.identity()
        scope = common_pb2.SCOPE_TENANT if shared else common_pb2.SCOPE_USER
        return CacheKey(
            who,
            (who.tenant, "" if shared else who.user, namespace, key),
            pb.Key(namespace=namespace, key=key, scope=scope),
        )

    def near(self, key: CacheKey) -> Cached | None:
        """The value, if this process has it."""
        return self._near.get(key.near, time.monotonic())

    async def get(self, key: CacheKey) -> Cached | None:
        """The value, from the nearest tier that has it.

        Raises:
          InvalidArgument: KEY_INVALID.
        """
        cached = self._near.get(key.near, time.monotonic())
        if cached is not None:
            return cached
        response = await self._asked(self._cache.Get, key, pb.GetRequest(key=key.message))
        if response is None or not response.HasField("entry"):
            return None
        entry = response.entry
        ttl, age = _seconds(entry.ttl), _seconds(entry.age)
        cached = Cached(entry.value, entry.tier, time.monotonic() - age, _seconds(entry.cost))
        self._keep_near(key, cached, ttl)
        return cached

    async def set(
        self,
        key: CacheKey,
        value: bytes,
        *,
        ttl: float,
        cost: float = 0.0,
        tags: Iterable[str] = (),
        born: float | None = None,
        sensitive: bool = False,
    ) -> str:
        """Stores a value; returns why it was not stored (UPPER_SNAKE), empty when it was.

        Args:
          ttl: seconds, above 0 and at most 30 days.
          cost: seconds that computing it took.
          born: when it was true, on `time.monotonic()`; now, when not given.
          sensitive: never store it.

        Raises:
          InvalidArgument: KEY_INVALID, TTL_INVALID or TAGS_INVALID.
        """
        if sensitive:
            return "SENSITIVE"
        if len(value) > MAX_VALUE_BYTES:
            return "TOO_LARGE"
        now = time.monotonic()
        born = now if born is None else min(born, now)
        self._keep_near(key, Cached(value, pb.TIER_NEAR, born, cost), ttl)
        request = pb.SetRequest(
            key=key.message,
            value=value,
            ttl=_duration(ttl),
            tags=tags,
            cost=_duration(cost),
            fetch_time=_timestamp(time.time() - (now - born)),
        )
        response = await self._asked(self._cache.Set, key, request)
        return "UNAVAILABLE" if response is None else str(response.reason)

    async def delete(self, key: CacheKey) -> bool:
        """Removes an entry from the near cache here and from every shared tier; whether it was
        there. Near caches of other processes forget it within 5 s.

        Raises:
          Unavailable: CACHE_TIER_UNAVAILABLE, a tier is away that may still hold it.
        """
        there = self._near.discard(key.near)
        with context.bind(identity=key.identity):
            response = await self._call(self._cache.Delete, pb.DeleteRequest(key=key.message))
        return bool(response.deleted) or there

    async def apply_policy(
        self,
        policy: pb.Policy,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
    ) -> pb.Policy:
        """Creates or replaces the policy of a namespace; in force everywhere within a second.

        Raises:
          InvalidArgument: POLICY_INVALID. Aborted: VERSION_STALE.
        """
        request = pb.ApplyPolicyRequest(policy=policy, request_id=request_id or new_request_id())
        if expected_version is not None:
            request.expected_version = expected_version
        response = await self._call(self._cache.ApplyPolicy, request)
        applied: pb.Policy = response.policy
        return applied

    async def get_policy(self, namespace: str) -> pb.Policy:
        """Raises NotFound / POLICY_NOT_FOUND."""
        request = pb.GetPolicyRequest(namespace=namespace)
        response = await self._call(self._cache.GetPolicy, request)
        policy: pb.Policy = response.policy
        return policy

    def list_policies(self, *, limit: int | None = None) -> AsyncGenerator[pb.Policy, None]:
        """Policies by namespace."""
        return self._list(self._cache.ListPolicies, pb.ListPoliciesRequest(), "policies", limit)

    async def _asked(self, method: Any, key: CacheKey, request: Any) -> Any:
        """The response; None when the service is away or does not answer in time."""
        left = context.deadline_remaining()
        # A caller that cannot wait would look like a service that does not answer.
        if self._breaker.open or (left is not None and left < 2 * self._entry_timeout):
            return None
        try:
            with context.bind(identity=key.identity):
                response = await method(request, timeout=self._entry_timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise from_rpc_error(error) from None
            self._breaker.failed()
            return None
        self._breaker.succeeded()
        return response

    async def _answers(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=_SERVICE.full_name)
        try:
            # For as long as a connection takes; a lookup's time is for one that is there.
            response = await self._health.Check(request, timeout=1.0, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _keep_near(self, key: CacheKey, cached: Cached, ttl: float) -> None:
        now = time.monotonic()
        expires = min(now + min(_NEAR_SECONDS, ttl * _NEAR_SHARE), cached.born + ttl)
        if expires > now:
            near = cached._replace(tier=pb.TIER_NEAR)
            self._near.put(key.near, near, size=len(cached.value), expires=expires)


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> duration_pb2.Duration:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=nanos)
