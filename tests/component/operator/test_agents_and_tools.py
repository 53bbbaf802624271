"""From custom resources to the services and back into their status, through a mocked API server."""

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.kit.errors import InvalidArgument, Unavailable
from peregrine_operator.decisions import FINALIZER
from peregrine_operator.kubernetes import Key
from tests.component.operator.conftest import Start, agent, tool
from tests.component.operator.fakes import Agents, Tools
from tests.support.eventually import eventually
from tests.support.kubernetes import ApiServer

HELPER = Key("Agent", "one", "helper")
LOOKUP = Key("Tool", "one", "lookup")
AWAY = Unavailable("not now", reason="POSTGRES_UNAVAILABLE", retry_after=0.1)


async def test_an_agent_is_applied_and_says_so(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start():
        await api.apply(agent(tools=["calculator"]))
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
    assert agents.agents["helper"].spec.tools == ["calculator"]
    kept = api.kept(HELPER)
    assert kept["metadata"]["finalizers"] == [FINALIZER]
    assert kept["status"]["tools"] == "1/1"
    assert kept["status"]["observedGeneration"] == 1
    assert [each["type"] for each in api.events("Applied")] == ["Normal"]


async def test_what_was_there_before_the_operator_is_applied_too(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    await api.apply(agent())
    async with start():
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
    assert agents.applied == ["helper"]


async def test_a_restart_applies_nothing_again(
    api: ApiServer, agents: Agents, tools: Tools, start: Start
) -> None:
    async with start():
        await api.apply(agent(tools=["lookup"]))
        await api.apply(tool())
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
    before = api.kept(HELPER)
    agents.applied.clear()
    tools.applied.clear()
    async with start() as operator:
        await eventually(lambda: operator.health.listed is not None and operator.health.leading)
        await api.apply(agent("another"))
        await eventually(lambda: api.ready(Key("Agent", "one", "another"))[0] == "True")
    assert agents.applied == ["another"]
    assert tools.applied == []
    assert api.kept(HELPER) == before


async def test_a_changed_agent_is_applied_again(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start():
        await api.apply(agent(systemPrompt="one"))
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        await api.apply(agent(systemPrompt="two"))
        await eventually(lambda: api.kept(HELPER)["status"]["applied"]["generation"] == 2)
    assert agents.agents["helper"].spec.system_prompt == "two"
    assert len(set(agents.requests)) == 2


async def test_an_agent_becomes_ready_when_its_tool_appears_and_says_so_when_it_goes(
    api: ApiServer, tools: Tools, start: Start
) -> None:
    async with start():
        await api.apply(agent(tools=["calculator", "lookup"]))
        await eventually(lambda: api.ready(HELPER) == ("False", "ToolsMissing"))
        assert "lookup" in api.message(HELPER)
        assert api.kept(HELPER)["status"]["missingTools"] == ["lookup"]
        await api.apply(tool())
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
        assert api.ready(LOOKUP) == ("True", "Applied")
        await api.remove(LOOKUP)
        await eventually(lambda: api.ready(HELPER) == ("False", "ToolsMissing"))
    assert api.kept(LOOKUP) is None
    assert "lookup" not in tools.tools


async def test_a_tool_that_nobody_declared_here_counts_when_the_service_has_it(
    api: ApiServer, tools: Tools, start: Start
) -> None:
    async with start():
        await api.apply(agent(tools=["calculator"]))
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
        del tools.tools["calculator"]
        await eventually(lambda: api.ready(HELPER) == ("False", "ToolsMissing"))


async def test_a_disabled_tool_is_not_ready_and_neither_is_its_agent(
    api: ApiServer, tools: Tools, start: Start
) -> None:
    async with start():
        await api.apply(agent(tools=["lookup"]))
        await api.apply(tool())
        await eventually(lambda: api.ready(LOOKUP) == ("True", "Applied"))
        tools.tools["lookup"].disabled_reason = "its server is gone"
        await eventually(lambda: api.ready(LOOKUP) == ("False", "Disabled"))
        await eventually(lambda: api.ready(HELPER) == ("False", "ToolsDisabled"))


async def test_a_deleted_agent_is_deleted_in_the_service_first(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start():
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        await api.remove(HELPER)
        await eventually(lambda: api.kept(HELPER) is None)
        assert agents.agents == {}


async def test_deleting_what_the_service_no_longer_has_succeeds(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start(PEREGRINE_OPERATOR_RESYNC_SECONDS="60"):
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        agents.agents.clear()
        await api.remove(HELPER)
        await eventually(lambda: api.kept(HELPER) is None)


async def test_a_deletion_that_waits_for_the_service_says_so_and_ends_when_it_is_back(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start():
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        agents.failing = AWAY
        await api.remove(HELPER)
        await eventually(lambda: api.ready(HELPER) == ("False", "PostgresUnavailable"))
        assert "not deleted yet" in api.message(HELPER)
        assert FINALIZER in api.message(HELPER)
        agents.failing = None
        await eventually(lambda: api.kept(HELPER) is None)
    assert agents.agents == {}


async def test_a_service_that_is_away_is_told_and_tried_again(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    agents.failing = AWAY
    async with start():
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER) == ("False", "PostgresUnavailable"))
        agents.failing = None
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))


async def test_the_outcome_of_an_applied_agent_stands_while_its_service_is_away(
    api: ApiServer, agents: Agents, tools: Tools, start: Start
) -> None:
    async with start() as operator:
        await api.apply(agent(tools=["calculator"]))
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        before = api.kept(HELPER)["status"]
        agents.failing = tools.failing = AWAY
        listed = operator.health.listed
        await eventually(lambda: (operator.health.listed or 0) > (listed or 0) + 1.5)
        assert api.kept(HELPER)["status"] == before


async def test_a_refused_definition_is_told_with_its_fields_and_not_tried_in_a_circle(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    agents.failing = InvalidArgument(
        "the agent cannot be applied",
        reason="AGENT_INVALID",
        violations=[("spec.approvals", "are not served by this version")],
    )
    async with start() as operator:
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER) == ("False", "AgentInvalid"))
        assert "spec.approvals are not served" in api.message(HELPER)
        agents.failing = None
        listed = operator.health.listed
        await eventually(lambda: (operator.health.listed or 0) > (listed or 0) + 1.5)
        assert agents.applied == []
        await api.apply(agent(systemPrompt="changed"))
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))


async def test_what_the_schema_would_have_refused_is_told(api: ApiServer, start: Start) -> None:
    async with start():
        await api.apply(agent(modle="m"))
        await eventually(lambda: api.ready(HELPER) == ("False", "Invalid"))
        assert "did you mean model?" in api.message(HELPER)


async def test_drift_is_put_right_and_an_event_says_so(
    api: ApiServer, agents: Agents, tools: Tools, start: Start
) -> None:
    async with start():
        await api.apply(agent())
        await api.apply(tool())
        await eventually(lambda: api.ready(HELPER)[0] == "True" == api.ready(LOOKUP)[0])
        agents.agents.clear()
        tools.tools["lookup"].tool.description = "Something else."
        tools.tools["lookup"].version += 1
        await eventually(lambda: len(api.events("DriftRepaired")) == 2)
    assert agents.agents["helper"] == orchestrator_pb2.Agent(
        name="helper",
        spec=orchestrator_pb2.AgentSpec(model="m"),
        version=1,
        update_time=agents.agents["helper"].update_time,
    )
    assert tools.tools["lookup"].tool.description == "Looks things up."
    said = {each["regarding"]["name"]: each["note"] for each in api.events("DriftRepaired")}
    assert "was deleted in the orchestrator" in said["helper"]
    assert "was changed in the tools service" in said["lookup"]
    assert len(set(agents.requests)) == 2


async def test_of_two_that_claim_a_name_the_older_wins_and_the_younger_inherits(
    api: ApiServer, tools: Tools, start: Start
) -> None:
    old, young = tool("a", "one", name="lookup"), tool("b", "two", name="lookup")
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    young["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    young["spec"]["description"] = "The younger."
    first, second = Key("Tool", "one", "a"), Key("Tool", "two", "b")
    await api.apply(young)
    await api.apply(old)
    async with start():
        await eventually(lambda: api.ready(second) == ("False", "Conflicted"))
        await eventually(lambda: api.ready(first) == ("True", "Applied"))
        assert "one/a is older" in api.message(second)
        assert tools.tools["lookup"].tool.description == "Looks things up."
        await api.remove(first)
        await eventually(lambda: api.ready(second) == ("True", "Applied"))
        assert api.kept(first) is None
        assert tools.tools["lookup"].tool.description == "The younger."
        assert tools.applied == ["lookup", "lookup"]


async def test_a_conflicted_one_leaves_without_taking_the_name_away(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    old, young = agent("helper", "one"), agent("helper", "two")
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    second = Key("Agent", "two", "helper")
    await api.apply(old)
    async with start():
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        await api.apply(young)
        await eventually(lambda: api.ready(second) == ("False", "Conflicted"))
        await api.remove(second)
        await eventually(lambda: api.kept(second) is None)
        assert "helper" in agents.agents
        assert api.ready(HELPER) == ("True", "Applied")


async def test_other_namespaces_are_left_alone(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start(PEREGRINE_OPERATOR_NAMESPACES="one,three"):
        await api.apply(agent("elsewhere", "two"))
        await api.apply(agent("here", "three"))
        await eventually(lambda: api.ready(Key("Agent", "three", "here"))[0] == "True")
    assert agents.applied == ["here"]


@pytest.mark.parametrize("status", [500, 429])
async def test_an_api_server_that_refuses_is_asked_again(
    api: ApiServer, agents: Agents, start: Start, status: int
) -> None:
    async with start():
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER)[0] == "True")
        api.refusing = status
        agents.agents.clear()
        api.refusing = 0
        await eventually(lambda: "helper" in agents.agents, timeout=20)


async def test_the_tools_of_an_mcp_server_are_connected_when_an_agent_names_the_server(
    api: ApiServer, tools: Tools, start: Start
) -> None:
    server = tool("search", http=None, mcp={"url": "https://example.com/mcp"})
    del server["spec"]["http"]
    tools.lazy["search"] = ["search_web", "search_news"]
    async with start():
        await api.apply(agent(tools=["search"]))
        await api.apply(server)
        await eventually(lambda: api.ready(Key("Tool", "one", "search")) == ("True", "Applied"))
        await eventually(lambda: api.ready(HELPER) == ("True", "Applied"))
        tools.lazy["search"] = []
        tools.forget("search")
        await eventually(lambda: api.ready(Key("Tool", "one", "search")) == ("False", "Disabled"))
        await eventually(lambda: api.ready(HELPER) == ("False", "ToolsDisabled"))
