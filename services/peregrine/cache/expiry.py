"""Removes rows from PostgreSQL whose time is over: entries, and what is old in the feed.

Each replica does it on its own; rows that another one is at work on are skipped. Being late costs
space only: whether an entry still holds is decided when it is read.
"""

from prometheus_client import CollectorRegistry, Counter

from peregrine.cache import postgres_tier
from peregrine.cache.feed_store import FeedStore
from peregrine.kit.postgres import Database
from peregrine.kit.repeating import repeat

_ROWS_AT_ONCE = 500


class Expiry:
    """Runs `sweep` every `interval` seconds (± 20 %, so that replicas do not meet)."""

    def __init__(
        self,
        *,
        database: Database,
        feed: FeedStore,
        interval: float,
        registry: CollectorRegistry,
        failures: Counter,
    ) -> None:
        self._database = database
        self._feed = feed
        self._interval = interval
        self._expired = Counter(
            "peregrine_cache_expired_total",
            "Rows removed because their time was over",
            registry=registry,
        )
        self._failures = failures

    async def sweep(self) -> int:
        """Deletes all that is over, a bounded number of rows at a time; returns how many."""
        total = 0
        while deleted := await postgres_tier.expire(self._database, limit=_ROWS_AT_ONCE):
            total += deleted
            self._expired.inc(deleted)
        await self._feed.sweep()
        return total

    async def run(self) -> None:
        """Until cancelled."""
        await repeat(
            self.sweep, every=self._interval, failures=self._failures, failed="expiry_failed"
        )
