"""Loading values before they are asked for: at a bounded rate, with progress, never twice.

What is there already is left alone (and promoted to Redis by being looked at). A loader that fails
costs its key and nothing else.

Whoever asks for it has it done for himself: for what his tenant shares, and for what is his own. A
cache that warms itself at its start acts for nobody, so it leaves what belongs to users alone; for
what a tenant shares it asks in its own name, as the user `cache` of that tenant.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from peregrine.cache.entry import Address
from peregrine.cache.feed import Feed
from peregrine.cache.fills import Fill, Fills
from peregrine.cache.frequencies import Frequencies, Wanted
from peregrine.cache.loaders import PRESENT, STORED, Loader, Loaders
from peregrine.cache.policies import Policies
from peregrine.cache.tiers import Tiers
from peregrine.kit import scopes
from peregrine.kit.context import Identity, with_identity
from peregrine.kit.errors import PeregrineError, Unauthenticated
from peregrine.kit.identity import Signer

DEFAULT_RATE = 50
MAX_KEYS = 10_000

_AT_ONCE = 16
_LOAD_SECONDS = 60.0
_AT_START = 1_000
# Whose work it is when nobody asked for it. Entries of the tenant belong to none of its users.
_ITSELF = "cache"
# Between tries at the start, while nothing at all can be loaded: what loads may start later.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    loaded: int
    failed: int
    present: int
    total: int


class Warming:
    """`failures` counts what broke warming at the start, and loaders that broke. `signer`: proves
    that the cache asks in its own name, where identity is on."""

    def __init__(
        self,
        *,
        tiers: Tiers,
        fills: Fills,
        feed: Feed,
        loaders: Loaders,
        frequencies: Frequencies,
        failures: Counter,
        signer: Signer | None = None,
    ) -> None:
        self._signer = signer
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
        """Loads what is missing, in the order given, at most `rate` keys a second.

        Raises:
          Unauthenticated: IDENTITY_ENDED, the proof of whom it is for did not last to the end.
        """
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
            if "unproven" in outcomes:
                raise Unauthenticated(
                    "for whom this is could not be proved to the end, which takes less than five"
                    " minutes: warm again, what is there is left alone",
                    reason="IDENTITY_ENDED",
                )
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
            wanted = await self._frequencies.most_shared(one, namespace, _AT_START)
            with self._as_itself(one):
                end = await self._warm_when_possible(wanted, loader)
            log.info(
                "warmed",
                namespace=namespace,
                loaded=end.loaded,
                failed=end.failed,
                present=end.present,
            )

    async def _warm_when_possible(self, wanted: Sequence[Wanted], loader: Loader) -> Progress:
        """Tries again, some times, while not one of them can be loaded."""
        for pause in (*_PAUSES, 0.0):
            steps = [each async for each in self.warm(wanted, loader, rate=DEFAULT_RATE)]
            end = steps[-1]
            if not end.failed or end.loaded or end.present:
                break
            await asyncio.sleep(pause)
        return end

    def _as_itself(self, tenant: str) -> AbstractContextManager[None]:
        me = Identity(tenant, _ITSELF)
        if self._signer is None:
            return with_identity(me)
        return self._signer.acting_as(me, {scopes.RUN})

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
        except Unauthenticated:
            return "unproven"
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
        if loaded is STORED or loaded is PRESENT:
            return "loaded" if loaded is STORED else "present"
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
    return Identity(address.tenant, address.user or _ITSELF)


def _batches(wanted: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
