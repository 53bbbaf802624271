"""gRPC to the neighbours: memory, llm-gateway, tools. The one module here that makes calls.

What fails raises the typed error of the far side; a service that cannot be reached is
`Unavailable` with a reason that names it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2_grpc as llm_rpc
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.memory.v1 import memory_pb2_grpc as memory_rpc
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.api.tools.v1 import tools_pb2_grpc as tools_rpc
from peregrine.kit import context, errors
from peregrine.kit.calls import Opened, opened
from peregrine.kit.channel import ChannelPool

# Every method that may be tried again after UNAVAILABLE. BeginTurn and AppendMessages are
# idempotent by their request id.
IDEMPOTENT_MEMORY = frozenset(
    {
        "/peregrine.api.memory.v1.MemoryService/BeginTurn",
        "/peregrine.api.memory.v1.MemoryService/AppendMessages",
    }
)
IDEMPOTENT_TOOLS = frozenset({"/peregrine.api.tools.v1.ToolService/ListTools"})

MEMORY_SECONDS = 10.0
# How long what is known of a tool is believed.
_CATALOG_SECONDS = 2.0
_TERMINAL = ("finished", "failed")
# How long the status may take to follow the terminal event.
_STATUS_SECONDS = 1.0
# On top of a tool's own timeout: its place in the worker's queue and the way there.
_TOOL_MARGIN_SECONDS = 5.0
_TOOL_DEFAULT_SECONDS = 10.0


class Upstream:
    """The neighbours, over pools that whoever wires this opened and closes."""

    def __init__(
        self, *, memory_pool: ChannelPool, llm_pool: ChannelPool, tools_pool: ChannelPool
    ) -> None:
        self._memory = memory_rpc.MemoryServiceStub(memory_pool)
        self._llm = llm_rpc.LlmServiceStub(llm_pool)
        self._tools = tools_rpc.ToolServiceStub(tools_pool)
        self._catalog: dict[tuple[str, bool, tuple[str, ...]], _Offered] = {}
        # Model calls whose answer is complete and whose status is to come, for a second at most.
        self._ends: set[asyncio.Task[None]] = set()

    async def begin_turn(self, request: memory.BeginTurnRequest) -> memory.BeginTurnResponse:
        try:
            response: memory.BeginTurnResponse = await self._memory.BeginTurn(
                request, timeout=MEMORY_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise _typed(error, "MEMORY_UNAVAILABLE", "memory") from error
        return response

    async def append_messages(
        self, request: memory.AppendMessagesRequest, *, over: Opened | None = None
    ) -> None:
        """`over`: what `open_append` made."""
        try:
            async with asyncio.timeout(MEMORY_SECONDS):
                if over is not None:
                    await over.send(request, timeout=MEMORY_SECONDS)
                else:
                    await self._memory.AppendMessages(request, timeout=MEMORY_SECONDS)
        except TimeoutError:
            raise _silent("MEMORY_UNAVAILABLE", "memory") from None
        except grpc.aio.AioRpcError as error:
            raise _typed(error, "MEMORY_UNAVAILABLE", "memory") from error

    def open_append(self) -> Opened:
        """An append on its way, under the current context, to a turn that is not complete yet."""
        return opened(self._memory.AppendMessages, timeout=MEMORY_SECONDS)

    def known(
        self, tenant: str, names: Sequence[str], *, connect: bool = False
    ) -> Mapping[str, tools.RegisteredTool] | None:
        """What `offered` would return without asking anybody; None when it would have to."""
        if not names:
            return {}
        known = self._catalog.get((tenant, connect, tuple(names)))
        return known.tools if known is not None and time.monotonic() < known.until else None

    async def offered(
        self, tenant: str, names: Sequence[str], *, connect: bool = False
    ) -> Mapping[str, tools.RegisteredTool]:
        """The registered ones of the named tools; believed for two seconds.

        With the tools service away, what was known last is used. `connect`: their backends are to
        be connected to before they are called.
        """
        fresh = self.known(tenant, names, connect=connect)
        if fresh is not None:
            return fresh
        key = (tenant, connect, tuple(names))
        known = self._catalog.get(key)
        now = time.monotonic()
        try:
            response = await self._tools.ListTools(
                tools.ListToolsRequest(names=names, page_size=200, connect=connect),
                timeout=MEMORY_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            if known is not None and error.code() is grpc.StatusCode.UNAVAILABLE:
                return known.tools
            raise _typed(error, "TOOLS_UNAVAILABLE", "tools") from error
        found = {each.tool.name: each for each in response.tools if not each.disabled_reason}
        if len(self._catalog) >= 1024:
            self._catalog.clear()
        self._catalog[key] = _Offered(found, now + _CATALOG_SECONDS)
        return found

    def generate(
        self, request: llm.GenerateRequest, timeout: float, *, over: Opened | None = None
    ) -> "ModelCall":
        """Makes a model call, under the current context; it has begun when this returns.

        Args:
          over: what `open_generate` made.
        """
        make = self._llm.Generate if over is None else over.send
        return ModelCall(request, make(request, timeout=timeout), self._ends)

    def open_generate(self, timeout: float) -> Opened:
        """A model call on its way, under the current context, whose prompt is not known yet."""
        return opened(self._llm.Generate, timeout=timeout)

    async def execute_tool(
        self,
        call: tools.ToolCall,
        registered: tools.RegisteredTool,
        *,
        over: Opened | None = None,
    ) -> tools.ToolResult:
        """`over`: what `open_tool` made."""
        request = tools.ExecuteToolRequest(call=call)
        seconds = _tool_seconds(registered)
        try:
            async with asyncio.timeout(seconds):
                if over is not None:
                    response = await over.send(request, timeout=seconds)
                else:
                    response = await self._tools.ExecuteTool(request, timeout=seconds)
        except TimeoutError:
            raise _silent("TOOLS_UNAVAILABLE", "tools") from None
        except grpc.aio.AioRpcError as error:
            raise _typed(error, "TOOLS_UNAVAILABLE", "tools") from error
        result: tools.ToolResult = response.result
        return result

    def open_tool(self, registered: tools.RegisteredTool) -> Opened:
        """A call of a tool on its way, under the current context, whose arguments are to come."""
        return opened(self._tools.ExecuteTool, timeout=_tool_seconds(registered))


class ModelCall:
    """One model call under way. `begun` is the reading of the monotonic clock.

    Args:
      ends: where the task is kept that sees the call to its end.
    """

    def __init__(
        self, request: llm.GenerateRequest, call: Any, ends: "set[asyncio.Task[None]]"
    ) -> None:
        self.request = request
        self.begun = time.monotonic()
        self._call = call
        self._ends = ends

    async def responses(self) -> AsyncIterator[llm.GenerateResponse]:
        """What comes, through the terminal event; leaving the iteration before ends the call
        upstream.

        The status that follows a terminal event says nothing more, and nobody waits for it here.
        """
        over = False
        try:
            async for response in self._call:
                over = response.events[-1].WhichOneof("payload") in _TERMINAL
                yield response
                if over:
                    return
        except grpc.aio.AioRpcError as error:
            raise _typed(error, "LLM_GATEWAY_UNAVAILABLE", "llm-gateway") from error
        finally:
            if over:
                ending = asyncio.create_task(self._to_its_end())
                self._ends.add(ending)
                ending.add_done_callback(self._ends.discard)
            else:
                self._call.cancel()

    async def _to_its_end(self) -> None:
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                async for _ in self._call:
                    pass
        except (TimeoutError, grpc.aio.AioRpcError):
            pass  # the answer was complete
        finally:
            self._call.cancel()

    def cancel(self) -> None:
        """Ends it upstream; nothing, when it has ended."""
        self._call.cancel()


class _Offered:
    __slots__ = ("tools", "until")

    def __init__(self, found: dict[str, tools.RegisteredTool], until: float) -> None:
        self.tools = found
        self.until = until


def _tool_seconds(registered: tools.RegisteredTool) -> float:
    own = registered.tool.timeout.ToNanoseconds() / 1e9 or _TOOL_DEFAULT_SECONDS
    return own + _TOOL_MARGIN_SECONDS


def _typed(error: grpc.aio.AioRpcError, away: str, service: str) -> errors.PeregrineError:
    """The error of the far side; one that gRPC itself raised names the service that is away."""
    typed = errors.from_rpc_error(error)
    if typed.reason in ("UNAVAILABLE", "CANCELLED"):
        return errors.Unavailable(
            f"the {service} service cannot be reached", reason=away, retry_after=1.0
        )
    if typed.reason == "DEADLINE_EXCEEDED" and (context.deadline_remaining() or 1.0) > 0.2:
        return _silent(away, service)
    return typed


def _silent(away: str, service: str) -> errors.Unavailable:
    """It has not answered in the time that it was given, which is not that of the caller."""
    return errors.Unavailable(
        f"the {service} service did not answer in time", reason=away, retry_after=1.0
    )


def to_proto(error: errors.PeregrineError) -> common.Error:
    """An error as an event carries it."""
    message = common.Error(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
    )
    if error.retry_after is not None:
        message.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
    return message


def from_proto(message: common.Error) -> errors.PeregrineError:
    """The error that an event carried, to be raised."""
    kind: type[errors.PeregrineError] = errors.Internal
    for each in errors.PeregrineError.__subclasses__():
        if each.code.value[0] == message.code:
            kind = each
    delay = message.retry_delay.ToNanoseconds() / 1e9 if message.HasField("retry_delay") else None
    return kind(
        message.message,
        reason=message.reason or "UPSTREAM_FAILED",
        metadata=message.metadata,
        retry_after=delay,
    )
