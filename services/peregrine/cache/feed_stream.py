"""The feed in Redis: a short stream beside the table, so that replicas hear within milliseconds.

It is a copy that may be lost at any time. Each event names the one before it, so a reader sees
whether it missed one, and asks PostgreSQL then. That nothing comes proves nothing (`roll`).
"""

from collections.abc import Mapping
from typing import Any

from peregrine.cache.feed import Event
from peregrine.cache.redis_tier import asked, script
from peregrine.cache.tier import Guard
from peregrine.kit.redis import Redis

_STREAM = b"pc-feed"
_KEPT = 10_000
_BLOCK_MS = 200
_AT_ONCE = 500


class FeedStream:
    """`reading` has a connection of its own, on which reads wait for what comes."""

    def __init__(self, redis: Redis, *, reading: Redis, guard: Guard) -> None:
        self._redis = redis
        self._reading = reading
        self._guard = guard
        self._publish = script("publish.lua")

    async def publish(self, event: Event) -> None:
        """Raises `Away`, `Refused`."""
        fields: list[bytes | str | int] = [
            *(b"previous", event.previous),
            *(b"tenant", event.tenant),
            *(b"kind", event.kind),
            *(b"user", event.user),
            *(b"namespace", event.namespace),
            *(b"target", event.target),
            *(b"time", int(event.create_time * 1e6)),
        ]
        await self._guard.run(
            "publish",
            lambda: asked(
                self._redis.eval(self._publish, 1, _STREAM, event.sequence, _KEPT, *fields)
            ),
        )

    async def read(self, after: int) -> list[Event]:
        """Events beyond `after`; waits a moment for some. Raises `Away`, `Refused`."""
        answer = await asked(
            self._reading.xread({_STREAM: f"{after}-0"}, count=_AT_ONCE, block=_BLOCK_MS)
        )
        return [_event(id_, fields) for _, entries in answer or () for id_, fields in entries]


def _event(id_: bytes, fields: Mapping[bytes, bytes]) -> Event:
    text: dict[str, Any] = {
        name: fields[name.encode()].decode() for name in ("tenant", "kind", "user", "namespace")
    }
    return Event(
        sequence=int(id_.partition(b"-")[0]),
        previous=int(fields[b"previous"]),
        target=fields[b"target"],
        create_time=int(fields[b"time"]) / 1e6,
        **text,
    )
