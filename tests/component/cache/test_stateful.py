"""Random lives of the cache show no wrong value; what such a life is, `lives` says."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.component.cache.lives import Life
from tests.component.cache.worlds import World


def test_no_wrong_value_is_ever_shown(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    try:
        world = loop.run_until_complete(stack.enter_async_context(World.opened(tmp_path)))
        Life.world = world
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=10,
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        # It was no life without hits.
        counts = (world.hits, world.near_hits, world.stale_hits)
        assert world.hits > 20 and world.near_hits and world.stale_hits, counts
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()


pytestmark = pytest.mark.timeout(600)
