"""The shared cache: entries with a near cache in front, and the policies of namespaces.

`get` asks the near cache of this process first, then the service. A miss is None, and so is a cache
that is away: after a few failures in a row it is not asked any more until it answers again, which a
task of the client's own finds out. So a caller that can compute the value itself needs no `except`.

`get_or_compute` is for who has a function that computes the value: it runs once for all who wait,
here and in other processes. `cached` makes a decorator of it.

A `CacheKey` belongs to the identity it was made under, in every tier, whoever uses it later.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.common.v1 import common_pb2
from peregrine.client._connection import new_request_id
from peregrine.client._entries import Entries
from peregrine.client._flights import Filling, Flights
from peregrine.client._values import Cached, CacheKey
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error

_WARM_SECONDS = 3_600.0


class CacheClient(Entries):
    """Entries, and the policies that say how long those of a namespace live.

    Args:
      near_bytes: room of the near cache; 0 means there is none.
      entry_timeout: seconds that the service gets to find or take an entry.
      registry: where the near cache's metrics are shown.
    """

    _flights: Flights
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop in which the client is open."""
        return self._loop

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._flights = Flights(self)
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            self._loop = None
            await self._flights.close()
        await super().__aexit__(kind, error, traceback)

    async def get_or_compute(
        self,
        key: CacheKey,
        compute: Callable[[], Awaitable[bytes]],
        *,
        ttl: float | None = None,
        first_ttl: float | None = None,
        tags: Iterable[str] = (),
        absent: Callable[[bytes], bool] | None = None,
        allow_stale: bool = True,
        source: bytes = b"",
        revalidate: bool = False,
    ) -> Cached:
        """The value, computed if nobody has it; by one caller for all who ask, in every process.

        What `compute` raises is raised to all who wait here, and nothing is kept, unless the policy
        has a stale value for that case. It runs on behalf of the key's identity and without the
        deadline of whoever came first; it is cancelled when nobody waits for it any more.

        Args:
          ttl, first_ttl, tags, source: as for `set`.
          absent: whether a value says that there is nothing; it is kept for 5 s.
          allow_stale: take a value whose time is over while it is computed anew, when the policy
            allows it.
          revalidate: `compute` only reads, so one hit in a hundred may be compared with a new
            value, by which the time to live is tuned; at most one computation in a hundred more.
        """
        cached = self.near(key)
        if cached is None or (revalidate and self._flights.sampled()):
            fill = Filling(compute, ttl, first_ttl, tuple(tags), absent, source)
            if cached is not None:
                self._flights.revalidate(key, fill)
                return cached
            cached = await self._flights.join(
                key, fill, allow_stale=allow_stale, revalidate=revalidate
            )
        return cached

    async def delete(self, key: CacheKey) -> bool:
        """Removes an entry, here and everywhere, also for computations that began before; whether
        it was there.

        Raises:
          Unavailable: CACHE_TIER_UNAVAILABLE, nobody could be told.
        """
        there = self._near.discard(key.near)
        with context.bind(identity=key.identity):
            response = await self._call(self._cache.Delete, pb.DeleteRequest(key=key.message))
        return bool(response.deleted) or there

    async def invalidate(
        self,
        *,
        key: CacheKey | None = None,
        tag: str = "",
        namespace: str = "",
        identity: Identity | None = None,
        request_id: str | None = None,
    ) -> int:
        """Makes entries of the tenant untrue, by exactly one of key, tag or namespace, also for
        computations that began before; returns the position in the feed. Near caches everywhere
        know within 100 ms (p99), and serve it for 5 s at the very most.

        Raises:
          InvalidArgument: KEY_INVALID, TAGS_INVALID, TARGET_MISSING.
          Unavailable: CACHE_TIER_UNAVAILABLE, nobody could be told.
        """
        if (key is not None) + bool(tag) + bool(namespace) != 1:
            raise ValueError("give one of key, tag and namespace")
        request = pb.InvalidateRequest(request_id=request_id or new_request_id())
        if key is not None:
            self._near.discard(key.near)
            request.key.CopyFrom(key.message)
            identity = key.identity
        elif tag:
            request.tag = tag
        else:
            request.namespace = namespace
        with context.bind(identity=identity):
            response = await self._call(self._cache.Invalidate, request)
            tenant = self._tenant()
        if tenant is not None:
            self._feeds.of(tenant).told(response.sequence)
        return int(response.sequence)

    async def get_stats(self, namespace: str = "") -> list[pb.NamespaceStats]:
        """Hits by tier, misses, hit rate, bytes and evictions by namespace of the tenant, since the
        service began; with what this process has not yet told it.

        Args:
          namespace: only this one.
        """
        request = pb.GetStatsRequest(namespace=namespace)
        response = await self._call(self._cache.GetStats, request)
        whose = self._tenant()
        found = {each.namespace: each for each in response.namespaces}
        for tenant, name, lane in self._lanes:
            if tenant != whose or namespace not in ("", name):
                continue
            stats = found.setdefault(name, pb.NamespaceStats(namespace=name))
            stats.near_hits += lane.hits - lane.said_hits
            stats.evictions += lane.evictions - lane.said_evictions
            stats.total = stats.near_hits + stats.redis_hits + stats.postgres_hits + stats.misses
            stats.hit_rate = 1 - stats.misses / stats.total if stats.total else 0.0
        return [found[name] for name in sorted(found)]

    async def warm_entries(
        self,
        namespace: str,
        *,
        keys: Iterable[CacheKey | bytes] | None = None,
        path: Path | str | None = None,
        most_frequent: int = 0,
        shared: bool = True,
        max_rate: int = 50,
    ) -> AsyncGenerator[pb.WarmResponse, None]:
        """Loads entries ahead of need with the namespace's loader; gives progress.

        Args:
          keys: what to load, or
          path: a file with a key on each line, or
          most_frequent: that many of the keys that were most asked for in the last day.
          shared: keys that are given as bytes are those of the tenant, not the user's own.
          max_rate: loads per second.

        Raises:
          FailedPrecondition: LOADER_UNKNOWN. InvalidArgument: KEY_INVALID, BATCH_TOO_LARGE.
        """
        request = pb.WarmRequest(namespace=namespace, max_rate=max_rate)
        request.keys.SetInParent()
        if path is not None:
            text = await asyncio.to_thread(Path(path).read_bytes)
            keys = [line for line in text.splitlines() if line]
        if keys is not None:
            scope = common_pb2.SCOPE_TENANT if shared else common_pb2.SCOPE_USER
            request.keys.keys.extend(
                each.message
                if isinstance(each, CacheKey)
                else pb.Key(namespace=namespace, key=each, scope=scope)
                for each in keys
            )
        else:
            request.most_frequent = most_frequent
        with await self._identified():
            responses = self._cache.Warm(request, timeout=_WARM_SECONDS)
            try:
                async for response in responses:
                    yield response
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

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

    def _tenant(self) -> str | None:
        """Whose the current call is; None when nobody said so, and thus nothing is near."""
        if self._identity is not None:
            return self._identity.tenant
        call = context.current()
        return None if call is None or call.identity is None else call.identity.tenant

    def list_policies(self, *, limit: int | None = None) -> AsyncGenerator[pb.Policy, None]:
        """Policies by namespace."""
        return self._list(self._cache.ListPolicies, pb.ListPoliciesRequest(), "policies", limit)
