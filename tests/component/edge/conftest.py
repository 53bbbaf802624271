"""An edge between a client and stand-ins for the orchestrator and memory."""

from collections.abc import AsyncIterator

import httpx
import pytest

from peregrine.edge.server import EdgeServer
from tests.component.cli.fakes import Neighbours, neighbours
from tests.support.edge import edge
from tests.support.fake_orchestrator import FakeOrchestrator, fake_orchestrator


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    async with fake_orchestrator() as fake:
        yield fake


@pytest.fixture
async def memory() -> AsyncIterator[Neighbours]:
    async with neighbours() as fakes:
        yield fakes


@pytest.fixture
async def server(fake: FakeOrchestrator, memory: Neighbours) -> AsyncIterator[EdgeServer]:
    async with edge(orchestrator=fake.target, memory=memory.target) as server:
        yield server


@pytest.fixture
async def http(server: EdgeServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=10) as client:
        yield client
