"""The tools of MCP servers as tools of a worker: what is pinned, made callable and listed."""

from collections.abc import Callable
from typing import Any

import structlog

from peregrine.api.tools.v1 import tools_pb2
from peregrine.tools import declared, mcp_listing
from peregrine.tools.definition import (
    Arguments,
    Definition,
    Effect,
    OutcomeUnknown,
    Output,
    ToolContext,
    ToolFailure,
    TransientFailure,
)
from peregrine.tools.mcp_listing import Pinned
from peregrine.tools.mcp_servers import Server
from peregrine.tools.registry import Registry

_ANYTHING = b'{"type":"object"}'
_EFFECTS = {effect: message for message, effect in declared.EFFECTS.items()}

log = structlog.get_logger(__name__)


class Offering:
    """Keeps the registry in step with what the servers offer."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # By tenant and server: what is registered for it, by name.
        self._there: dict[tuple[str, str], dict[str, bytes]] = {}

    def update(self, server: Server) -> None:
        key = (server.tenant, server.declared.name)
        before = self._there.get(key, {})
        now: dict[str, bytes] = {}
        for definition, listing in _tools(server):
            name = definition.name
            if name in now or (name not in before and self._registry.get(name, server.tenant)):
                log.warning("mcp_tool_name_taken", server=server.declared.name, tool=name)
                continue
            now[name] = listing.SerializeToString(deterministic=True)
            if before.get(name) != now[name]:
                try:
                    self._registry.put(server.tenant, definition, listing)
                except ValueError as error:
                    del now[name]
                    log.warning("mcp_tool_unusable", tool=name, problem=str(error)[:300])
        for name in before.keys() - now.keys():
            self._registry.drop(server.tenant, name)
        self._there[key] = now

    def drop(self, tenant: str, server: str) -> None:
        for name in self._there.pop((tenant, server), {}):
            self._registry.drop(tenant, name)


def _tools(server: Server) -> list[tuple[Definition, tools_pb2.RegisteredTool]]:
    mcp = server.declared.mcp
    if mcp.tool:
        pin = (server.pins or {}).get(mcp.tool)
        return [_tool(server, server.declared.name, mcp.tool, pin)]
    found = [
        _tool(server, mcp_listing.called(server.declared.name, name), name, pin)
        for name, pin in (server.pins or {}).items()
        if not pin.gone
    ]
    return [_itself(server), *found]


def _itself(server: Server) -> tuple[Definition, tools_pb2.RegisteredTool]:
    """The server, which is listed and cannot be called."""
    listing = tools_pb2.RegisteredTool()
    listing.CopyFrom(server.registered)
    if server.pins is None and server.problem:
        listing.disabled_reason = f"its tools are not known: {server.problem}"
    elif server.pins is None:
        listing.disabled_reason = "it is a server, which nobody has needed yet"
    else:
        listing.disabled_reason = "it is a server; its tools are listed beside it"

    async def refuse(arguments: Arguments, context: ToolContext) -> Output:
        raise ToolFailure("This is a server of tools, and no tool.", reason="TOOL_DISABLED")

    definition = Definition(
        name=server.declared.name,
        description=server.declared.description or "The tools of an MCP server.",
        input_schema={"type": "object"},
        effect=Effect.PURE,
        function=refuse,
        cacheable=False,
    )
    return definition, listing


def _tool(
    server: Server, name: str, tool: str, pin: Pinned | None
) -> tuple[Definition, tools_pb2.RegisteredTool]:
    listing = tools_pb2.RegisteredTool()
    listing.CopyFrom(server.registered)
    said = listing.tool
    listing.server = server.declared.name
    said.name, said.mcp.tool = name, tool
    effect = declared.EFFECTS.get(said.effect)
    assumed = False
    if pin is not None:
        said.description = said.description or mcp_listing.described(pin.tool)
        if not said.input_schema.utf8:
            said.input_schema.utf8 = mcp_listing.schema(pin.tool)
        if effect is None:
            effect, assumed = pin.tool.effect, pin.tool.assumed
            said.idempotent = said.idempotent or bool(pin.tool.idempotent)
        listing.disabled_reason = mcp_listing.disabled(pin)
        if pin.changed is not None:
            listing.changed.digest = pin.changed.digest
            listing.changed.description = mcp_listing.described(pin.changed)
            listing.changed.input_schema.utf8 = mcp_listing.schema(pin.changed)
            listing.changed.effect = _EFFECTS[pin.changed.effect]
        if pin.gone:
            listing.disabled_reason = "its server does not offer it any more"
    elif server.problem:
        listing.disabled_reason = f"it is not known yet: {server.problem}"
    elif not (said.description and said.input_schema.utf8 and effect):
        listing.disabled_reason = "nobody has needed it yet"
    effect = effect or Effect.WRITE
    said.effect = _EFFECTS[effect]
    said.description = said.description or f"The tool {tool} of an MCP server."
    said.input_schema.utf8 = said.input_schema.utf8 or _ANYTHING
    scope = declared.SCOPES[said.scope]

    async def call(arguments: Arguments, context: ToolContext) -> Output:
        try:
            return await server.call(tool, arguments, context, scope)
        except TransientFailure as failure:
            if effect is Effect.WRITE and not failure.nothing_done:
                raise OutcomeUnknown from failure
            raise

    function: Callable[[Any, ToolContext], Any] = call
    return declared.described(said, listing.version, function, assumed=assumed), listing
