"""Resources that want a look: each once, at its time, and never two looks at one at the same time.

Ten changes of a resource while it waits are one look. A change while it is looked at is another
look afterwards. What failed comes back after a delay that doubles.
"""

import asyncio
import random
from collections.abc import Callable

from peregrine_operator.kubernetes import Key

FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0


class Work:
    """Bounded by the number of resources there are. `clock` gives seconds, as the loop's."""

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._due: dict[Key, float] = {}
        self._ready: dict[Key, float] = {}
        self._under_way: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due) + len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way; what is due later does not count."""
        return not self._ready and not self._under_way

    def add(self, key: Key, *, after: float = 0.0) -> None:
        """Asks for a look at `key` in `after` seconds; an earlier one that was asked for stays."""
        if key in self._ready:
            return
        now = self._clock()
        if after <= 0 and key not in self._under_way:
            self._due.pop(key, None)
            self._ready[key] = now
        else:
            self._due[key] = min(now + after, self._due.get(key, now + after))
        self._changed.set()

    async def take(self) -> tuple[Key, float]:
        """The next key, and the seconds it has waited since it was due. Give it back by `done`."""
        while True:
            now = self._clock()
            for key, due in list(self._due.items()):
                if due <= now and key not in self._under_way:
                    del self._due[key]
                    self._ready[key] = due
            if self._ready:
                key = next(iter(self._ready))
                since = self._ready.pop(key)
                self._under_way.add(key)
                return key, max(now - since, 0.0)
            self._changed.clear()
            waiting = [due for key, due in self._due.items() if key not in self._under_way]
            try:
                async with asyncio.timeout(min(waiting) - now if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key, *, failed: bool = False, after: float | None = None) -> float | None:
        """Ends a look. A failed one is due again after `after` or a doubling delay: returned."""
        self._under_way.discard(key)
        self._changed.set()
        if not failed:
            self._failures.pop(key, None)
            if after is not None:
                self.add(key, after=after)
            return after
        count = self._failures[key] = self._failures.get(key, 0) + 1
        usual = min(FIRST_DELAY * 2.0 ** min(count - 1, 16), LONGEST_DELAY)
        delay = max(after or 0.0, usual * random.uniform(0.75, 1.0))
        self.add(key, after=delay)
        return delay

    def forget(self, key: Key) -> None:
        self._due.pop(key, None)
        self._failures.pop(key, None)
