"""Agents over real gRPC."""

from collections.abc import AsyncIterator

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import PeregrineClient
from peregrine.kit.errors import InvalidArgument, NotFound
from tests.support.fake_orchestrator import FakeOrchestrator, fake_orchestrator


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    async with fake_orchestrator() as fake:
        yield fake


@pytest.fixture
async def client(fake: FakeOrchestrator) -> AsyncIterator[PeregrineClient]:
    async with PeregrineClient(fake.target) as client:
        yield client


def agent(name: str, model: str = "m") -> pb.Agent:
    return pb.Agent(name=name, spec=pb.AgentSpec(model=model))


async def test_applying_the_same_again_keeps_the_version(client: PeregrineClient) -> None:
    versions = [(await client.apply_agent(agent("a", model))).version for model in ("m", "m", "n")]
    assert versions == [1, 1, 2]
    assert (await client.get_agent("a")).spec.model == "n"


async def test_agents_are_listed_by_name_and_deleted_once(client: PeregrineClient) -> None:
    for name in ("b", "c", "a"):
        await client.apply_agent(agent(name))
    assert [each.name async for each in client.list_agents()] == ["a", "b", "c"]
    assert await client.delete_agent("b")
    assert not await client.delete_agent("b")
    with pytest.raises(NotFound):
        await client.get_agent("b")


async def test_what_is_wrong_with_which_field_comes_back(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.refuse = InvalidArgument(
        "the agent is invalid", reason="AGENT_INVALID", violations=[("spec.model", "is empty")]
    )
    with pytest.raises(InvalidArgument) as caught:
        await client.apply_agent(agent("a", ""))
    assert caught.value.violations == (("spec.model", "is empty"),)
