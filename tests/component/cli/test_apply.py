"""`peregrine apply`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.component.cli.fakes import Neighbours, neighbours
from tests.component.cli.program import Program
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.ports import free_port

EXAMPLES = Path(__file__).parents[3] / "examples"
AGENT = """\
apiVersion: peregrine.dev/v1alpha1
kind: Agent
metadata: {name: NAME}
spec: {model: m, tools: [calculator]}
"""
TOOL = """\
apiVersion: peregrine.dev/v1alpha1
kind: Tool
metadata: {name: orders}
spec:
  description: Looks up orders.
  effect: READ
  inputSchema: {type: object}
  http: {url: "https://orders.example"}
"""
POLICY = """\
apiVersion: peregrine.dev/v1alpha1
kind: CachePolicy
metadata: {name: orders}
spec: {namespace: "tool:orders", ttl: 60s}
"""


@pytest.fixture
async def others() -> AsyncIterator[Neighbours]:
    async with neighbours() as others:
        yield others


@pytest.fixture
def everywhere(fake: FakeOrchestrator, others: Neighbours) -> Program:
    return Program(
        {
            "PEREGRINE_ORCHESTRATOR_TARGET": fake.target,
            "PEREGRINE_TOOLS_TARGET": others.target,
            "PEREGRINE_CACHE_TARGET": others.target,
        }
    )


async def test_the_examples_are_applied_where_there_is_no_cluster_and_no_cache(
    fake: FakeOrchestrator, others: Neighbours
) -> None:
    others.tools.takes_tools = True
    peregrine = Program(
        {
            "PEREGRINE_ORCHESTRATOR_TARGET": fake.target,
            "PEREGRINE_TOOLS_TARGET": others.target,
            "PEREGRINE_CACHE_TARGET": f"127.0.0.1:{free_port()}",
        }
    )
    ended = await peregrine("apply", "-f", str(EXAMPLES))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "agent/assistant created",
        "cachepolicy/knowledge-search skipped (valid; no cache service is running here)",
        "tool/get-weather created",
        "tool/search-web created",
        "agent/support created",
        "toolpool/tools skipped (valid; scaling needs a cluster and its operator)",
    ]
    assert list(fake.agents["assistant"].spec.tools) == [
        "calculator",
        "current_time",
        "knowledge_search",
        "get_weather",
        "search_web",
    ]


async def test_what_changed_is_told_from_what_did_not(peregrine: Program, tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(f"{AGENT}---\n{AGENT}".replace("NAME", "one", 1).replace("NAME", "two"))
    first = await peregrine("apply", "-f", str(file))
    file.write_text(file.read_text().replace("model: m", "model: n", 1))
    second = await peregrine("apply", "-f", str(file))
    assert first.out == "agent/one created\nagent/two created\n"
    assert second.out == "agent/one configured\nagent/two unchanged\n"


async def test_resources_may_come_from_standard_input(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    ended = await peregrine("apply", "-f", "-", stdin=AGENT.replace("NAME", "one"))
    assert (ended.code, list(fake.agents)) == (0, ["one"])


async def test_one_mistake_keeps_everything_from_being_applied(
    peregrine: Program, fake: FakeOrchestrator, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(AGENT.replace("NAME", "one"))
    (tmp_path / "b.yml").write_text(AGENT.replace("NAME", "two").replace("model", "modle"))
    (tmp_path / "c.txt").write_text("not read")
    ended = await peregrine("apply", "-f", str(tmp_path))
    assert (ended.code, ended.out, fake.agents) == (1, "", {})
    assert ended.err.splitlines() == [
        f"error: {tmp_path}/b.yml, document 1 (Agent two): "
        "spec.modle: is not a field here; did you mean model?",
        f"error: {tmp_path}/b.yml, document 1 (Agent two): spec.model: is missing",
        "error: nothing was applied",
    ]


async def test_a_tool_is_applied_where_the_service_takes_tools(
    everywhere: Program, others: Neighbours, tmp_path: Path
) -> None:
    (tmp_path / "tool.yaml").write_text(TOOL)
    refused = await everywhere("apply", "-f", str(tmp_path))
    assert refused.code == 0
    assert refused.out == "tool/orders skipped (the tool service here does not take tools yet)\n"
    others.tools.takes_tools = True
    assert (await everywhere("apply", "-f", str(tmp_path))).out == "tool/orders created\n"
    assert (await everywhere("apply", "-f", str(tmp_path))).out == "tool/orders unchanged\n"
    assert others.tools.tools["orders"].tool.http.url == "https://orders.example"


async def test_a_policy_is_applied_where_there_is_a_cache(
    everywhere: Program, others: Neighbours
) -> None:
    ended = await everywhere("apply", "-f", "-", stdin=POLICY)
    assert ended.out == "cachepolicy/orders created\n"
    assert others.cache.policies["tool:orders"].ttl.seconds == 60


async def test_json_names_each_resource_and_what_became_of_it(peregrine: Program) -> None:
    ended = await peregrine("apply", "-f", "-", "--json", stdin=AGENT.replace("NAME", "one"))
    assert ended.lines == [
        {
            "kind": "Agent",
            "name": "one",
            "result": "created",
            "note": "",
            "source": "standard input",
            "document": 1,
        }
    ]


async def test_files_that_cannot_be_read_are_exit_code_2(
    peregrine: Program, tmp_path: Path
) -> None:
    missing = await peregrine("apply", "-f", str(tmp_path / "missing.yaml"))
    assert missing.code == 2
    assert "missing.yaml: No such file or directory" in missing.err
    empty = await peregrine("apply", "-f", str(tmp_path))
    assert (empty.code, empty.err) == (2, f"error: no resources in {tmp_path}\n")
    assert (await peregrine("apply")).code == 2
