"""The cache service as gRPC sees it: check, translate, ask the domain, translate back.

Whose entry it is comes from the call's identity and never from the request: a key of scope TENANT
is shared by the users of the caller's tenant, every other one is the caller's own.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.cache import messages
from peregrine.cache.entry import Address
from peregrine.cache.feed import Feed
from peregrine.cache.feed_store import FeedStore
from peregrine.cache.fills import Fills
from peregrine.cache.following import Following
from peregrine.cache.frequencies import Frequencies, Wanted
from peregrine.cache.leases import Leases
from peregrine.cache.lookups import ALSO_STALE, FRESH, LAST_RESORT, Lookups
from peregrine.cache.metrics import CacheMetrics
from peregrine.cache.policies import checked
from peregrine.cache.postgres_tier import PostgresTier
from peregrine.cache.stats import Stats
from peregrine.cache.tier import Away, Refused
from peregrine.cache.tiers import MAX_BATCH_BYTES, Found, Tiers
from peregrine.cache.warming import DEFAULT_RATE, MAX_KEYS, Warming
from peregrine.kit import context as call_context
from peregrine.kit import marks
from peregrine.kit.context import Identity
from peregrine.kit.errors import Aborted, FailedPrecondition

MAX_BATCH = 256

_WAIT_SECONDS = 30.0

Context = grpc.aio.ServicerContext[Any, Any]


class CacheService(cache_pb2_grpc.CacheServiceServicer):
    """`now`: seconds since 1970."""

    def __init__(
        self,
        *,
        tiers: Tiers,
        lookups: Lookups,
        fills: Fills,
        leases: Leases,
        feed: Feed,
        following: Following,
        store: FeedStore,
        postgres: PostgresTier,
        frequencies: Frequencies,
        warming: Warming,
        stats: Stats,
        metrics: CacheMetrics,
        now: Callable[[], float],
    ) -> None:
        self._tiers = tiers
        self._lookups = lookups
        self._fills = fills
        self._leases = leases
        self._feed = feed
        self._following = following
        self._store = store
        self._postgres = postgres
        self._frequencies = frequencies
        self._warming = warming
        self._stats = stats
        self._metrics = metrics
        self._now = now

    async def Get(self, request: cache_pb2.GetRequest, context: Context) -> cache_pb2.GetResponse:
        who = call_context.identity()
        address = messages.address(request.key, who, "key")
        acceptable = FRESH
        if request.computing_failed:
            acceptable = LAST_RESORT
        elif request.allow_stale:
            acceptable = ALSO_STALE
        (found,) = await self._tiers.read(who, [address])
        found = found.unless(acceptable)
        if not request.computing_failed:
            self._asked(address, found.tier)
        if request.HasField("near"):
            self._near(address, request.near)
        response = cache_pb2.GetResponse(epoch=self._feed.sequence)
        messages.write_found(response, found, self._now())
        return response

    async def BatchGet(
        self, request: cache_pb2.BatchGetRequest, context: Context
    ) -> cache_pb2.BatchGetResponse:
        if len(request.keys) > MAX_BATCH:
            what = f"has {len(request.keys)} keys, more than {MAX_BATCH}"
            raise messages.invalid("keys", what, "BATCH_TOO_LARGE")
        who = call_context.identity()
        addresses = [
            messages.address(key, who, f"keys[{number}]") for number, key in enumerate(request.keys)
        ]
        response = cache_pb2.BatchGetResponse()
        left = MAX_BATCH_BYTES
        epoch = self._feed.sequence
        for address, found in zip(addresses, await self._tiers.read(who, addresses), strict=True):
            found = found.unless(FRESH)
            if found.entry is not None:
                left -= len(found.entry.value)
                if left < 0:
                    found = Found(away=(*found.away, ("batch", "BATCH_FULL")))
            self._asked(address, found.tier)
            messages.write_found(response.results.add(epoch=epoch), found, self._now())
        return response

    async def GetOrLease(
        self, request: cache_pb2.GetOrLeaseRequest, context: Context
    ) -> cache_pb2.GetOrLeaseResponse:
        who = call_context.identity()
        address = messages.address(request.key, who, "key")
        response = cache_pb2.GetOrLeaseResponse()
        if request.HasField("fencing_token"):
            token, epoch = request.fencing_token, self._feed.sequence
            if token and not await self._renewed(address, token):
                raise Aborted("the lease does not hold any more", reason="LEASE_LOST")
            messages.write_lease(response.lease, token, epoch)
            return response
        if request.HasField("near"):
            self._near(address, request.near)
        outcome = await self._lookups.get_or_lease(
            who, address, allow_stale=request.allow_stale, seconds=_patience()
        )
        self._asked(address, outcome.found.tier)
        messages.write_found(response, outcome.found, self._now())
        if outcome.token is not None:
            lease = response.refresh if outcome.found.entry is not None else response.lease
            messages.write_lease(lease, outcome.token, outcome.epoch)
        return response

    async def Set(self, request: cache_pb2.SetRequest, context: Context) -> cache_pb2.SetResponse:
        who = call_context.identity()
        address = messages.address(request.key, who, "key")
        return messages.stored(await self._fills.store(who, address, messages.fill(request)))

    async def ReleaseLease(
        self, request: cache_pb2.ReleaseLeaseRequest, context: Context
    ) -> cache_pb2.ReleaseLeaseResponse:
        address = messages.address(request.key, call_context.identity(), "key")
        await self._fills.release(address, request.fencing_token)
        return cache_pb2.ReleaseLeaseResponse()

    async def Delete(
        self, request: cache_pb2.DeleteRequest, context: Context
    ) -> cache_pb2.DeleteResponse:
        who = call_context.identity()
        address = messages.address(request.key, who, "key")
        _, removed = await self._following.invalidate(who.tenant, marks.KEY, address=address)
        there = await self._tiers.remove_from_redis(address)
        return cache_pb2.DeleteResponse(deleted=removed or there)

    async def Invalidate(
        self, request: cache_pb2.InvalidateRequest, context: Context
    ) -> cache_pb2.InvalidateResponse:
        who = call_context.identity()
        kind, address, namespace, tag = messages.target(request, who)
        sequence, _ = await self._following.invalidate(
            who.tenant,
            kind,
            address=address,
            namespace=namespace,
            tag=tag,
            request=request,
            request_id=request.request_id,
        )
        if address is not None:
            await self._tiers.remove_from_redis(address)
        return cache_pb2.InvalidateResponse(sequence=sequence)

    async def WatchInvalidations(
        self, request: cache_pb2.WatchInvalidationsRequest, context: Context
    ) -> AsyncIterator[cache_pb2.WatchInvalidationsResponse]:
        who = call_context.identity()
        after = None if request.from_now else max(request.after_sequence, 0)
        async for sequence, events in self._feed.watch(who.tenant, after):
            yield messages.events(sequence, events, who)

    async def Warm(
        self, request: cache_pb2.WarmRequest, context: Context
    ) -> AsyncIterator[cache_pb2.WarmResponse]:
        who = call_context.identity()
        messages.check_namespace(request.namespace, "namespace")
        loader = self._warming.loader(request.namespace)
        if loader is None:
            raise FailedPrecondition(
                f"no loader is registered for {request.namespace!r}", reason="LOADER_UNKNOWN"
            )
        wanted = await self._wanted(request, who)
        rate = min(request.max_rate or DEFAULT_RATE, 1_000)
        async for each in self._warming.warm(wanted, loader, rate=rate):
            yield cache_pb2.WarmResponse(
                loaded=each.loaded, failed=each.failed, present=each.present, total=each.total
            )

    async def GetStats(
        self, request: cache_pb2.GetStatsRequest, context: Context
    ) -> cache_pb2.GetStatsResponse:
        who = call_context.identity()
        counted = list(self._stats.of(who.tenant, request.namespace))
        try:
            sizes = await self._postgres.bytes_of(who.tenant, [name for name, _ in counted])
        except (Away, Refused, TimeoutError):
            sizes = {}
        response = cache_pb2.GetStatsResponse()
        for name, counts in counted:
            response.namespaces.add(
                namespace=name,
                near_hits=counts.near,
                redis_hits=counts.redis,
                postgres_hits=counts.postgres,
                misses=counts.misses,
                total=counts.total,
                hit_rate=counts.hit_rate,
                bytes=sizes.get(name, 0),
                evictions=counts.evictions,
            )
        return response

    async def ApplyPolicy(
        self, request: cache_pb2.ApplyPolicyRequest, context: Context
    ) -> cache_pb2.ApplyPolicyResponse:
        who = call_context.identity()
        messages.check_namespace(request.policy.namespace, "policy.namespace", "POLICY_INVALID")
        policy = checked(request.policy)
        applied = await self._following.apply_policy(who.tenant, policy, request)
        return cache_pb2.ApplyPolicyResponse(policy=applied)

    async def GetPolicy(
        self, request: cache_pb2.GetPolicyRequest, context: Context
    ) -> cache_pb2.GetPolicyResponse:
        who = call_context.identity()
        policy = await self._store.policy(who.tenant, request.namespace)
        return cache_pb2.GetPolicyResponse(policy=policy)

    async def ListPolicies(
        self, request: cache_pb2.ListPoliciesRequest, context: Context
    ) -> cache_pb2.ListPoliciesResponse:
        who = call_context.identity()
        size, after = messages.page(request)
        policies = await self._store.policies(who.tenant, after=after, limit=size + 1)
        response = cache_pb2.ListPoliciesResponse(policies=policies[:size])
        if len(policies) > size:
            response.next_page_token = messages.page_token(policies[size - 1].namespace)
        return response

    async def _renewed(self, address: Address, token: int) -> bool:
        try:
            return await self._leases.renew(address, token)
        except (Away, Refused):
            return True  # nobody can say, so nobody else has it either

    async def _wanted(self, request: cache_pb2.WarmRequest, who: Identity) -> Sequence[Wanted]:
        match request.WhichOneof("source"):
            case "keys":
                if len(request.keys.keys) > MAX_KEYS:
                    raise messages.invalid("keys", f"has more than {MAX_KEYS}", "BATCH_TOO_LARGE")
                return messages.wanted(request, who)
            case "most_frequent":
                limit = min(request.most_frequent, MAX_KEYS)
                return await self._frequencies.most(who, request.namespace, limit)
        raise messages.invalid("source", "is neither keys nor most_frequent", "SOURCE_MISSING")

    def _asked(self, address: Address, tier: str) -> None:
        self._metrics.asked(address.namespace, tier)
        self._stats.asked(address.tenant, address.namespace, tier)
        self._frequencies.count(address)

    def _near(self, address: Address, report: cache_pb2.NearReport) -> None:
        self._stats.near(
            address.tenant, address.namespace, hits=report.hits, evictions=report.evictions
        )


def _patience() -> float:
    """Seconds to wait for another's value, so that the answer still reaches the caller in time."""
    left = call_context.deadline_remaining()
    if left is None:
        return _WAIT_SECONDS
    return min(left - min(max(0.2 * left, 0.02), 0.1), _WAIT_SECONDS)
