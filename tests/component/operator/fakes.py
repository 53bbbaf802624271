"""Small stateful stand-ins for the registries of agents and tools, over real gRPC."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peregrine.api.cache.v1 import cache_pb2 as cache
from peregrine.api.cache.v1 import cache_pb2_grpc as cache_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as orchestrator
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as orchestrator_grpc
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.api.tools.v1 import tools_pb2_grpc as tools_grpc
from peregrine.kit.errors import PeregrineError
from tests.support.fake_orchestrator import serving


class Agents(orchestrator_grpc.AgentServiceServicer):
    """`failing` is raised by every call; `requests` are the ids of applied and deleted ones."""

    def __init__(self) -> None:
        self.agents: dict[str, orchestrator.Agent] = {}
        self.failing: PeregrineError | None = None
        self.applied: list[str] = []
        self.requests: list[str] = []
        self._time = 0

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def ApplyAgent(
        self, request: orchestrator.ApplyAgentRequest, context: Any
    ) -> orchestrator.ApplyAgentResponse:
        self._fail()
        self.applied.append(request.agent.name)
        self.requests.append(request.request_id)
        known = self.agents.get(request.agent.name)
        if known is None or known.spec != request.agent.spec:
            self._time += 1
            made = orchestrator.Agent(
                name=request.agent.name,
                spec=request.agent.spec,
                version=known.version + 1 if known else 1,
            )
            made.update_time.FromSeconds(1_700_000_000 + self._time)
            self.agents[request.agent.name] = made
        return orchestrator.ApplyAgentResponse(agent=self.agents[request.agent.name])

    async def ListAgents(
        self, request: orchestrator.ListAgentsRequest, context: Any
    ) -> orchestrator.ListAgentsResponse:
        self._fail()
        return orchestrator.ListAgentsResponse(agents=list(self.agents.values()))

    async def DeleteAgent(
        self, request: orchestrator.DeleteAgentRequest, context: Any
    ) -> orchestrator.DeleteAgentResponse:
        self._fail()
        self.requests.append(request.request_id)
        deleted = self.agents.pop(request.name, None) is not None
        return orchestrator.DeleteAgentResponse(deleted=deleted)


class Tools(tools_grpc.ToolServiceServicer):
    """With `calculator` built in. Definitions are kept with their defaults, as the real ones."""

    def __init__(self) -> None:
        self.tools: dict[str, tools.RegisteredTool] = {}
        self.failing: PeregrineError | None = None
        self.applied: list[str] = []
        # Servers of tools, and what each offers once somebody asks for it by name.
        self.lazy: dict[str, list[str]] = {}
        self._time = 0
        built_in = tools.Tool(name="calculator", effect=common_pb2.EFFECT_PURE)
        self.tools["calculator"] = tools.RegisteredTool(tool=built_in, version=1, builtin=True)

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def ApplyTool(
        self, request: tools.ApplyToolRequest, context: Any
    ) -> tools.ApplyToolResponse:
        self._fail()
        self.applied.append(request.tool.name)
        full = tools.Tool()
        full.CopyFrom(request.tool)
        full.max_concurrency = full.max_concurrency or 10
        known = self.tools.get(full.name)
        if known is None or known.tool != full:
            self._time += 1
            made = tools.RegisteredTool(tool=full, version=known.version + 1 if known else 1)
            made.update_time.FromSeconds(1_700_000_000 + self._time)
            self.tools[full.name] = made
        return tools.ApplyToolResponse(tool=self.tools[full.name])

    async def ListTools(
        self, request: tools.ListToolsRequest, context: Any
    ) -> tools.ListToolsResponse:
        self._fail()
        for server in set(request.names) & self.lazy.keys() & self.tools.keys():
            for name in self.lazy[server]:
                mcp = tools.McpBackend(tool=name)
                self.tools[name] = tools.RegisteredTool(tool=tools.Tool(name=name, mcp=mcp))
            self.tools[server].disabled_reason = "it is a server"
        names = list(request.names) or sorted(self.tools)
        names += [each for server in request.names for each in self.lazy.get(server, ())]
        found = [self.tools[name] for name in names if name in self.tools]
        return tools.ListToolsResponse(tools=found)

    def forget(self, server: str) -> None:
        """The server offers nothing any more."""
        for name in [each for each in self.tools if each.startswith(f"{server}_")]:
            del self.tools[name]

    async def DeleteTool(
        self, request: tools.DeleteToolRequest, context: Any
    ) -> tools.DeleteToolResponse:
        self._fail()
        return tools.DeleteToolResponse(deleted=self.tools.pop(request.name, None) is not None)


class Caches(cache_grpc.CacheServiceServicer):
    """The policies of a cache, and nothing else of it."""

    def __init__(self) -> None:
        self.policies: dict[str, cache.Policy] = {}
        self.failing: PeregrineError | None = None

    def _fail(self) -> None:
        if self.failing is not None:
            raise self.failing

    async def ApplyPolicy(
        self, request: cache.ApplyPolicyRequest, context: Any
    ) -> cache.ApplyPolicyResponse:
        self._fail()
        made = cache.Policy()
        made.CopyFrom(request.policy)
        known = self.policies.get(made.namespace)
        made.version = known.version + 1 if known else 1
        self.policies[made.namespace] = made
        return cache.ApplyPolicyResponse(policy=made)

    async def ListPolicies(
        self, request: cache.ListPoliciesRequest, context: Any
    ) -> cache.ListPoliciesResponse:
        self._fail()
        return cache.ListPoliciesResponse(policies=list(self.policies.values()))


@asynccontextmanager
async def serving_all(
    agents: Agents, registry: Tools, caches: Caches
) -> AsyncIterator[tuple[str, str, str]]:
    async with contextlib.AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(serving([(add, servicer)]))
            for add, servicer in (
                (orchestrator_grpc.add_AgentServiceServicer_to_server, agents),
                (tools_grpc.add_ToolServiceServicer_to_server, registry),
                (cache_grpc.add_CacheServiceServicer_to_server, caches),
            )
        ]
        first, second, third = addresses
        yield first, second, third
