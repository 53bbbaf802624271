"""Custom resources: what a manifest means, and how a wrong one is explained."""

from pathlib import Path

import pytest

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client import resources
from peregrine.client._bounds import BOUNDS
from peregrine.client._manifest import enum_names
from peregrine.client.resources import Resource, ResourceError, ToolPool

EXAMPLES = Path(__file__).parents[3] / "examples"


def document(kind: str, spec: str, name: str = "one") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return f"""\
apiVersion: peregrine.dev/v1alpha1
kind: {kind}
metadata:
  name: {name}
spec:
{indented}
"""


def read(kind: str, spec: str) -> Resource:
    (resource,) = resources.read_all(document(kind, spec), source="a.yaml")
    return resource


def problems(text: str) -> list[str]:
    with pytest.raises(ResourceError) as caught:
        resources.read_all(text, source="a.yaml")
    return [f"{each.field}: {each.message}" for each in caught.value.problems]


def wrong(kind: str, spec: str) -> list[str]:
    return problems(document(kind, spec))


# ---- What is right ----


def test_an_agent_becomes_its_proto() -> None:
    agent = read(
        "Agent",
        """\
model: claude-sonnet-5-5
fallbackModels: [claude-haiku-5-5]
systemPrompt: Be brief.
tools: [calculator, refund]
capabilities: [support]
limits: {maxSteps: 8, maxDuration: 1m30s, maxCostMicros: 5000000000000}
context: {strategy: SUMMARY, maxMessages: 20}
cache: "OFF"
optimizations: {eagerTools: false, streaming: true}
approvals: [refund]
temperature: 0.5""",
    ).value
    spec = orchestrator_pb2.AgentSpec(
        model="claude-sonnet-5-5",
        fallback_models=["claude-haiku-5-5"],
        system_prompt="Be brief.",
        tools=["calculator", "refund"],
        capabilities=["support"],
        limits=orchestrator_pb2.AgentLimits(max_steps=8, max_cost_micros=5_000_000_000_000),
        context=orchestrator_pb2.ContextOptions(
            strategy=orchestrator_pb2.CONTEXT_STRATEGY_SUMMARY, max_messages=20
        ),
        cache=orchestrator_pb2.CACHE_MODE_OFF,
        optimizations=orchestrator_pb2.Optimizations(eager_tools=False, streaming=True),
        approvals=["refund"],
        temperature=0.5,
    )
    spec.limits.max_duration.FromSeconds(90)
    assert agent == orchestrator_pb2.Agent(name="one", spec=spec)


def test_what_is_not_written_stays_unset() -> None:
    agent = read("Agent", "model: m").value
    assert agent == orchestrator_pb2.Agent(name="one", spec=orchestrator_pb2.AgentSpec(model="m"))
    assert isinstance(agent, orchestrator_pb2.Agent)
    assert not agent.spec.HasField("temperature")


def test_an_http_tool_becomes_its_proto_and_keeps_its_schema_exactly() -> None:
    tool = read(
        "Tool",
        """\
name: order_status
description: Looks up an order.
effect: READ
costClass: expensive
changeClass: live
scope: user
timeout: 500ms
maxConcurrency: 4
inputSchema:
  type: object
  properties:
    order: {type: integer, maximum: 9007199254740993, example: 2026-01-02}
http:
  method: GET
  url: https://orders.example/{order}
  secretHeaders: {Authorization: ORDERS_TOKEN}""",
    ).value
    assert isinstance(tool, tools_pb2.Tool)
    assert tool.name == "order_status"
    assert tool.effect == common_pb2.EFFECT_READ
    assert tool.cost_class == tools_pb2.COST_CLASS_EXPENSIVE
    assert tool.change_class == tools_pb2.CHANGE_CLASS_LIVE
    assert tool.scope == common_pb2.SCOPE_USER
    assert tool.timeout.ToMilliseconds() == 500
    assert dict(tool.http.secret_headers) == {"Authorization": "ORDERS_TOKEN"}
    assert tool.input_schema.utf8 == (
        b'{"type":"object","properties":{"order":{"type":"integer",'
        b'"maximum":9007199254740993,"example":"2026-01-02"}}}'
    )


def test_a_tool_is_called_by_its_resources_name_unless_it_says_otherwise() -> None:
    tool = read("Tool", "builtin: {name: current_time}").value
    assert isinstance(tool, tools_pb2.Tool)
    assert (tool.name, tool.builtin.name) == ("one", "current_time")


def test_a_cache_policy_observes_unless_it_is_told_to_act() -> None:
    policy = read(
        "CachePolicy", "namespace: tool:search\nttl: 30m\nminTtl: 5s\nmaxTtl: 1d\nwarmAtStart: true"
    ).value
    assert isinstance(policy, cache_pb2.Policy)
    assert policy.mode == cache_pb2.POLICY_MODE_OBSERVE
    assert policy.max_ttl.ToSeconds() == 86_400
    assert policy.warm_at_start


def test_a_tool_pool_has_defaults() -> None:
    pool = read("ToolPool", "deployment: tools\nmaxReplicas: 5\nwaitObjective: 250ms").value
    assert pool == ToolPool(name="one", deployment="tools", max_replicas=5, wait_objective=0.25)


def test_documents_are_counted_even_when_they_are_empty() -> None:
    text = f"---\n# nothing\n---\n{document('Agent', 'model: m')}"
    (resource,) = resources.read_all(text, source="a.yaml")
    assert resource.document == 2


def test_what_the_kubernetes_api_adds_is_no_problem() -> None:
    manifest = {
        "apiVersion": "peregrine.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "one", "uid": "1", "generation": 2, "managedFields": []},
        "spec": {"model": "m"},
        "status": {"conditions": []},
    }
    assert resources.read(manifest).name == "one"


def test_every_example_is_valid() -> None:
    found = [
        resource
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for resource in resources.read_all(path.read_text("utf-8"), source=path.name)
    ]
    resources.check_unique(found)
    assert {each.kind for each in found} == {"Agent", "CachePolicy", "Tool", "ToolPool"}
    assert "assistant" in {each.name for each in found}


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("10s", 10_000), ("500ms", 500), ("1h30m", 5_400_000), ("1.5s", 1500), ("2d", 172_800_000)],
)
def test_durations_are_written_as_in_kubernetes(text: str, milliseconds: int) -> None:
    policy = read("CachePolicy", f"namespace: a\nttl: {text}").value
    assert isinstance(policy, cache_pb2.Policy)
    assert policy.ttl.ToMilliseconds() == milliseconds


# ---- What is wrong ----


@pytest.mark.parametrize(
    ("kind", "spec", "problem"),
    [
        ("Agent", "tools: []", "spec.model: is missing"),
        ("Agent", "model: ''", "spec.model: is empty"),
        ("Agent", "model: 4", "spec.model: must be text, not the number 4 (put it in quotes)"),
        ("Agent", "model: m\nsystemPromt: x", "did you mean systemPrompt?"),
        ("Agent", "model: m\nsystem_prompt: x", "did you mean systemPrompt?"),
        ("Agent", "model: m\nversion: 3", "spec.version: is not a field here"),
        ("Agent", "model: m\ntools: calculator", "spec.tools: must be a list, not text"),
        ("Agent", "model: m\ntools: [a, a]", "spec.tools[1]: 'a' is listed twice"),
        ("Agent", "model: m\ntools: ['no spaces']", "spec.tools[0]: must be 1 to 64 of"),
        ("Agent", "model: m\nlimits: {maxSteps: 101}", "must be 1 to 100, not 101"),
        ("Agent", "model: m\nlimits: {maxSteps: 0}", "must be 1 to 100, not 0"),
        ("Agent", "model: m\nlimits: {maxSteps: 1.5}", "must be a whole number"),
        ("Agent", "model: m\nlimits: {maxSteps: yes}", "must be a whole number, not true"),
        ("Agent", "model: m\nlimits: {maxTotalTokens: -1}", "must be"),
        ("Agent", "model: m\nlimits: {maxDuration: 2h}", "must be 0.001 to 3,600 s"),
        ("Agent", "model: m\nlimits: {maxDuration: 60}", 'must be a duration such as "10s"'),
        ("Agent", "model: m\nlimits:", "spec.limits: has no value"),
        ("Agent", "model: m\nlimits: []", "spec.limits: must be a mapping, not a list"),
        ("Agent", "model: m\ncache: OFF", 'write "OFF" in quotes'),
        ("Agent", "model: m\ncache: exact", "must be one of OFF, EXACT, not 'exact'"),
        ("Agent", "model: m\ntemperature: 1.5", "must be 0 to 1, not 1.5"),
        ("Agent", "model: m\noptimizations: {streaming: 'no'}", "must be true or false, not text"),
        ("Agent", "model: m\napprovals: [refund]", "'refund' is not among spec.tools"),
        ("Tool", "effect: PURE", "spec: needs one of builtin, http, mcp and python"),
        ("Tool", "builtin: {}\nmcp: {url: 'http://x'}", "cannot be given together with builtin"),
        ("Tool", "http: {method: GET}", "spec.http.url: is missing"),
        ("Tool", "http: {url: 'http://x'}", "spec.description: is missing"),
        ("Tool", "http: {url: 'http://x'}", "spec.effect: is missing"),
        ("Tool", "http: {url: 'http://x'}", "spec.inputSchema: is missing"),
        ("Tool", "builtin: {}\ninputSchema: {type: array}", "JSON Schema whose type is object"),
        ("Tool", "builtin: {}\ninputSchema: {type: object, x: .nan}", "cannot be written as JSON"),
        ("Tool", "builtin: {}\ntimeout: 301s", "must be 0.001 to 300 s"),
        ("Tool", "builtin: {}\nretries: 6", "must be 0 to 5, not 6"),
        ("Tool", "python: {function: nonsense}", "must be package.module:function"),
        ("Tool", "mcp: {}", "spec.mcp: needs exactly one of url and command"),
        ("CachePolicy", "ttl: 5s", "spec.namespace: is missing"),
        ("CachePolicy", "namespace: a\nttl: 1s\nminTtl: 5s", "spec.ttl: is shorter than"),
        ("CachePolicy", "namespace: a\nttl: 9s\nmaxTtl: 5s", "spec.ttl: is longer than"),
        ("CachePolicy", "namespace: a\nminTtl: 9s\nmaxTtl: 5s", "spec.minTtl: is longer than"),
        ("CachePolicy", "namespace: a\nmode: active", "must be one of Observe, Active"),
        ("ToolPool", "deployment: tools", "spec.maxReplicas: is missing"),
        ("ToolPool", "deployment: tools\nmaxReplicas: 1", "is more than spec.maxReplicas"),
        ("ToolPool", "deployment: Tools!\nmaxReplicas: 4", "must be the name of a Deployment"),
        ("ToolPool", "deployment: t\nmaxReplicas: 4\nprofile: fast", "one of balanced, latency"),
        ("ToolPool", "deployment: t\nmaxReplicas: 4\nmaxReplica: 4", "did you mean maxReplicas?"),
        ("Agnet", "model: m", "kind: must be one of Agent, Tool, ToolPool, CachePolicy"),
        ("Agent", "- model", "spec: must be a mapping, not a list"),
    ],
)
def test_a_mistake_is_named_with_its_field(kind: str, spec: str, problem: str) -> None:
    found = wrong(kind, spec)
    assert any(problem in each for each in found), found


def test_all_mistakes_of_all_documents_are_told_at_once() -> None:
    text = "---\n".join(
        [document("Agent", "modell: m\ncache: ALL"), document("Tool", "builtin: {}\nretries: 9")]
    )
    with pytest.raises(ResourceError) as caught:
        resources.read_all(text, source="a.yaml")
    assert [(each.document, each.field) for each in caught.value.problems] == [
        (1, "spec.modell"),
        (1, "spec.cache"),
        (1, "spec.model"),
        (2, "spec.retries"),
    ]


def test_a_problem_names_file_document_resource_and_field() -> None:
    with pytest.raises(ResourceError) as caught:
        resources.read_all(document("Agent", "cache: EXACT"), source="dir/a.yaml")
    assert str(caught.value) == "dir/a.yaml, document 1 (Agent one): spec.model: is missing"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: Agent\nmetadata: {name: a}\nspec: {model: m}", "apiVersion: is missing"),
        ("apiVersion: v1\nkind: Agent\nmetadata: {name: a}\nspec: {}", "must be peregrine.dev"),
        (
            "apiVersion: peregrine.dev/v1alpha1\nkind: Agent\nspec: {model: m}",
            "metadata: is missing",
        ),
        ("just text", "must be a mapping, not text"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' stands twice"),
        ("a: [1", "line 1, column 6"),
        ("1: a", "a key must be plain text"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_what_is_no_resource_is_explained(text: str, problem: str) -> None:
    found = problems(text)
    assert any(problem in each for each in found), found


@pytest.mark.parametrize("name", ["Upper", "under_score", "-a", "a-", "a" * 64, "a.b"])
def test_names_are_those_of_kubernetes(name: str) -> None:
    (found,) = problems(document("Agent", "model: m", name=name))
    assert found.startswith("metadata.name: must be 1 to 63 of a-z 0-9 -")


def test_the_same_name_twice_is_a_problem_that_names_both_places() -> None:
    first = resources.read_all(document("Agent", "model: m"), source="a.yaml")
    second = resources.read_all(document("Agent", "model: n"), source="b.yaml")
    with pytest.raises(ResourceError, match=r"b\.yaml, document 1 .*already used in a\.yaml"):
        resources.check_unique([*first, *second])


# ---- The tables behind it ----


def test_every_bound_belongs_to_a_field_of_the_contract() -> None:
    messages = {
        message.name: {field.name for field in message.fields}
        for file in (orchestrator_pb2, tools_pb2, cache_pb2)
        for message in file.DESCRIPTOR.message_types_by_name.values()
    }
    for name in BOUNDS:
        message, _, field = name.partition(".")
        assert field in messages[message], name


def test_enum_values_are_written_without_their_prefix() -> None:
    assert enum_names(orchestrator_pb2.CacheMode.DESCRIPTOR) == {"OFF": 1, "EXACT": 2}
    assert enum_names(cache_pb2.PolicyMode.DESCRIPTOR) == {"Observe": 1, "Active": 2}
    assert list(enum_names(tools_pb2.CostClass.DESCRIPTOR)) == ["default", "expensive", "frequent"]
