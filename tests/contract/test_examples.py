"""What `make run` applies is accepted by this version, whole."""

from datetime import UTC, datetime

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client import resources
from peregrine.client.resources import Resource
from peregrine.orchestrator import plan
from peregrine.tools.builtin.calculator import calculator
from peregrine.tools.builtin.clock import current_time
from peregrine.tools.builtin.knowledge_search import knowledge_search
from peregrine.tools.knowledge import Found
from tests.contract.repository import ROOT

EXAMPLES = ROOT / "examples"


def applied() -> list[Resource]:
    files = sorted(EXAMPLES.glob("*.yaml"))
    found = [
        resource
        for path in files
        for resource in resources.read_all(path.read_text(), source=path.name)
    ]
    resources.check_unique(found)
    return found


AGENTS = [
    resource.value for resource in applied() if isinstance(resource.value, orchestrator_pb2.Agent)
]


async def _nothing(tenant: str, query: str, *, limit: int) -> list[Found]:
    return []


BUILT_IN = {
    tool.name
    for tool in (
        calculator,
        current_time(lambda: datetime.now(UTC)),
        knowledge_search(_nothing),
    )
}
TOOLS = BUILT_IN | {
    resource.value.name for resource in applied() if isinstance(resource.value, tools_pb2.Tool)
}


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)
def test_an_example_agent_is_accepted_and_its_tools_exist(agent: orchestrator_pb2.Agent) -> None:
    plan.check(agent)
    assert set(agent.spec.tools) <= TOOLS


def test_the_agent_that_the_readme_asks_is_there() -> None:
    assert "assistant" in {agent.name for agent in AGENTS}


def test_there_are_documents_to_search() -> None:
    assert [path for path in (EXAMPLES / "docs").glob("*.md") if "refund" in path.read_text()]
