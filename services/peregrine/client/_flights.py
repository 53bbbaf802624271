"""Computations under way: one per key in this process, and by a lease one in all processes.

Whoever asks for a key that is being computed here waits for that computation. It runs in a task of
its own, on behalf of the key's identity and without the deadline of whoever came first, for as long
as anybody waits. Before it computes it asks the service: there is the value after all, or a lease,
or another process has the lease and its value is waited for. The lease is renewed every two seconds
until the value is stored or the computation failed.

While the service is away each process computes for itself.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.client._entries import Entries
from peregrine.client._values import Cached, CacheKey
from peregrine.kit import context
from peregrine.kit.errors import Aborted, PeregrineError

# How long another process's computation is waited for before this one computes, too.
MAX_WAIT_SECONDS = 60.0

_HEARTBEAT_SECONDS = 2.0
_SLICE_SECONDS = 1.0
_STORE_SECONDS = 5.0
_REVALIDATED_SHARE = 0.01

log = structlog.get_logger(__name__)


class Filling(NamedTuple):
    """How a missing value is computed, and what is said of it when it is stored."""

    compute: Callable[[], Awaitable[bytes]]
    ttl: float | None
    first_ttl: float | None
    tags: tuple[str, ...]
    absent: Callable[[bytes], bool] | None
    source: bytes


@dataclass(slots=True)
class _Flight:
    task: "asyncio.Task[Cached]"
    waiting: int = 0


class Flights:
    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._flights: dict[tuple[str, str, str, bytes], _Flight] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._revalidations = 0.0

    async def join(
        self, key: CacheKey, fill: Filling, *, allow_stale: bool, revalidate: bool = False
    ) -> Cached:
        """The value, found or computed. Raises what computing it raised."""
        while True:
            flight = self._flights.get(key.near)
            if flight is None:
                task = self._own(self._fly(key, fill, allow_stale, revalidate), "cache-flight")
                flight = self._flights[key.near] = _Flight(task)
                task.add_done_callback(self._landed(key, flight))
            flight.waiting += 1
            try:
                return await asyncio.shield(flight.task)
            except asyncio.CancelledError:
                # Ours, or that of a flight which the last of others before us had given up?
                current = asyncio.current_task()
                if not flight.task.cancelled() or (current is not None and current.cancelling()):
                    raise
            finally:
                flight.waiting -= 1
                if not flight.waiting and not flight.task.done():
                    flight.task.cancel()
                    self._forget(key, flight)

    def sampled(self) -> bool:
        """Whether this hit is one of those that are compared with a new value."""
        if self._revalidations < 1 or random.random() >= _REVALIDATED_SHARE:
            return False
        self._revalidations -= 1
        return True

    def revalidate(self, key: CacheKey, fill: Filling) -> None:
        """Computes the value anew, beside whoever has the old one."""
        self._own(self._again(key, fill, token=0, epoch=None), "cache-revalidation")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _fly(
        self, key: CacheKey, fill: Filling, allow_stale: bool, revalidate: bool
    ) -> Cached:
        try:
            return await self._found_or_computed(key, fill, allow_stale, revalidate)
        except Exception:
            # The top of a task: whoever waits gets the error, or what there is for that case.
            with context.bind(identity=key.identity, detach=True, timeout=_STORE_SECONDS):
                last = (await self._entries.far(key, computing_failed=True)).cached
            if last is None:
                raise
            return last

    async def _found_or_computed(
        self, key: CacheKey, fill: Filling, allow_stale: bool, revalidate: bool
    ) -> Cached:
        entries = self._entries
        give_up = time.monotonic() + MAX_WAIT_SECONDS
        wait = 0.0
        with context.bind(identity=key.identity, detach=True, retries=context.retry_budget()):
            while time.monotonic() < give_up:
                answer = await entries.lease(key, allow_stale=allow_stale, wait=wait)
                if answer is None:
                    break
                if answer.HasField("entry"):
                    cached = entries.found(key, answer.entry)
                    if answer.HasField("refresh"):
                        lease = answer.refresh
                        self._refresh(key, fill, lease.fencing_token, lease.epoch)
                    elif revalidate and self.sampled():
                        self.revalidate(key, fill)
                    return cached
                if answer.HasField("lease"):
                    lease = answer.lease
                    return await self._computed(
                        key, fill, token=lease.fencing_token, epoch=lease.epoch or None
                    )
                wait = _SLICE_SECONDS
            return await self._computed(key, fill, token=0, epoch=None)

    def _refresh(self, key: CacheKey, fill: Filling, token: int, epoch: int) -> None:
        self._own(self._again(key, fill, token=token, epoch=epoch), "cache-refresh")

    async def _again(self, key: CacheKey, fill: Filling, *, token: int, epoch: int | None) -> None:
        try:
            with context.bind(identity=key.identity, detach=True):
                await self._computed(key, fill, token=token, epoch=epoch)
        except Exception as error:
            # The top of a background task: whoever asked has the old value.
            log.info("refresh_failed", namespace=key.message.namespace, error=type(error).__name__)

    async def _computed(
        self, key: CacheKey, fill: Filling, *, token: int, epoch: int | None
    ) -> Cached:
        """Computes and stores; the lease is given back in any case. Raises what `compute` does."""
        started = time.monotonic()
        if epoch is None:
            epoch = key.lane.feed.sequence
        self._revalidations = min(self._revalidations + _REVALIDATED_SHARE, 1.0)
        beating = self._own(self._beat(key, token), "cache-lease") if token else None
        value = None
        try:
            value = await fill.compute()
        finally:
            if beating is not None:
                beating.cancel()
            if value is None:
                self._give_back(key, token)
        cost = time.monotonic() - started
        absent = fill.absent is not None and fill.absent(value)
        try:
            reason = await self._entries.set(
                key,
                value,
                ttl=fill.ttl,
                first_ttl=fill.first_ttl,
                cost=cost,
                tags=fill.tags,
                born=started,
                epoch=epoch,
                token=token,
                absent=absent,
                source=fill.source,
            )
        except Aborted:
            reason = "LEASE_LOST"
        if reason:
            log.debug("not_stored", namespace=key.message.namespace, reason=reason)
        return Cached(
            value,
            pb.TIER_NONE,
            started,
            cost,
            fill.ttl or 0.0,
            absent=absent,
            tags=fill.tags,
            epoch=epoch or 0,
        )

    async def _beat(self, key: CacheKey, token: int) -> None:
        """Keeps the lease until cancelled, or until it is lost."""
        try:
            while True:
                await asyncio.sleep(_HEARTBEAT_SECONDS)
                await self._entries.lease(key, token=token)
        except PeregrineError as error:
            # The value is not stored then; who waits here gets it all the same.
            log.info("lease_lost", namespace=key.message.namespace, reason=error.reason)

    def _give_back(self, key: CacheKey, token: int) -> None:
        if token:
            self._own(self._release(key, token), "cache-release")

    async def _release(self, key: CacheKey, token: int) -> None:
        try:
            with context.bind(identity=key.identity, detach=True, timeout=_STORE_SECONDS):
                await self._entries.release(key, token)
        except PeregrineError as error:
            log.info("lease_not_released", reason=error.reason)

    def _own(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _landed(self, key: CacheKey, flight: _Flight) -> Callable[["asyncio.Task[Cached]"], None]:
        def landed(task: "asyncio.Task[Cached]") -> None:
            self._forget(key, flight)
            if not task.cancelled():
                task.exception()  # whoever waited has it; nobody may have

        return landed

    def _forget(self, key: CacheKey, flight: _Flight) -> None:
        if self._flights.get(key.near) is flight:
            del self._flights[key.near]
