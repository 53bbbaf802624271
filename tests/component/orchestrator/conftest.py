"""One whole Peregrine a test, in this process: with one orchestrator, or with two (`pair`)."""

from collections.abc import AsyncIterator

import pytest

from tests.support import stack
from tests.support.stack import Stack


@pytest.fixture
async def peregrine(migrated_dsn: str, redis_url: str) -> AsyncIterator[Stack]:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_url) as running:
        yield running


@pytest.fixture
async def pair(migrated_dsn: str, redis_url: str) -> AsyncIterator[Stack]:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_url, orchestrators=2) as running:
        yield running
