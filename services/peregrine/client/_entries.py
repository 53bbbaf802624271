"""Entries of the cache as a caller has them: near in its own process, far at the service.

What is near is served while the tenant's feed of invalidations lives, and for a tenth of its time
to live, 5 s at most; what is served from there costs a dictionary lookup and no message. Everything
that goes wrong far away is a miss.
"""

import random
import time
from collections.abc import AsyncIterator, Iterable
from math import log as ln
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as pb_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.client._connection import Exchanging, ServiceClient, Tls, unary_methods
from peregrine.client._ghosts import sampled
from peregrine.client._invalidations import Feeds
from peregrine.client._lanes import Lane, Lanes, NearMetrics
from peregrine.client._near_cache import NearCache
from peregrine.client._values import Cached, CacheKey, Look, duration, seconds_of, timestamp
from peregrine.kit import context
from peregrine.kit.breaker import Breaker
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error

MAX_VALUE_BYTES = 1024 * 1024
SERVICE = pb.DESCRIPTOR.services_by_name["CacheService"]

# What the near cache adds to the age of a value: a tenth of its time to live, 5 s at most.
_NEAR_SECONDS = 5.0
_NEAR_SHARE = 0.1
# Each tenant that is served from the near cache keeps a stream open.
_MAX_FEEDS = 64
# These are given up at once instead of tried again: computing the value is the second try.
_ENTRIES = frozenset({"Get", "BatchGet", "GetOrLease", "Set", "ReleaseLease"})
_TOLD = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED})
_REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

log = structlog.get_logger(__name__)


class Entries(ServiceClient):
    """Args:
    near_bytes: room of the near cache; 0 means there is none.
    entry_timeout: seconds that the service gets to find or take an entry.
    registry: where the near cache's metrics are shown.
    """

    name: ClassVar[str] = "cache"
    local: ClassVar[str] = "127.0.0.1:50054"

    def __init__(
        self,
        target: str | None = None,
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
        exchange: Exchanging | None = None,
        near_bytes: int = 16 * 1024 * 1024,
        entry_timeout: float = 0.3,
        registry: CollectorRegistry | None = None,
    ) -> None:
        super().__init__(
            target,
            connections=connections,
            timeout=timeout,
            identity=identity,
            api_key=api_key,
            tls=tls,
            exchange=exchange,
        )
        self._feeds = Feeds(
            self._watch, identified=self._identified, limit=_MAX_FEEDS if near_bytes else 0
        )
        self._lanes = Lanes(self._feeds.of)
        self._near: NearCache[tuple[str, str, str, bytes], Cached] = NearCache(
            max_bytes=near_bytes, on_evicted=self._lanes.evicted
        )
        self._entry_timeout = entry_timeout
        self._breaker = Breaker(name=self.name, probe=self._answers)
        if registry is not None:
            metrics = NearMetrics(
                self._lanes, size=lambda: self.near_bytes, evictions=lambda: self.near_evictions
            )
            registry.register(metrics)

    @property
    def near_bytes(self) -> int:
        """What the near cache holds."""
        return self._near.bytes

    @property
    def near_evictions(self) -> int:
        return self._near.evictions

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self._exchange is not None and self._api_key is not None and self._identity is None:
            try:
                self._identity = (await self._exchange.identify(self._api_key)).identity
            except BaseException:
                await super().__aexit__(None, None, None)
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._feeds.close()
        await self._breaker.close()
        await super().__aexit__(kind, error, traceback)

    def _bind(self, pool: ChannelPool) -> None:
        self._cache = pb_grpc.CacheServiceStub(pool)
        self._health = health_pb2_grpc.HealthStub(pool)

    def _idempotent(self) -> frozenset[str]:
        return unary_methods(SERVICE, without=_ENTRIES)

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
            self._lanes.of(who.tenant, namespace),
            sampled(key),
        )

    def near(self, key: CacheKey) -> Cached | None:
        """The value, if this process has it and knows that nobody made it untrue."""
        now = time.monotonic()
        lane = key.lane
        if key.ghost:
            lane.ghosts.requested(key.near, now)
        feed = lane.feed
        if now >= feed.live_until:
            self._feeds.wake(feed, key.identity)
            return None
        cached = self._near.get(key.near, now)
        if cached is None:
            feed.used = True
            return None
        if cached.epoch != feed.sequence and feed.struck(key.near, cached.tags, cached.epoch):
            self._near.discard(key.near)
            return None
        lane.hits += 1
        return cached

    async def get(self, key: CacheKey) -> Cached | None:
        """The value, from the nearest tier that has it.

        Raises:
          InvalidArgument: KEY_INVALID.
        """
        return self.near(key) or (await self.far(key)).cached

    async def look(self, key: CacheKey, *, allow_stale: bool = False) -> Look:
        """As `get`, for who computes a missing value and gives it to `set` with the epoch: what is
        made untrue meanwhile then stays so.

        Args:
          allow_stale: also take one whose time is over, when the policy allows it.
        """
        cached = self.near(key)
        if cached is not None:
            return Look(cached, cached.epoch)
        return await self.far(key, allow_stale=allow_stale)

    async def far(
        self, key: CacheKey, *, allow_stale: bool = False, computing_failed: bool = False
    ) -> Look:
        """As `look`, past the near cache. `computing_failed`: also take what the policy has for
        that case."""
        request = pb.GetRequest(
            key=key.message, allow_stale=allow_stale, computing_failed=computing_failed
        )
        self._report(key.lane, request)
        response = await self._asked(self._cache.Get, key, request)
        if response is None:
            return Look(None, None)
        if not response.HasField("entry"):
            return Look(None, response.epoch or None)
        return Look(self.found(key, response.entry), response.epoch or None)

    async def set(
        self,
        key: CacheKey,
        value: bytes,
        *,
        ttl: float | None = None,
        first_ttl: float | None = None,
        cost: float = 0.0,
        tags: Iterable[str] = (),
        born: float | None = None,
        epoch: int | None = None,
        token: int = 0,
        sensitive: bool = False,
        absent: bool = False,
        source: bytes = b"",
    ) -> str:
        """Stores a value; returns why it was not stored (UPPER_SNAKE), empty when it was.

        Args:
          ttl: seconds, above 0 and at most 30 days, that no policy extends; by default the
            policy's, 1 h without one.
          first_ttl: in force, within `ttl`, while the namespace has no policy.
          cost: seconds that computing it took.
          tags: by which it can be made untrue; at most 32.
          born: when it was true, on `time.monotonic()`; now, when not given.
          epoch: from `look`, before the computation began; now, when not given.
          token: of the lease under which it was computed.
          sensitive: never store it.
          absent: it says that there is nothing: 5 s at most.
          source: at most 4 KiB from which the namespace's loader computes it anew.

        Raises:
          InvalidArgument: KEY_INVALID, TTL_INVALID or TAGS_INVALID.
        """
        if not token:
            reason = "SENSITIVE" if sensitive else "TOO_LARGE"
            if sensitive or len(value) > MAX_VALUE_BYTES:
                key.lane.kept_out[reason] += 1
                return reason
        elif len(value) > MAX_VALUE_BYTES:
            value, sensitive = b"", True  # only to give the lease back
        now = time.monotonic()
        born = now if born is None else min(born, now)
        epoch = key.lane.feed.sequence if epoch is None else epoch
        request = pb.SetRequest(
            key=key.message,
            value=value,
            tags=tags,
            cost=duration(cost),
            fetch_time=timestamp(time.time() - (now - born)),
            sensitive=sensitive,
            absent=absent,
            source=source,
            epoch=epoch,
            fencing_token=token or None,
        )
        if ttl is not None:
            request.ttl.CopyFrom(duration(ttl))
        if first_ttl is not None:
            request.first_ttl.CopyFrom(duration(first_ttl))
        response = await self._asked(self._cache.Set, key, request)
        if response is None:
            return "UNAVAILABLE"
        if response.stored and epoch is not None:
            cached = Cached(
                value,
                pb.TIER_NEAR,
                born,
                cost,
                seconds_of(response.ttl),
                absent=absent,
                tags=tuple(request.tags),
                epoch=epoch,
            )
            self._keep_near(key, cached)
        return str(response.reason)

    async def lease(
        self,
        key: CacheKey,
        *,
        allow_stale: bool = False,
        token: int | None = None,
        wait: float | None = None,
    ) -> pb.GetOrLeaseResponse | None:
        """The entry, a lease to compute it, or neither when another one computed it for too long;
        None when the service is away. `get_or_compute` does all of this.

        Args:
          token: of the lease to be renewed.
          wait: seconds to wait for the holder; by default a few hundred milliseconds.

        Raises:
          Aborted: LEASE_LOST.
        """
        request = pb.GetOrLeaseRequest(
            key=key.message, allow_stale=allow_stale, fencing_token=token
        )
        if token is None:
            self._report(key.lane, request)
        response: pb.GetOrLeaseResponse | None = await self._asked(
            self._cache.GetOrLease, key, request, wait=wait or 0.0
        )
        return response

    async def release(self, key: CacheKey, token: int) -> None:
        """Gives a lease back without a value."""
        request = pb.ReleaseLeaseRequest(key=key.message, fencing_token=token)
        await self._asked(self._cache.ReleaseLease, key, request)

    def found(self, key: CacheKey, entry: pb.Entry) -> Cached:
        """What the service gave, kept near if it may be."""
        cached = Cached(
            entry.value,
            entry.tier,
            time.monotonic() - seconds_of(entry.age),
            seconds_of(entry.cost),
            seconds_of(entry.ttl),
            entry.stale,
            entry.absent,
            tuple(entry.tags),
            entry.epoch,
        )
        if not cached.stale:
            self._keep_near(key, cached)
        return cached

    async def _asked(self, method: Any, key: CacheKey, request: Any, *, wait: float = 0.0) -> Any:
        """The response; None when the service is away or does not answer in time."""
        limit = self._entry_timeout + wait
        left = context.deadline_remaining()
        # A caller that cannot wait would look like a service that does not answer.
        if self._breaker.open or (left is not None and left < 2 * self._entry_timeout):
            return None
        try:
            if self._exchange is None:
                with context.bind(identity=key.identity):
                    response = await method(request, timeout=limit)
            else:
                with await self._identified(), context.bind(identity=key.identity):
                    response = await method(request, timeout=limit)
        except grpc.aio.AioRpcError as error:
            if error.code() in _TOLD:
                self._breaker.succeeded()
                raise from_rpc_error(error) from None
            if error.code() in _REFUSED:
                log.warning("cache_refused", code=error.code().name)
            else:
                self._breaker.failed()
            return None
        self._breaker.succeeded()
        return response

    async def _answers(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        try:
            # For as long as a connection takes; a lookup's time is for one that is there.
            response = await self._health.Check(request, timeout=1.0, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    def _watch(
        self, request: pb.WatchInvalidationsRequest, timeout: float
    ) -> AsyncIterator[pb.WatchInvalidationsResponse]:
        stream: AsyncIterator[pb.WatchInvalidationsResponse] = self._cache.WatchInvalidations(
            request, timeout=timeout, wait_for_ready=True
        )
        return stream

    def _report(self, lane: Lane, request: pb.GetRequest | pb.GetOrLeaseRequest) -> None:
        """Tells the service what the near cache did since it was told last."""
        if lane.hits != lane.said_hits or lane.evictions != lane.said_evictions:
            request.near.hits = lane.hits - lane.said_hits
            request.near.evictions = lane.evictions - lane.said_evictions
            lane.said_hits, lane.said_evictions = lane.hits, lane.evictions

    def _keep_near(self, key: CacheKey, cached: Cached) -> None:
        now = time.monotonic()
        end = cached.born + cached.ttl
        if cached.cost > 0:
            # Past this moment the service is asked, which may have it renewed (XFetch: one draw for
            # all that this process would ask).
            end += cached.cost * ln(1.0 - random.random())
        expires = min(now + min(_NEAR_SECONDS, cached.ttl * _NEAR_SHARE), end)
        if expires > now:
            near = cached._replace(tier=pb.TIER_NEAR)
            self._near.put(key.near, near, size=len(cached.value), expires=expires)
