"""Waiting for another holder of a lease: all who wait hear of a broken watcher; it is counted."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from peregrine.cache.entry import Address
from peregrine.cache.leases import Waits
from peregrine.cache.tier import Away
from peregrine.kit.background import Failures

ADDRESS = Address("acme", "", "made", b"key")


async def test_whoever_waits_is_told_when_the_watcher_breaks() -> None:
    async def held(_: Address) -> bool:
        raise RuntimeError("a mistake of ours")

    registry = CollectorRegistry()
    failures = Failures(registry)
    failures.of("other")
    waits = Waits(held, failures=failures.of("lease_watch"))
    results = await asyncio.gather(
        *(waits.over(ADDRESS, 5.0) for _ in range(3)), return_exceptions=True
    )
    assert [str(each) for each in results if isinstance(each, Away)] == ["LEASES_UNAVAILABLE"] * 3
    name = "peregrine_background_failures_total"
    assert registry.get_sample_value(name, {"task": "lease_watch"}) == 1
    assert registry.get_sample_value(name, {"task": "other"}) == 0
    await waits.close()


async def test_a_lease_that_ended_is_over_and_one_that_goes_on_is_not() -> None:
    holding = True

    async def held(_: Address) -> bool:
        return holding

    waits = Waits(held, failures=Failures(CollectorRegistry()).of("lease_watch"))
    assert not await waits.over(ADDRESS, 0.03)
    holding = False
    assert await waits.over(ADDRESS, 5.0)
    await waits.close()


pytestmark = pytest.mark.timeout(30)
