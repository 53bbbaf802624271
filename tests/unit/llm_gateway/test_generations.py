"""Generations: whoever reads one that broke inside is told, and it is counted."""

import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit.background import Failures
from peregrine.kit.context import Identity
from peregrine.kit.errors import Internal
from peregrine.llm_gateway.generations import Generation, Generations
from tests.support.eventually import eventually

WHO = Identity("acme", "ada")


async def test_readers_of_a_generation_that_broke_are_told_and_it_is_counted() -> None:
    async def work(generation: Generation) -> None:
        raise RuntimeError("a mistake of ours")

    registry = CollectorRegistry()
    generations = Generations(
        owner="one",
        max_live=1,
        max_kept=1,
        max_kept_bytes=1024,
        max_bytes=1024,
        keep_seconds=60,
        failures=Failures(registry).of("generations"),
    )
    generation = generations.start(WHO, work)
    await eventually(lambda: generation.ended)
    assert isinstance(generation.failure, Internal)
    assert "mistake" not in generation.failure.message
    counted = {"task": "generations"}
    assert registry.get_sample_value("peregrine_background_failures_total", counted) == 1
    await generations.close()


pytestmark = pytest.mark.timeout(30)
