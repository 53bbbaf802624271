"""The second tier: Redis. Reads are one MGET, writes one script that keeps the newer of two frames.

Everything here may be evicted or lost at any time. What Redis answers with an error (it is full,
or another program wrote to the key) counts against the one entry, not against Redis.
"""

import importlib.resources
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from peregrine.cache import entry as entries
from peregrine.cache.entry import Address, Replaced
from peregrine.cache.tier import Away, Guard, Reasons, Refused, within
from peregrine.kit.redis import AWAY, Redis, ResponseError

NAME = "redis"
REASONS = Reasons(away="REDIS_UNAVAILABLE", slow="REDIS_TIMEOUT")
TOMBSTONE_MS = 10_000

# A megabyte each, a batch of all 256 would stop Redis for everyone else.
_AT_ONCE = 32


def script(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class RedisTier:
    def __init__(self, redis: Redis, *, guard: Guard) -> None:
        self._redis = redis
        self._guard = guard
        self._put = script("put.lua")
        self._remove = script("remove.lua")

    async def read(self, addresses: Sequence[Address], *, max_bytes: int) -> list[bytes | None]:
        """The frames there are, until they are `max_bytes` together. Raises `Away`."""
        keys = [address.redis_key for address in addresses]
        frames: list[bytes | None] = []
        size = 0
        for start in range(0, len(keys), _AT_ONCE):
            if size >= max_bytes:
                break
            some = keys[start : start + _AT_ONCE]
            got = await self._guard.run("read", partial(self._mget, some))
            frames += got
            size += sum(len(frame) for frame in got if frame is not None)
        return frames + [None] * (len(keys) - len(frames))

    async def _mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        frames: list[bytes | None] = await asked(self._redis.mget(keys))
        return frames

    async def put(
        self, address: Address, frame: bytes, *, version: int, seconds: float
    ) -> Replaced | None:
        """What the frame took the place of. Raises `Away`, `Refused`."""
        milliseconds = max(int(seconds * 1000), 1)
        beginning = await self._guard.run(
            "write",
            partial(
                self._eval,
                self._put,
                address.redis_key,
                frame,
                version,
                milliseconds,
                entries.FIXED_BYTES,
            ),
        )
        return entries.replaced(beginning)

    async def remove(self, address: Address, tombstone: bytes) -> bool:
        """Whether there was one. Raises `Away`, `Refused`."""
        there = await self._guard.run(
            "remove",
            partial(self._eval, self._remove, address.redis_key, tombstone, TOMBSTONE_MS),
        )
        return bool(there)

    async def info(self) -> dict[str, Any]:
        """What the server says of itself. Raises `Away`, `Refused`."""
        found: dict[str, Any] = await self._guard.run("info", lambda: asked(self._redis.info()))
        return found

    async def _eval(self, script: str, key: bytes, *arguments: bytes | int) -> Any:
        return await asked(self._redis.eval(script, 1, key, *arguments))


def probe(redis: Redis, *, limit: float) -> Callable[[], Awaitable[bool]]:
    """Asks for a key, as a read would, within a read's time."""

    async def answers() -> bool:
        try:
            await within(limit, lambda: asked(redis.mget([b"pc:probe"])))
        except (Away, TimeoutError):
            return False
        return True

    return answers


async def asked(command: Awaitable[Any]) -> Any:
    try:
        return await command
    except AWAY as error:
        raise Away(REASONS.away) from error
    except ResponseError as error:
        raise Refused(str(error)[:80]) from error
