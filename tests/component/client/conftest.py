"""A real cache service for those who test a client of it, and a way to it that can be cut."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peregrine.cache import main
from peregrine.kit.settings import Secret
from tests.support.proxy import FaultProxy, fault_proxy


@pytest.fixture
async def address(migrated_dsn: str, redis_url: str) -> AsyncIterator[str]:
    """Where the service listens."""
    settings = main.Settings(
        auth_required=False,
        listen="127.0.0.1:0",
        postgres_dsn=Secret(migrated_dsn),
        cache_redis_url=Secret(redis_url),
        redis_timeout_seconds=1.0,
        postgres_timeout_seconds=1.0,
    )
    async with main.build(settings) as server, server:
        await server.serving()
        yield server.address


@pytest.fixture
async def stack(address: str) -> AsyncIterator[AsyncExitStack]:
    """For clients: they are closed before the service is."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def proxy(address: str, stack: AsyncExitStack) -> FaultProxy:
    return await stack.enter_async_context(fault_proxy(address))
