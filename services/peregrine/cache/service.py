"""The cache service as gRPC sees it: check, translate, ask the tiers, translate back.

Whose entry it is comes from the call's identity and never from the request: a key of scope TENANT
is shared by the users of the caller's tenant, every other one is the caller's own.
"""

import re
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2, timestamp_pb2

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.entry import MAX_VALUE_BYTES, Address, Entry
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.tiers import MAX_BATCH_BYTES, Found, Tiers
from peregrine.kit import context as call_context
from peregrine.kit.context import Identity
from peregrine.kit.errors import Aborted, InvalidArgument

MAX_BATCH = 256
MAX_TAGS = 32
DEFAULT_TTL = 3600.0
MAX_TTL = 30 * 86_400.0

_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TAG = re.compile(r"[!-~]{1,128}")
_MAX_KEY_BYTES = 512
_TIERS = {
    redis_tier.NAME: cache_pb2.TIER_REDIS,
    postgres_tier.NAME: cache_pb2.TIER_POSTGRES,
}

Context = grpc.aio.ServicerContext[Any, Any]


class CacheService(cache_pb2_grpc.CacheServiceServicer):
    """`now`: seconds since 1970."""

    def __init__(self, *, tiers: Tiers, metrics: CacheMetrics, now: Callable[[], float]) -> None:
        self._tiers = tiers
        self._metrics = metrics
        self._now = now

    async def Get(self, request: cache_pb2.GetRequest, context: Context) -> cache_pb2.GetResponse:
        who = call_context.identity()
        address = _address(request.key, who, "key")
        (found,) = await self._tiers.read(who, [address])
        self._metrics.asked(address.namespace, found.tier)
        return self._response(found)

    async def BatchGet(
        self, request: cache_pb2.BatchGetRequest, context: Context
    ) -> cache_pb2.BatchGetResponse:
        if len(request.keys) > MAX_BATCH:
            what = f"has {len(request.keys)} keys, more than {MAX_BATCH}"
            raise InvalidArgument(
                f"keys {what}", reason="BATCH_TOO_LARGE", violations=[("keys", what)]
            )
        who = call_context.identity()
        addresses = [
            _address(key, who, f"keys[{number}]") for number, key in enumerate(request.keys)
        ]
        results = []
        left = MAX_BATCH_BYTES
        for address, found in zip(addresses, await self._tiers.read(who, addresses), strict=True):
            if found.entry is not None:
                left -= len(found.entry.value)
                if left < 0:
                    found = Found(away=(*found.away, ("batch", "BATCH_FULL")))
            self._metrics.asked(address.namespace, found.tier)
            results.append(self._response(found))
        return cache_pb2.BatchGetResponse(results=results)

    async def Set(self, request: cache_pb2.SetRequest, context: Context) -> cache_pb2.SetResponse:
        who = call_context.identity()
        address = _address(request.key, who, "key")
        response = await self._set(request, who, address)
        self._metrics.given(address.namespace, response.reason or "stored")
        return response

    async def Delete(
        self, request: cache_pb2.DeleteRequest, context: Context
    ) -> cache_pb2.DeleteResponse:
        who = call_context.identity()
        address = _address(request.key, who, "key")
        return cache_pb2.DeleteResponse(deleted=await self._tiers.remove(who, address))

    async def _set(
        self, request: cache_pb2.SetRequest, who: Identity, address: Address
    ) -> cache_pb2.SetResponse:
        ttl = _ttl(request)
        tags = _tags(request)
        if request.HasField("fencing_token"):
            # No lease was ever given, so there is none that could still hold.
            raise Aborted("the lease does not hold any more", reason="LEASE_LOST")
        if request.sensitive:
            return _not_stored("SENSITIVE")
        if len(request.value) > MAX_VALUE_BYTES:
            return _not_stored("TOO_LARGE")
        now = self._now()
        fetched = now
        if request.HasField("fetch_time"):
            # A caller whose clock is ahead does not make its value younger than now.
            fetched = min(request.fetch_time.ToNanoseconds() / 1e9, now)
        if fetched + ttl <= now:
            return _not_stored("EXPIRED")
        entry = Entry(
            value=request.value,
            version=self._tiers.next_version(),
            fetch_time=fetched,
            ttl=ttl,
            cost=max(_seconds(request.cost), 0.0),
            tags=tags,
        )
        if not await self._tiers.write(who, address, entry):
            return _not_stored("UNAVAILABLE")
        return cache_pb2.SetResponse(stored=True, version=entry.version)

    def _response(self, found: Found) -> cache_pb2.GetResponse:
        response = cache_pb2.GetResponse()
        for what, reason in found.away:
            response.degradations.add(what=what, reason=reason)
        entry = found.entry
        if entry is not None:
            # Written in place: messages of their own would each be copied into this one.
            message = response.entry
            message.value = entry.value
            _write(message.fetch_time, entry.fetch_time)
            _write(message.ttl, entry.ttl)
            _write(message.age, max(self._now() - entry.fetch_time, 0.0))
            _write(message.cost, entry.cost)
            message.tags.extend(entry.tags)
            message.tier = _TIERS[found.tier]
            message.version = entry.version
        return response


def _address(key: cache_pb2.Key, who: Identity, field: str) -> Address:
    if not _NAMESPACE.fullmatch(key.namespace):
        raise _invalid(
            f"{field}.namespace", "is not 1 to 128 of A-Z a-z 0-9 _ . : -", "KEY_INVALID"
        )
    if not 1 <= len(key.key) <= _MAX_KEY_BYTES:
        raise _invalid(f"{field}.key", f"is not of 1 to {_MAX_KEY_BYTES} bytes", "KEY_INVALID")
    user = "" if key.scope == common_pb2.SCOPE_TENANT else who.user
    return Address(who.tenant, user, key.namespace, key.key)


def _ttl(request: cache_pb2.SetRequest) -> float:
    if not request.HasField("ttl"):
        return DEFAULT_TTL
    ttl = _seconds(request.ttl)
    if not 0 < ttl <= MAX_TTL:
        raise _invalid("ttl", "is not above 0 and at most 30 days", "TTL_INVALID")
    return ttl


def _tags(request: cache_pb2.SetRequest) -> tuple[str, ...]:
    if len(request.tags) > MAX_TAGS:
        raise _invalid("tags", f"has more than {MAX_TAGS}", "TAGS_INVALID")
    for number, tag in enumerate(request.tags):
        if not _TAG.fullmatch(tag):
            raise _invalid(
                f"tags[{number}]", "is not 1 to 128 visible ASCII characters", "TAGS_INVALID"
            )
    return tuple(request.tags)


def _invalid(field: str, what: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", reason=reason, violations=[(field, what)])


def _not_stored(reason: str) -> cache_pb2.SetResponse:
    return cache_pb2.SetResponse(stored=False, reason=reason)


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _write(message: duration_pb2.Duration | timestamp_pb2.Timestamp, seconds: float) -> None:
    message.SetInParent()
    message.seconds, message.nanos = divmod(round(seconds * 1e6) * 1_000, 1_000_000_000)
