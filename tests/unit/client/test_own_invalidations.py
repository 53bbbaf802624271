"""Who makes something untrue never sees the old value after it, however late the feed is."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.client._invalidations import TenantFeed
from peregrine.kit.context import Identity
from tests.support.eventually import eventually


async def test_nothing_near_is_served_until_the_feed_is_where_our_own_invalidation_is() -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def feed(
        request: pb.WatchInvalidationsRequest, timeout: float
    ) -> AsyncIterator[pb.WatchInvalidationsResponse]:
        while True:
            event = pb.InvalidationEvent(sequence=await heard.get(), heartbeat=pb.Heartbeat())
            yield pb.WatchInvalidationsResponse(events=[event])

    async def identified() -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    tenant = TenantFeed("acme", feed, identified)
    following = asyncio.create_task(tenant.follow(Identity("acme", "ada")))

    def lives() -> bool:
        return tenant.live_until > time.monotonic()

    async def hear(sequence: int) -> None:
        heard.put_nowait(sequence)
        await eventually(lambda: tenant.sequence == sequence)

    try:
        await hear(10)
        assert lives()
        tenant.told(12)
        assert not lives()
        await hear(11)
        assert not lives()
        await hear(12)
        assert lives()
        tenant.told(12)  # which it has heard of already
        assert lives()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
