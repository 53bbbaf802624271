"""Forgets request ids after the 24 hours for which they are honoured.

Each replica does it on its own; rows that another one is at work on are skipped. Being late harms
nothing: an id older than 24 hours counts as new whether its row is still there or not.
"""

from prometheus_client import Counter

from peregrine.kit.repeating import repeat
from peregrine.memory.store import Store

_ROWS_AT_ONCE = 1_000


class Expiry:
    """Runs `sweep` every `interval` seconds (± 20 %, so that replicas do not meet).

    `failures` counts sweeps that failed.
    """

    def __init__(self, *, store: Store, interval: float, failures: Counter) -> None:
        self._store = store
        self._interval = interval
        self._failures = failures

    async def sweep(self) -> int:
        """Deletes all that is old, a bounded number of rows at a time; returns how many."""
        total = 0
        while deleted := await self._store.expire_requests(limit=_ROWS_AT_ONCE):
            total += deleted
        return total

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(
            self.sweep, every=self._interval, failures=self._failures, failed="expiry_failed"
        )
