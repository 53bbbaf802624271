"""Removes rows from PostgreSQL whose time is over: entries, and what is old in the feed.

Each replica does it on its own; rows that another one is at work on are skipped. Being late costs
space only: whether an entry still holds is decided when it is read.
"""

import asyncio
import random

import structlog
from prometheus_client import CollectorRegistry, Counter

from peregrine.cache import postgres_tier
from peregrine.cache.feed_store import FeedStore
from peregrine.kit.errors import PeregrineError
from peregrine.kit.postgres import Database

_ROWS_AT_ONCE = 500

log = structlog.get_logger(__name__)


class Expiry:
    """Runs `sweep` every `interval` seconds (± 20 %, so that replicas do not meet)."""

    def __init__(
        self,
        *,
        database: Database,
        feed: FeedStore,
        interval: float,
        registry: CollectorRegistry,
    ) -> None:
        self._database = database
        self._feed = feed
        self._interval = interval
        self._expired = Counter(
            "peregrine_cache_expired_total",
            "Rows removed because their time was over",
            registry=registry,
        )
        self._failures = Counter(
            "peregrine_cache_expiry_failures_total", "Sweeps that failed", registry=registry
        )

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
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))
            try:
                await self.sweep()
            except PeregrineError as error:
                self._failures.inc()
                log.warning("expiry_failed", reason=error.reason)
            except Exception as error:
                # The top of a background task: the next sweep may go better.
                self._failures.inc()
                log.error("expiry_failed", error=type(error).__name__, exc_info=error)
