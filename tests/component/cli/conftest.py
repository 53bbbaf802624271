"""The command line with an orchestrator to talk to."""

from collections.abc import AsyncIterator

import pytest

from tests.component.cli.program import Program
from tests.support.fake_orchestrator import FakeOrchestrator, fake_orchestrator


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    async with fake_orchestrator() as fake:
        yield fake


@pytest.fixture
def peregrine(fake: FakeOrchestrator) -> Program:
    return Program({"PEREGRINE_ORCHESTRATOR_TARGET": fake.target})
