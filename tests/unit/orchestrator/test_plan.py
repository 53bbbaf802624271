"""What an agent's definition comes to."""

import pytest
from google.protobuf import duration_pb2

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.errors import InvalidArgument
from peregrine.orchestrator import plan


def agent(name: str = "a", **spec: object) -> pb.Agent:
    return pb.Agent(name=name, spec=pb.AgentSpec(**{"model": "claude-sonnet-5-5"} | spec))


def test_a_bare_agent_gets_every_documented_default() -> None:
    resolved = plan.resolve("a", agent().spec, pb.RunInput())
    assert (resolved.max_steps, resolved.max_output_tokens, resolved.max_duration) == (
        10,
        4096,
        120.0,
    )
    assert (resolved.max_messages, resolved.token_budget) == (10, 8000)
    assert resolved.parallel_tools and resolved.eager_tools and resolved.streaming
    assert resolved.temperature is None


def test_a_runs_switch_overrides_the_agents() -> None:
    spec = agent(optimizations=pb.Optimizations(eager_tools=False, streaming=False)).spec
    given = pb.RunInput(optimizations=pb.Optimizations(eager_tools=True))
    resolved = plan.resolve("a", spec, given)
    assert resolved.eager_tools and not resolved.streaming


def test_a_run_shortens_the_agents_time_and_never_lengthens_it() -> None:
    limits = pb.AgentLimits(max_duration=duration_pb2.Duration(seconds=60))
    spec = agent(limits=limits).spec
    for asked, comes_to in ((5, 5.0), (300, 60.0)):
        given = pb.RunInput(timeout=duration_pb2.Duration(seconds=asked))
        assert plan.resolve("a", spec, given).max_duration == comes_to


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (agent(name="Not-A-Name"), "name"),
        (agent(name="a" * 64), "name"),
        (agent(model=""), "spec.model"),
        (agent(tools=["no spaces"]), "spec.tools"),
        (agent(tools=["twice", "twice"]), "spec.tools"),
        (agent(tools=[f"t{i}" for i in range(129)]), "spec.tools"),
        (agent(temperature=1.5), "spec.temperature"),
        (agent(system_prompt="x" * 65537), "spec.system_prompt"),
        (agent(limits=pb.AgentLimits(max_steps=101)), "spec.limits.max_steps"),
        (
            agent(limits=pb.AgentLimits(max_duration=duration_pb2.Duration(seconds=-1))),
            "spec.limits.max_duration",
        ),
        (agent(approvals=["pay"]), "spec.approvals"),
    ],
)
def test_what_can_never_work_is_refused_with_its_field(wrong: pb.Agent, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        plan.check(wrong)
    assert refused.value.reason == "AGENT_INVALID"
    assert field in [violation[0] for violation in refused.value.violations]


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        plan.check(agent(name="", model="", temperature=-1.0))
    assert len(refused.value.violations) == 3
