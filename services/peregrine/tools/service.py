"""The tool service as gRPC sees it: check, translate, execute, translate back."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import grpc.aio
import structlog

from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit import context as call_context
from peregrine.kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    PeregrineError,
    ResourceExhausted,
)
from peregrine.tools import contract, declared
from peregrine.tools.admission import Admission
from peregrine.tools.applied import AppliedTools
from peregrine.tools.calls import Call, Outcome
from peregrine.tools.declared import Violations
from peregrine.tools.executor import Executor
from peregrine.tools.ledger import MAX_KEY
from peregrine.tools.registry import Registry

MAX_CALLS = 64
MAX_NAMES = 128
MAX_PAGE = 200
DEFAULT_PAGE = 50

_MAX_PRIORITY = 100
_MAX_REQUEST_ID = 128

Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


class Servers(Protocol):
    """Servers of tools, as `mcp_servers.Servers` are."""

    async def need(
        self, tenant: str, names: Iterable[str], *, to_call: bool = False
    ) -> list[str]: ...

    def connect(self, tenant: str, names: Iterable[str]) -> list[str]: ...


class ToolService(tools_pb2_grpc.ToolServiceServicer):
    def __init__(
        self,
        *,
        registry: Registry,
        executor: Executor,
        admission: Admission,
        applied: AppliedTools,
        check_tool: Callable[[tools_pb2.Tool, str], Violations],
        servers: Servers,
    ) -> None:
        """`check_tool`: what is wrong with a declaration of a tenant. `servers`: those that have to
        be asked what their tools are."""
        self._registry = registry
        self._executor = executor
        self._admission = admission
        self._applied = applied
        self._check_tool = check_tool
        self._servers = servers

    async def ExecuteTool(
        self, request: tools_pb2.ExecuteToolRequest, context: Context
    ) -> tools_pb2.ExecuteToolResponse:
        if not request.HasField("call"):
            raise _invalid("call", "is missing")
        call = _call(request.call, "call")
        who = call_context.identity()
        await self._known((call,), who.tenant)
        self._executor.check(call, who)
        outcome = await self._executor.execute(
            call, who, remaining=call_context.deadline_remaining()
        )
        return tools_pb2.ExecuteToolResponse(result=contract.result(outcome))

    async def ExecuteTools(self, request: tools_pb2.ExecuteToolsRequest, context: Context) -> None:
        calls = _calls(request.calls)
        who = call_context.identity()
        await self._known(calls, who.tenant)
        for call in calls:
            self._executor.check(call, who)
        finished: asyncio.Queue[tools_pb2.ToolResult] = asyncio.Queue(len(calls))
        async with asyncio.TaskGroup() as running:
            for call in calls:
                running.create_task(self._execute_into(finished, call))
            left = len(calls)
            while left:
                # What finished together travels together.
                results = [await finished.get()]
                while not finished.empty():
                    results.append(finished.get_nowait())
                left -= len(results)
                await context.write(tools_pb2.ExecuteToolsResponse(results=results))

    async def ListTools(
        self, request: tools_pb2.ListToolsRequest, context: Context
    ) -> tools_pb2.ListToolsResponse:
        if not 0 <= request.page_size <= MAX_PAGE:
            raise _invalid("page_size", f"is not between 1 and {MAX_PAGE}")
        if len(request.names) > MAX_NAMES:
            raise _invalid("names", f"has more than {MAX_NAMES} names")
        # Asked by name, all of them come at once unless a page size says otherwise.
        size = request.page_size or (MAX_NAMES if request.names else DEFAULT_PAGE)
        tenant = call_context.identity().tenant
        after = _read_page_token(request.page_token)
        names = await self._servers.need(tenant, request.names)
        if request.connect:
            await self._connect(tenant, request.names)
        tools = self._registry.select(tenant=tenant, after=after, limit=size + 1, only=names)
        more = len(tools) > size
        return tools_pb2.ListToolsResponse(
            tools=[contract.registered_tool(tool) for tool in tools[:size]],
            next_page_token=_page_token(tools[size - 1].definition.name) if more else "",
        )

    async def ApplyTool(
        self, request: tools_pb2.ApplyToolRequest, context: Context
    ) -> tools_pb2.ApplyToolResponse:
        who = call_context.identity()
        _check_request_id(request.request_id)
        if not request.HasField("tool"):
            raise _invalid("tool", "is missing")
        written = self._registry.written(request.tool)
        if written is None or written.name != request.tool.name:
            self._refuse_builtin(request.tool.name)
        tool = declared.normal(request.tool)
        if violations := self._check_tool(tool, who.tenant):
            raise InvalidArgument(
                f"the tool {request.tool.name[:64]!r} cannot be taken: "
                + "; ".join(f"{field} {what}" for field, what in violations),
                reason="TOOL_INVALID",
                violations=violations,
            )
        applied = await self._applied.apply(who.tenant, request, tool)
        return tools_pb2.ApplyToolResponse(tool=applied)

    async def DeleteTool(
        self, request: tools_pb2.DeleteToolRequest, context: Context
    ) -> tools_pb2.DeleteToolResponse:
        who = call_context.identity()
        _check_request_id(request.request_id)
        if not request.name:
            raise _invalid("name", "is empty")
        if not self._registry.is_applied(who.tenant, request.name):
            self._refuse_builtin(request.name)
        deleted = await self._applied.delete(who.tenant, request)
        return tools_pb2.DeleteToolResponse(deleted=deleted)

    async def InvalidateToolResults(
        self, request: tools_pb2.InvalidateToolResultsRequest, context: Context
    ) -> tools_pb2.InvalidateToolResultsResponse:
        _check_request_id(request.request_id)
        if not request.tool:
            raise _invalid("tool", "is empty")
        who = call_context.identity()
        await self._executor.forget(request.tool, request.arguments.utf8, who)
        return tools_pb2.InvalidateToolResultsResponse()

    async def GetExecutionStats(
        self, request: tools_pb2.GetExecutionStatsRequest, context: Context
    ) -> tools_pb2.GetExecutionStatsResponse:
        tools = self._registry.select(tenant=call_context.identity().tenant)
        return tools_pb2.GetExecutionStatsResponse(
            registered_tools=len(tools),
            max_concurrency=self._admission.slots,
            in_flight=self._admission.in_flight,
            queued=self._admission.queued,
            tools=[contract.tool_stats(tool) for tool in tools],
        )

    def _refuse_builtin(self, name: str) -> None:
        if self._registry.is_for_everybody(name):
            raise FailedPrecondition(
                f"the tool {name!r} comes with this worker and cannot be changed",
                reason="TOOL_BUILTIN",
                metadata={"tool": name},
            )

    async def _known(self, calls: Iterable[Call], tenant: str) -> None:
        unknown = [
            call.tool
            for call in calls
            if (tool := self._registry.get(call.tool, tenant)) is None or tool.to_be_asked
        ]
        if unknown:
            await self._servers.need(tenant, unknown, to_call=True)

    async def _connect(self, tenant: str, names: Iterable[str]) -> None:
        new = self._servers.connect(tenant, names)
        if not new:
            return
        try:
            await self._applied.want(tenant, new)
        except PeregrineError as error:
            # Here they are connected to; the others will do it at the first call.
            log.warning("not_connected_elsewhere", servers=new, reason=error.reason)

    async def _execute_into(
        self, finished: "asyncio.Queue[tools_pb2.ToolResult]", call: Call
    ) -> None:
        try:
            outcome = await self._executor.execute(
                call, call_context.identity(), remaining=call_context.deadline_remaining()
            )
            result = contract.result(outcome)
        except ResourceExhausted as refusal:
            # One call of several that found no place fails alone.
            outcome = Outcome(
                call=call,
                reason=refusal.reason,
                text=refusal.message,
                retry_after=refusal.retry_after,
            )
            result = contract.result(outcome)
        finished.put_nowait(result)


def _calls(messages: Sequence[tools_pb2.ToolCall]) -> list[Call]:
    if not 1 <= len(messages) <= MAX_CALLS:
        raise _invalid("calls", f"has {len(messages)} calls instead of 1 to {MAX_CALLS}")
    calls = [_call(message, f"calls[{number}]") for number, message in enumerate(messages)]
    ids = [call.call_id for call in calls]
    if len(set(ids)) < len(ids):
        raise _invalid("calls", "has a call_id twice")
    return calls


def _call(message: tools_pb2.ToolCall, field: str) -> Call:
    if not message.tool:
        raise _invalid(f"{field}.tool", "is empty")
    if not -_MAX_PRIORITY <= message.priority <= _MAX_PRIORITY:
        raise _invalid(f"{field}.priority", "is not between -100 and 100")
    if len(message.idempotency_key) > MAX_KEY or "\x00" in message.idempotency_key:
        raise _invalid(f"{field}.idempotency_key", f"is longer than {MAX_KEY} characters")
    timeout = None
    if message.HasField("timeout"):
        timeout = message.timeout.seconds + message.timeout.nanos / 1e9
        if timeout <= 0:
            raise _invalid(f"{field}.timeout", "is not a positive time")
    return Call(
        tool=message.tool,
        call_id=message.call_id,
        arguments=message.arguments.utf8,
        priority=message.priority,
        timeout=timeout,
        idempotency_key=message.idempotency_key,
        agent_id=message.agent_id,
    )


def _check_request_id(request_id: str) -> None:
    if len(request_id) > _MAX_REQUEST_ID or "\x00" in request_id:
        raise _invalid("request_id", f"is longer than {_MAX_REQUEST_ID} characters")


def _page_token(name: str) -> str:
    return base64.urlsafe_b64encode(b"t" + name.encode()).rstrip(b"=").decode()


def _read_page_token(token: str) -> str:
    if not token:
        return ""
    try:
        key = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if key[:1] == b"t":
            return key[1:].decode("ascii")
    except (binascii.Error, ValueError):
        pass
    raise InvalidArgument(
        "the page token is not one that this list gave", reason="PAGE_TOKEN_INVALID"
    )


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", reason="REQUEST_INVALID", violations=[(field, what)])
