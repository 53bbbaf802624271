"""Who computes a missing value: one lease per key in Redis, so that the others wait instead.

A lease runs out after five seconds unless it is renewed, which its holder does every two, so that
of a holder that died nothing is left soon. Its token grows with every lease of the key: what a
holder sends that was thought dead is recognised by it. Leases live beside the logs, in the Redis
that evicts nothing.

A key that is waited for is watched once per process, however many wait: by asking Redis every few
milliseconds, and at once when the value was set, or the lease given back, through this process.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from prometheus_client import Counter

from peregrine.cache.entry import Address
from peregrine.cache.redis_tier import asked, script
from peregrine.cache.tier import Away, Guard, Refused
from peregrine.kit.redis import Redis

LEASE_SECONDS = 5.0
WITHOUT = 0

_TAKEN = 1
_REMEMBERED_MS, _IN_VAIN_MS = 60_000, 10_000

_POLL_SECONDS, _MAX_POLL_SECONDS = 0.02, 0.2

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Leases:
    """All methods raise `Away` and `Refused`."""

    def __init__(self, redis: Redis, *, guard: Guard) -> None:
        self._redis = redis
        self._guard = guard
        self._lease = script("lease.lua")
        self._release = script("release.lua")

    async def take(self, address: Address) -> int | None:
        """The token of a new lease; None while somebody else holds one; `WITHOUT` when the last
        value was one that is not kept, so that waiting for the next one would be in vain."""
        return await self._ask(address, "")

    async def renew(self, address: Address, token: int) -> bool:
        """Whether the lease is still held under that token; then it is for `LEASE_SECONDS` more."""
        return await self._ask(address, str(token)) is not None

    async def release(self, address: Address, token: int, *, in_vain: bool = False) -> bool:
        """Whether it was held under that token. `in_vain`: its value is one that is not kept."""
        state, milliseconds = ("u", _IN_VAIN_MS) if in_vain else ("f", _REMEMBERED_MS)
        return bool(await self._eval(self._release, address, str(token), state, str(milliseconds)))

    async def held(self, address: Address) -> bool:
        value = await self._guard.run("lease", lambda: asked(self._redis.get(_key(address))))
        return value is not None and value[:1] == b"h"

    async def _ask(self, address: Address, token: str) -> int | None:
        given, text = await self._eval(self._lease, address, str(int(LEASE_SECONDS * 1000)), token)
        if given == _TAKEN:
            return int(text)
        return WITHOUT if given else None

    async def _eval(self, source: str, address: Address, *arguments: str) -> Any:
        return await self._guard.run(
            "lease", lambda: asked(self._redis.eval(source, 1, _key(address), *arguments))
        )


def _key(address: Address) -> bytes:
    return b"pl:" + address.redis_key


@dataclass(slots=True)
class _Watched:
    """`news`: something happened to the key through this process."""

    task: asyncio.Task[None]
    over: asyncio.Future[None]
    waiting: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Waits:
    """Waits until a key's lease ends, one watcher per key.

    Args:
      held: whether somebody holds the lease now; raises `Away` or `Refused`.
      failures: counts watchers that broke.
    """

    def __init__(self, held: Callable[[Address], Awaitable[bool]], *, failures: Counter) -> None:
        self._held = held
        self._failures = failures
        self._watched: dict[Address, _Watched] = {}

    async def over(self, address: Address, seconds: float) -> bool:
        """True when the lease ended, False after `seconds`. Raises `Away`, `Refused`."""
        watched = self._watched.get(address)
        if watched is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # In a context of its own: the deadline of whoever came first is not everybody's.
            task = asyncio.create_task(
                self._watch(address), name="cache-lease-watch", context=contextvars.Context()
            )
            watched = self._watched[address] = _Watched(task=task, over=future)
        watched.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(watched.over)
        except TimeoutError:
            return False
        finally:
            watched.waiting -= 1
            if not watched.waiting:
                watched.task.cancel()
                self._forget(address, watched)
        return True

    def tell(self, address: Address) -> None:
        """Something happened to the key: whoever waits looks again."""
        watched = self._watched.get(address)
        if watched is not None:
            watched.news.set()

    async def close(self) -> None:
        tasks = [each.task for each in self._watched.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _watch(self, address: Address) -> None:
        # Started by `over`, which has put it down before this runs.
        watched = self._watched[address]
        pause = _POLL_SECONDS
        try:
            while await self._held(address):
                watched.news.clear()
                try:
                    async with asyncio.timeout(pause):
                        await watched.news.wait()
                except TimeoutError:
                    pause = min(pause * 1.5, _MAX_POLL_SECONDS)
            _settle(watched.over, None)
        except (Away, Refused) as error:
            _settle(watched.over, error)
        except Exception as error:
            # The top of a background task: whoever waits is told.
            self._failures.inc()
            log.error("lease_not_watched", error=type(error).__name__, exc_info=error)
            _settle(watched.over, Away("LEASES_UNAVAILABLE"))
        finally:
            self._forget(address, watched)

    def _forget(self, address: Address, watched: _Watched) -> None:
        if self._watched.get(address) is watched:
            del self._watched[address]


def _settle(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # somebody may have stopped waiting; then nobody reads it
