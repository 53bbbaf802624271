"""The roll of replicas in Redis: how one that cannot reach the table knows that it knows all.

That nothing comes on the stream proves nothing: whoever made something untrue may have been unable
to publish it. But whatever was made untrue was made so by one of the replicas, which knew of it
before its caller did. So each says several times a second, in one place, up to where it knows the
feed and when that was. Who has heard of all of them, and knows as much as the best of them, knew
everything at the time of the oldest word. Who fell silent is waited for: it may be the one that is
cut off from Redis and goes on. Who ends takes its name away; one that died is forgotten after an
hour.

Times are those of Redis, so that no two machines' clocks are compared. A word carries the time at
which it was meant, not at which it arrived: Redis may have been frozen in between.

What this cannot see is a replica that never reached this Redis since it started.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from peregrine.cache.redis_tier import asked, script
from peregrine.cache.tier import Away, Guard, Refused
from peregrine.kit.redis import Redis

_ROLL = b"pc-roll"
_BEGUN = b"begun"
_FORGOTTEN_MICROS = 3_600_000_000

_Word = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Heard:
    """At the time `as_of`, on the clock, nobody knew anything beyond `sequence`."""

    sequence: int
    as_of: float


class Roll:
    """`clock`: seconds, monotonic."""

    def __init__(
        self, redis: Redis, *, guard: Guard, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._guard = guard
        self._clock = clock
        self._script = script("roll.lua")
        self._name = uuid.uuid4().hex.encode()
        # What the clock lacks to Redis's time at least, in microseconds.
        self._behind: int | None = None
        self._begun = b""
        self._last: dict[bytes, _Word] = {}
        # Who was known to a roll that Redis lost, and did not come back yet.
        self._missing: dict[bytes, _Word] = {}

    async def call(self, sequence: int) -> Heard | None:
        """Says that this replica knows the feed up to `sequence`; None when not all were heard.

        Raises:
          Away, Refused.
        """
        if self._behind is None:
            await self._say("")
        started = self._clock()
        meant = self._micros(started) + (self._behind or 0)
        now, fields = await self._say(f"{meant} {sequence}")
        words = self._others(fields.pop(_BEGUN), fields, now)
        oldest = min((said for said, _ in words), default=now)
        if any(said > now for said, _ in words):
            # Redis's clock went back: how old these are nobody knows.
            return None
        return Heard(
            sequence=max((known for _, known in words), default=0),
            as_of=started - (now - oldest) / 1e6,
        )

    async def leave(self) -> None:
        """Nothing is made untrue by this replica any more."""
        try:
            await self._guard.run("roll", lambda: asked(self._redis.hdel(_ROLL, self._name)))
        except (Away, Refused):
            pass  # the others take it for dead

    async def _say(self, word: str) -> tuple[int, dict[bytes, bytes]]:
        """The time at Redis, and what is there."""
        answer = await self._guard.run(
            "roll", lambda: asked(self._redis.eval(self._script, 1, _ROLL, self._name, word))
        )
        now = int(answer[0])
        self._behind = now - self._micros(self._clock())
        return now, dict(zip(answer[1][::2], answer[1][1::2], strict=True))

    def _others(self, begun: bytes, fields: dict[bytes, bytes], now: int) -> list[_Word]:
        fields.pop(self._name, None)
        words = {name: _word(text) for name, text in fields.items()}
        if begun != self._begun:
            self._missing |= self._last
            self._begun = begun
        self._last = words
        self._missing = {
            name: word
            for name, word in self._missing.items()
            if name not in words and word[0] > now - _FORGOTTEN_MICROS
        }
        return [*words.values(), *self._missing.values()]

    @staticmethod
    def _micros(seconds: float) -> int:
        return int(seconds * 1e6)


def _word(text: bytes) -> _Word:
    said, _, known = text.partition(b" ")
    return int(said), int(known)
