"""Keeps a near cache coherent: one feed per tenant, of what was made untrue.

A value may be served from the near cache while the feed lives, which it shows at least twice a
second, and if nothing that covers it was struck since the epoch of its computation. After a second
of silence nothing near is served. The feed is picked up where it was lost; when the service no
longer knows that position, everything near is forgotten.

A feed begins with the first use of a tenant's key, runs on behalf of whoever that was, and ends
when nobody asked for a while.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import grpc.aio
import structlog

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.common.v1 import common_pb2
from peregrine.kit import context, marks
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError
from peregrine.kit.marks import Marks, key_digest

SILENT_SECONDS = 1.0

_IDLE_SECONDS = 60.0
_RETRY_SECONDS = 0.2
_MAX_MARKS = 20_000
_STREAM_SECONDS = 3_600.0
# No second try helps these; the next use of a key begins anew, on behalf of its own user.
_FINAL = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})

Open = Callable[[pb.WatchInvalidationsRequest, float], AsyncIterator[pb.WatchInvalidationsResponse]]

Identified = Callable[[], Awaitable[AbstractContextManager[Any]]]

log = structlog.get_logger(__name__)


class TenantFeed:
    """What is known of one tenant. `live_until` is on `time.monotonic()`; `sequence` is the epoch
    of whatever begins now, None until it is known; `used` is set by who uses it."""

    __slots__ = (
        "_identified",
        "_idle_since",
        "_marks",
        "_open",
        "_own",
        "live_until",
        "sequence",
        "task",
        "tenant",
        "used",
    )

    def __init__(self, tenant: str, open_: Open, identified: Identified) -> None:
        self.tenant = tenant
        self._identified = identified
        self.live_until = 0.0
        self.sequence: int | None = None
        self.used = True
        self.task: asyncio.Task[None] | None = None
        self._open = open_
        self._marks = Marks(limit=_MAX_MARKS)
        self._idle_since = time.monotonic()
        self._own = 0

    def told(self, sequence: int) -> None:
        """This process made something untrue, at that position: until the feed is there, nothing
        near is served, so that who invalidates never sees the old value after it."""
        if self.sequence is None or self.sequence < sequence:
            self._own = max(self._own, sequence)
            self.live_until = 0.0

    def struck(self, near: tuple[str, str, str, bytes], tags: tuple[str, ...], epoch: int) -> bool:
        """Whether a value was made untrue since its computation began."""
        tenant, user, namespace, key = near
        return self._marks.struck(tenant, user, namespace, key, tags, epoch)

    async def follow(self, identity: Identity) -> None:
        """Until nobody uses it any more."""
        self._idle_since = time.monotonic()
        self.used = True
        try:
            with await self._identified(), context.bind(identity=identity, detach=True):
                while not self._idle():
                    try:
                        await self._read()
                    except grpc.aio.AioRpcError as error:
                        if error.code() in _FINAL:
                            log.info("invalidations_refused", code=error.code().name)
                            return
                        if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                            self.sequence = None
                    except PeregrineError as error:
                        log.info("invalidations_refused", reason=error.reason)
                        return
                    await asyncio.sleep(_RETRY_SECONDS * random.uniform(0.5, 1.5))
                    await context.renew_proof()
        except PeregrineError as error:
            log.info("invalidations_refused", reason=error.reason)
        except Exception as error:
            # The top of a background task: without it, the near cache is not used.
            log.error("invalidations_lost", error=type(error).__name__, exc_info=error)
        finally:
            self.live_until = 0.0

    async def _read(self) -> None:
        request = pb.WatchInvalidationsRequest(from_now=True)
        if self.sequence is not None:
            request = pb.WatchInvalidationsRequest(after_sequence=self.sequence)
        async for response in self._open(request, _STREAM_SECONDS):
            for event in response.events:
                self._take(event)
            if self.sequence is not None and self.sequence >= self._own:
                self.live_until = time.monotonic() + SILENT_SECONDS
            if self._idle():
                return

    def _take(self, event: pb.InvalidationEvent) -> None:
        sequence = event.sequence
        if self.sequence is None:
            # What happened before is not known.
            self._marks.forget_before(sequence)
        elif sequence <= self.sequence:
            return
        match event.WhichOneof("payload"):
            case "tag":
                self._marks.strike((self.tenant, marks.TAG, event.tag), sequence)
            case "namespace":
                self._marks.strike((self.tenant, marks.GROUP, event.namespace), sequence)
            case "policy":
                # How long its values live has changed: they are asked for anew.
                self._marks.strike((self.tenant, marks.GROUP, event.policy.namespace), sequence)
            case "entry_digest":
                self._marks.strike((self.tenant, marks.KEY, event.entry_digest), sequence)
            case "key":
                self._marks.strike((self.tenant, marks.KEY, self._digest(event.key)), sequence)
        self.sequence = sequence

    def _digest(self, key: pb.Key) -> bytes:
        user = ""
        if key.scope != common_pb2.SCOPE_TENANT:
            user = context.identity().user  # others' keys come as digests
        return key_digest(user, key.namespace, key.key)

    def _idle(self) -> bool:
        now = time.monotonic()
        if self.used:
            self.used = False
            self._idle_since = now
        return now - self._idle_since > _IDLE_SECONDS


class Feeds:
    """The feeds of one client. `close` ends their tasks."""

    def __init__(self, open_: Open, *, identified: Identified, limit: int) -> None:
        self._open = open_
        self._identified = identified
        self._limit = limit
        self._feeds: dict[str, TenantFeed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, tenant: str) -> TenantFeed:
        feed = self._feeds.get(tenant)
        if feed is None:
            if len(self._feeds) >= 16 * self._limit:
                self._feeds = {name: each for name, each in self._feeds.items() if each.task}
            feed = self._feeds[tenant] = TenantFeed(tenant, self._open, self._identified)
        return feed

    def wake(self, feed: TenantFeed, identity: Identity) -> None:
        """Starts the feed if it does not run, and there is room for another."""
        if feed.task is not None or len(self._tasks) >= self._limit:
            return
        task = feed.task = asyncio.create_task(
            feed.follow(identity), name=f"{feed.tenant}-invalidations"
        )
        self._tasks.add(task)

        def over(_: asyncio.Task[None]) -> None:
            feed.task = None
            self._tasks.discard(task)

        task.add_done_callback(over)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
