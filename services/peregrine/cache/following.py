"""Keeps a replica's `Feed` up to date from its two sources, and appends to it.

PostgreSQL is asked four times a second, and twenty times while the stream in Redis is not to be
had; the stream is listened to all the time. An event from the stream that does not follow the last
one known is a gap: PostgreSQL is asked at once. What a replica knows is all there is when the table
said so, or all the other replicas (`roll`); a stream on which nothing comes says nothing.
"""

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Histogram

from peregrine.api.cache.v1 import cache_pb2
from peregrine.cache.entry import Address
from peregrine.cache.feed import Event, Feed
from peregrine.cache.feed_store import AT_ONCE, FeedStore
from peregrine.cache.feed_stream import FeedStream
from peregrine.cache.roll import Roll
from peregrine.cache.tier import Away, Refused
from peregrine.kit.errors import PeregrineError

_EVERY_SECONDS, _ALONE_SECONDS = 0.25, 0.05
_READ_SECONDS = 0.5
_LOST_SECONDS = 0.3
_STREAM_SILENT_SECONDS = 0.6
_ROLL_SECONDS = 0.15
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

log = structlog.get_logger(__name__)


class Following:
    """`run` until cancelled; before that, `load` once, and `leave` when nothing comes any more.

    Args:
      clock: seconds, monotonic: that of the feed.
    """

    def __init__(
        self,
        *,
        feed: Feed,
        store: FeedStore,
        stream: FeedStream,
        roll: Roll,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._store = store
        self._stream = stream
        self._roll = roll
        self._clock = clock
        self._reading = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._failing: set[str] = set()
        self._streamed = -_STREAM_SILENT_SECONDS
        self._roll_due = 0.0
        self._failures = Counter(
            "peregrine_cache_feed_failures_total",
            "Attempts to follow the invalidations that failed",
            ["source"],
            registry=registry,
        )
        self._lag = Histogram(
            "peregrine_cache_feed_lag_seconds",
            "Time from an invalidation until this replica knew of it, by the wall clocks",
            buckets=_BUCKETS,
            registry=registry,
        )

    async def load(self) -> None:
        """Raises what `Database.transaction` raises."""
        started = self._clock()
        loaded = await self._store.load()
        feed = self._feed
        if loaded.floor:
            feed.marks.forget_before(loaded.floor)
        for mark, sequence in loaded.marks:
            feed.marks.strike(mark, sequence)
        for tenant, policy in loaded.policies:
            feed.policies.put(tenant, policy)
        feed.begin(loaded.sequence, loaded.events, start=loaded.start)
        feed.confirm(started)
        # Before the first thing is made untrue here, the others know that there is one more.
        await self._call_roll()

    async def leave(self) -> None:
        await self._roll.leave()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_table(), name="cache-feed-table")
            group.create_task(self._follow_stream(), name="cache-feed-stream")

    async def invalidate(
        self,
        tenant: str,
        kind: str,
        *,
        address: Address | None = None,
        namespace: str = "",
        tag: str = "",
        request: Message | None = None,
        request_id: str = "",
    ) -> tuple[int, bool]:
        """Makes something untrue, here at once; returns its number, and whether a row was removed.

        Raises:
          Unavailable: CACHE_TIER_UNAVAILABLE. AlreadyExists: REQUEST_ID_REUSED.
        """
        sequence, event, removed = await self._store.invalidate(
            tenant,
            kind,
            address=address,
            namespace=namespace,
            tag=tag,
            request=request,
            request_id=request_id,
        )
        await self._announce(event)
        return sequence, removed

    async def apply_policy(
        self, tenant: str, policy: cache_pb2.Policy, request: cache_pb2.ApplyPolicyRequest
    ) -> cache_pb2.Policy:
        """As `FeedStore.apply_policy`; in force here when it returns."""
        applied, event = await self._store.apply_policy(tenant, policy, request)
        await self._announce(event)
        return applied

    async def _announce(self, event: Event | None) -> None:
        if event is None:
            return
        if event.previous == self._feed.sequence:
            self._take([event])
        else:
            # Others' events lie between; they count only in their order.
            await self._catch_up()
        try:
            await self._stream.publish(event)
        except (Away, Refused):
            self._failures.labels("publish").inc()

    def _take(self, events: list[Event]) -> None:
        now = time.time()
        for event in events:
            if event.sequence > self._feed.sequence:
                self._lag.observe(max(now - event.create_time, 0.0))
        self._feed.apply(events)

    async def _catch_up(self) -> None:
        async with self._reading:
            while True:
                started = self._clock()
                events = await self._store.since(self._feed.sequence, timeout=_READ_SECONDS)
                self._take(events)
                if len(events) < AT_ONCE:
                    self._feed.confirm(started)
                    self._failing.discard("table")
                    return

    async def _follow_table(self) -> None:
        while True:
            self._wanted.clear()
            try:
                await self._catch_up()
            except PeregrineError as error:
                self._failed("table", error.reason)
                await asyncio.sleep(_LOST_SECONDS * random.uniform(0.8, 1.2))
            except Exception as error:
                # The top of a background task: the next time may go better.
                self._failed("table", type(error).__name__)
                log.error("feed_not_followed", error=type(error).__name__, exc_info=error)
                await asyncio.sleep(_LOST_SECONDS * random.uniform(0.8, 1.2))
            streamed = self._clock() - self._streamed < _STREAM_SILENT_SECONDS
            try:
                async with asyncio.timeout(_EVERY_SECONDS if streamed else _ALONE_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _follow_stream(self) -> None:
        while True:
            try:
                await self._listen()
            except (Away, Refused) as error:
                self._failed("stream", str(error))
            except Exception as error:
                # The top of a background task: the next time may go better.
                self._failed("stream", type(error).__name__)
                log.error("feed_not_followed", error=type(error).__name__, exc_info=error)
            await asyncio.sleep(_LOST_SECONDS * random.uniform(0.8, 1.2))

    async def _listen(self) -> None:
        while True:
            events = await self._stream.read(self._feed.sequence)
            self._streamed = self._clock()
            self._failing.discard("stream")
            known = self._feed.sequence
            whole = True
            for event in events:
                if event.sequence <= known:
                    continue
                whole = event.previous == known
                if not whole:
                    break
                self._take([event])
                known = event.sequence
            if not whole:
                self._wanted.set()
                await asyncio.sleep(_ALONE_SECONDS)
            elif self._clock() >= self._roll_due:
                await self._call_roll()

    async def _call_roll(self) -> None:
        self._roll_due = self._clock() + _ROLL_SECONDS
        try:
            heard = await self._roll.call(self._feed.sequence)
        except (Away, Refused) as error:
            self._failed("roll", str(error))
            return
        self._failing.discard("roll")
        if heard is not None and heard.sequence <= self._feed.sequence:
            self._feed.confirm(heard.as_of)

    def _failed(self, source: str, reason: str) -> None:
        self._failures.labels(source).inc()
        if source not in self._failing:
            self._failing.add(source)
            log.warning("feed_not_followed", source=source, reason=reason)
