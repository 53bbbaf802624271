"""What an agent's definition comes to for one run: every default applied, every limit known.

`check` refuses a definition that could never work; `resolve` turns a checked one into a `Plan`.
"""

import re
from dataclasses import dataclass

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import errors

AGENT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_MESSAGE_BYTES = 256 * 1024

_MAX_PROMPT_BYTES = 64 * 1024
_MAX_DURATION = 3600.0
_STRATEGIES = (pb.CONTEXT_STRATEGY_UNSPECIFIED, pb.CONTEXT_STRATEGY_RECENT)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one run is to go. Durations are seconds, sizes tokens; 0 means no limit where it can."""

    agent: str
    model: str
    fallback_models: tuple[str, ...]
    system_prompt: str
    tools: tuple[str, ...]
    temperature: float | None
    max_steps: int
    max_output_tokens: int
    max_total_tokens: int
    max_duration: float
    max_messages: int
    token_budget: int
    cache_responses: bool
    prompt_caching: bool
    parallel_tools: bool
    eager_tools: bool
    streaming: bool
    trimming: bool
    lazy_tools: bool


def check(agent: pb.Agent) -> None:
    """Refuses what can never work.

    Raises:
      InvalidArgument: AGENT_INVALID, with one violation for each field that is wrong.
    """
    spec = agent.spec
    wrong: list[tuple[str, str]] = []
    if not AGENT_NAME.fullmatch(agent.name):
        wrong.append(
            ("name", "1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
        )
    if not 0 < len(spec.model) <= 128:
        wrong.append(("spec.model", "name the model, in at most 128 characters"))
    if any(not 0 < len(model) <= 128 for model in spec.fallback_models):
        wrong.append(("spec.fallback_models", "each names a model, in at most 128 characters"))
    if len(spec.fallback_models) > 8:
        wrong.append(("spec.fallback_models", "at most 8"))
    if len(spec.system_prompt.encode()) > _MAX_PROMPT_BYTES:
        wrong.append(("spec.system_prompt", "at most 64 KiB"))
    if len(spec.tools) > 128:
        wrong.append(("spec.tools", "at most 128"))
    wrong += [
        ("spec.tools", f"{tool[:64]!r} is not a tool's name")
        for tool in spec.tools
        if not TOOL_NAME.fullmatch(tool)
    ]
    if len(set(spec.tools)) != len(spec.tools):
        wrong.append(("spec.tools", "each tool once"))
    if spec.limits.max_steps > 100:
        wrong.append(("spec.limits.max_steps", "at most 100"))
    if spec.limits.max_output_tokens > 1_000_000:
        wrong.append(("spec.limits.max_output_tokens", "at most 1,000,000"))
    duration = spec.limits.max_duration.ToNanoseconds() / 1e9
    if not 0 <= duration <= _MAX_DURATION:
        wrong.append(("spec.limits.max_duration", "more than 0 s, at most 3,600 s"))
    if spec.limits.max_cost_micros:
        wrong.append(
            ("spec.limits.max_cost_micros", "no prices are configured to hold it; leave it 0")
        )
    if spec.HasField("temperature") and not 0 <= spec.temperature <= 1:
        wrong.append(("spec.temperature", "0.0-1.0"))
    if spec.context.strategy not in _STRATEGIES:
        wrong.append(("spec.context.strategy", "only RECENT is served by this version"))
    if spec.approvals:
        wrong.append(("spec.approvals", "approvals are not served by this version; leave them out"))
    if wrong:
        raise errors.InvalidArgument(
            f"the agent cannot be applied: {wrong[0][0]}: {wrong[0][1]}",
            reason="AGENT_INVALID",
            violations=wrong,
        )


def resolve(agent: str, spec: pb.AgentSpec, run: pb.RunInput) -> Plan:
    """The plan of a run of a checked agent; the run's own switches override the agent's."""
    limits, context = spec.limits, spec.context
    duration = limits.max_duration.ToNanoseconds() / 1e9 or 120.0
    if run.HasField("timeout"):
        duration = min(duration, run.timeout.ToNanoseconds() / 1e9)

    def on(switch: str) -> bool:
        for source in (run.optimizations, spec.optimizations):
            if source.HasField(switch):
                return bool(getattr(source, switch))
        return True

    return Plan(
        agent=agent,
        model=spec.model,
        fallback_models=tuple(spec.fallback_models),
        system_prompt=spec.system_prompt,
        tools=tuple(spec.tools),
        temperature=spec.temperature if spec.HasField("temperature") else None,
        max_steps=limits.max_steps or 10,
        max_output_tokens=limits.max_output_tokens or 4096,
        max_total_tokens=limits.max_total_tokens,
        max_duration=duration,
        max_messages=context.max_messages or 10,
        token_budget=context.token_budget or 8000,
        cache_responses=on("cache_responses"),
        prompt_caching=on("prompt_caching"),
        parallel_tools=on("parallel_tools"),
        eager_tools=on("eager_tools"),
        streaming=on("streaming"),
        trimming=on("trimming"),
        lazy_tools=on("lazy_tools"),
    )
