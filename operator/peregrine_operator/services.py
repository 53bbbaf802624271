"""The services that keep agents and tools, and what they were last seen to hold."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog
from google.protobuf.message import Message

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client import PeregrineClient, ToolsClient
from peregrine.kit.errors import PeregrineError
from peregrine_operator.decisions import Held, Tools

NAMES: Mapping[str, str] = {"Agent": "the orchestrator", "Tool": "the tools service"}

log = structlog.get_logger(__name__)


class Services:
    """`agents` and `tools` are by name, None while a service cannot be asked."""

    def __init__(self, *, orchestrator: PeregrineClient, registry: ToolsClient) -> None:
        self._orchestrator = orchestrator
        self._registry = registry
        self.agents: dict[str, Held] | None = None
        self.tools: dict[str, Held] | None = None

    async def refresh(self) -> None:
        """Reads what both hold. One that fails is unknown until the next time."""
        self.agents = await self._list_agents()
        self.tools = await self._list_tools()

    def holds(self, kind: str) -> dict[str, Held] | None:
        return self.agents if kind == "Agent" else self.tools

    async def tools_of(self, names: tuple[str, ...]) -> Tools:
        """How it stands with the tools that an agent names."""
        if not names:
            return Tools()
        found = self.tools or {}
        if any(name not in found or found[name].disabled for name in names):
            # They may have come since the last list.
            asked = await self.ask(names)
            if asked is None:
                return Tools(len(names), None)
            found = asked
        return Tools(
            named=len(names),
            missing=tuple(name for name in names if name not in found),
            disabled=tuple(
                f"{name} ({found[name].disabled})"
                for name in names
                if name in found and found[name].disabled
            ),
        )

    async def ask(self, names: tuple[str, ...]) -> dict[str, Held] | None:
        """The named tools as they are now, None when the service is away.

        Tools of an MCP server that nobody has needed yet are connected when they are asked for.
        """
        try:
            found = held_tools([each async for each in self._registry.list_tools(names=names)])
        except PeregrineError as error:
            log.info("tools_not_listed", reason=error.reason, error=error.message)
            return None
        if self.tools is not None:
            self.tools |= found
        return found

    async def apply(self, definition: Message, request_id: str) -> Held:
        """Raises PeregrineError."""
        match definition:
            case orchestrator_pb2.Agent():
                agent = await self._orchestrator.apply_agent(definition, request_id=request_id)
                held = _agent(agent)
                if self.agents is not None:
                    self.agents[definition.name] = held
            case tools_pb2.Tool():
                tool = await self._registry.apply_tool(definition, request_id=request_id)
                held = _tool(tool)
                if self.tools is not None:
                    self.tools[definition.name] = held
            case _:
                raise TypeError(f"no service takes a {type(definition).__name__}")
        return held

    async def delete(self, kind: str, name: str, request_id: str) -> None:
        """Deletes; that there was nothing is as good. Raises PeregrineError."""
        if kind == "Agent":
            await self._orchestrator.delete_agent(name, request_id=request_id)
        else:
            await self._registry.delete_tool(name, request_id=request_id)
        held = self.holds(kind)
        if held is not None:
            held.pop(name, None)

    async def _list_agents(self) -> dict[str, Held] | None:
        try:
            listed = self._orchestrator.list_agents()
            return {each.name: _agent(each) async for each in listed}
        except PeregrineError as error:
            log.warning("agents_not_listed", reason=error.reason, error=error.message)
            return None

    async def _list_tools(self) -> dict[str, Held] | None:
        try:
            return held_tools([each async for each in self._registry.list_tools()])
        except PeregrineError as error:
            log.warning("tools_not_listed", reason=error.reason, error=error.message)
            return None


def _agent(agent: orchestrator_pb2.Agent) -> Held:
    return Held(agent.version, agent.update_time.ToJsonString())


def _tool(tool: tools_pb2.RegisteredTool) -> Held:
    effect = common_pb2.Effect.Name(tool.tool.effect).removeprefix("EFFECT_")
    return Held(
        version=tool.version,
        time=tool.update_time.ToJsonString(),
        disabled=tool.disabled_reason,
        effect="" if effect == "UNSPECIFIED" else effect,
    )


def held_tools(listed: Iterable[tools_pb2.RegisteredTool]) -> dict[str, Held]:
    """By name. A server of tools, which is no tool itself, is as good as having any."""
    tools = list(listed)
    held = {each.tool.name: _tool(each) for each in tools}
    offered = [each.tool.name for each in tools if each.tool.mcp.tool]
    for each in tools:
        name = each.tool.name
        if each.tool.HasField("mcp") and not each.tool.mcp.tool:
            if any(other.startswith(f"{name}_") for other in offered):
                held[name] = replace(held[name], disabled="")
    return held
