"""The tool registry, and single calls of tools: the client of the tool service."""

from collections.abc import AsyncGenerator, Iterable
from typing import ClassVar

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2_grpc as pb_grpc
from peregrine.client._connection import (
    ServiceClient,
    new_request_id,
    unary_methods,
)
from peregrine.kit.channel import ChannelPool
from peregrine.kit.errors import ResourceExhausted

_WORKERS_TRIED = 3


class ToolsClient(ServiceClient):
    """Lists, applies, deletes and calls tools. `timeout` must outlast the tools that are called.

    An `api_key` needs an `exchange` (an `Exchange` with an orchestrator): tools take identities.
    """

    name: ClassVar[str] = "tools"
    local: ClassVar[str] = "127.0.0.1:50053"

    def _bind(self, pool: ChannelPool) -> None:
        self._tools = pb_grpc.ToolServiceStub(pool)

    def _idempotent(self) -> frozenset[str]:
        # Whether running a tool twice is harmless is for its worker to know.
        service = pb.DESCRIPTOR.services_by_name["ToolService"]
        return unary_methods(service, without=frozenset({"ExecuteTool"}))

    def list_tools(
        self, *, names: Iterable[str] = (), limit: int | None = None
    ) -> AsyncGenerator[pb.RegisteredTool, None]:
        """Tools by name; only the named ones, unknown names left out, when there are any."""
        request = pb.ListToolsRequest(names=list(names))
        return self._list(self._tools.ListTools, request, "tools", limit)

    async def apply_tool(
        self,
        tool: pb.Tool,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
    ) -> pb.RegisteredTool:
        """Creates or replaces a tool; the same definition again keeps its version.

        Raises:
          InvalidArgument: TOOL_INVALID, with field violations. Aborted: VERSION_STALE.
          FailedPrecondition: TOOL_BUILTIN.
        """
        request = pb.ApplyToolRequest(tool=tool, request_id=request_id or new_request_id())
        if expected_version is not None:
            request.expected_version = expected_version
        response = await self._call(self._tools.ApplyTool, request)
        applied: pb.RegisteredTool = response.tool
        return applied

    async def delete_tool(self, name: str, *, request_id: str | None = None) -> bool:
        """Deletes a tool; False when there was none."""
        request = pb.DeleteToolRequest(name=name, request_id=request_id or new_request_id())
        response = await self._call(self._tools.DeleteTool, request)
        return bool(response.deleted)

    async def invalidate_tool_results(
        self, tool: str, arguments: bytes | None = None, *, request_id: str | None = None
    ) -> None:
        """Forgets the kept results of a tool in the tenant, or of the caller for one set of
        arguments (a JSON object, as UTF-8).

        Raises:
          NotFound: TOOL_NOT_FOUND. Unavailable: CACHE_UNAVAILABLE.
        """
        request = pb.InvalidateToolResultsRequest(
            tool=tool, request_id=request_id or new_request_id()
        )
        if arguments is not None:
            request.arguments.utf8 = arguments
        await self._call(self._tools.InvalidateToolResults, request)

    async def get_execution_stats(self) -> pb.GetExecutionStatsResponse:
        """What the worker that answers has executed since it started."""
        request = pb.GetExecutionStatsRequest()
        response: pb.GetExecutionStatsResponse = await self._call(
            self._tools.GetExecutionStats, request
        )
        return response

    async def execute_tool(
        self, tool: str, arguments: bytes, *, idempotency_key: str | None = None
    ) -> pb.ToolResult:
        """Runs one tool with a JSON object, as UTF-8. A failing tool is a result, not an error.

        A worker without room says so at once, and the next one is asked.

        Args:
          idempotency_key: the same for the same change; a new one by default. Empty: only if it
            changes nothing.

        Raises:
          InvalidArgument: REQUEST_INVALID, a WRITE without its key.
          ResourceExhausted: TOOLS_OVERLOADED, none of three had room; `retry_after` says when.
        """
        call = pb.ToolCall(
            call_id=new_request_id(),
            tool=tool,
            arguments=common_pb2.Json(utf8=arguments),
            idempotency_key=new_request_id() if idempotency_key is None else idempotency_key,
        )
        request = pb.ExecuteToolRequest(call=call)
        for _ in range(_WORKERS_TRIED - 1):
            try:
                return await self._executed(request)
            except ResourceExhausted as error:
                if error.reason != "TOOLS_OVERLOADED":
                    raise
        return await self._executed(request)

    async def _executed(self, request: pb.ExecuteToolRequest) -> pb.ToolResult:
        response = await self._call(self._tools.ExecuteTool, request)
        result: pb.ToolResult = response.result
        return result
