"""Loading values before they are asked for: at a bounded rate, with progress, never twice.

What is there already is left alone (and promoted to Redis by being looked at). A loader that fails
costs its key and nothing else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from peregrine.cache.entry import Address
from peregrine.cache.feed import Feed
from peregrine.cache.fills import Fill, Fills
from peregrine.cache.frequencies import Frequencies, Wanted
from peregrine.cache.loaders import STORED, Loader, Loaders
from peregrine.cache.policies import Policies
from peregrine.cache.tiers import Tiers
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError

DEFAULT_RATE = 50
MAX_KEYS = 10_000

_AT_ONCE = 16
_LOAD_SECONDS = 60.0
_AT_START = 1_000
# Whose work it is when nobody asked for it. Entries of the tenant belong to none of its users.
_NOBODY = "cache"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    loaded: int
    failed: int
    present: int
    total: int


class Warming:
    """`failures` counts what broke warming at the start, and loaders that broke."""

    def __init__(
        self,
        *,
        tiers: Tiers,
        fills: Fills,
        feed: Feed,
        loaders: Loaders,
        frequencies: Frequencies,
        failures: Counter,
    ) -> None:
        self._failures = failures
        self._tiers = tiers
        self._fills = fills
        self._feed = feed
        self._loaders = loaders
        self._frequencies = frequencies

    def loader(self, namespace: str) -> Loader | None:
        return self._loaders.find(namespace)

    async def warm(
        self, wanted: Sequence[Wanted], loader: Loader, *, rate: int
    ) -> AsyncIterator[Progress]:
        """Loads what is missing, in the order given, at most `rate` keys a second."""
        loaded = failed = present = 0
        for batch in _batches(wanted, min(_AT_ONCE, rate)):
            started = time.monotonic()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._load(each, loader)) for each in batch]
            outcomes = [task.result() for task in tasks]
            loaded += outcomes.count("loaded")
            failed += outcomes.count("failed")
            present += outcomes.count("present")
            yield Progress(loaded, failed, present, len(wanted))
            if loaded + failed + present < len(wanted):
                # What was there already asked nobody for anything.
                due = (len(batch) - outcomes.count("present")) / rate
                await asyncio.sleep(max(due - (time.monotonic() - started), 0.0))
        if not wanted:
            yield Progress(0, 0, 0, 0)

    async def at_start(self, policies: Policies) -> None:
        """Warms every namespace whose policy says so; runs beside the service."""
        try:
            for each in policies:
                if each.policy.warm_at_start and not each.policy.never:
                    everyone = each.tenant == policies.operator
                    await self._warm_namespace(
                        each.policy.namespace, None if everyone else each.tenant
                    )
        except PeregrineError as error:
            self._failures.inc()
            log.warning("not_warmed", reason=error.reason)
        except Exception as error:
            # The top of a background task: a cold cache is slow, not broken.
            self._failures.inc()
            log.error("not_warmed", error=type(error).__name__, exc_info=error)

    async def _warm_namespace(self, namespace: str, tenant: str | None) -> None:
        loader = self.loader(namespace)
        if loader is None:
            log.warning("no_loader", namespace=namespace)
            return
        tenants = [tenant] if tenant else await self._frequencies.tenants(namespace)
        for one in tenants:
            wanted = await self._frequencies.most_of_all(one, namespace, _AT_START)
            steps = [each async for each in self.warm(wanted, loader, rate=DEFAULT_RATE)]
            end = steps[-1]
            log.info(
                "warmed",
                namespace=namespace,
                loaded=end.loaded,
                failed=end.failed,
                present=end.present,
            )

    async def _load(self, wanted: Wanted, loader: Loader) -> str:
        address = wanted.address
        who = _whose(address)
        epoch = self._feed.sequence
        (found,) = await self._tiers.read(who, [address])
        if found.fresh:
            return "present"
        started = time.monotonic()
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                loaded = await loader(wanted)
        except Exception as error:
            # A loader may be anybody's code: its failure costs one key.
            self._failures.inc()
            log.warning(
                "not_loaded",
                namespace=address.namespace,
                error=type(error).__name__,
                exc_info=error,
            )
            return "failed"
        if loaded is None:
            return "failed"
        if loaded is STORED:
            return "loaded"
        fill = Fill(
            value=loaded.value,
            ttl=loaded.ttl,
            tags=loaded.tags,
            cost=time.monotonic() - started,
            epoch=epoch,
            source=wanted.source,
        )
        stored = await self._fills.store(who, address, fill)
        return "failed" if stored.reason else "loaded"


def _whose(address: Address) -> Identity:
    return Identity(address.tenant, address.user or _NOBODY)


def _batches(wanted: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
