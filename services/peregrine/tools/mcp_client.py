"""One session with an MCP server. The one home of `mcp` in this service.

A session lives in a task of its own, which opens it and closes it, because what the SDK opens must
be closed where it was opened. Calls go through it from anywhere, many at once. When it is lost (the
process died, the connection broke, the server forgot the session) every call that waits is told so
and `alive` turns False; who wants to go on opens a new one.

HTTP goes through the same guarded pool as every other request of a tool (`outbound`), so the same
rules say where it may go. A server that is a process gets a bare environment and what its
declaration names, nothing of the worker's.

This module takes a second to import: import it when it is needed, in a thread.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpcore
import structlog
from mcp import Client, MCPError
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.message import SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    PARSE_ERROR,
    CallToolResult,
    EmbeddedResource,
    ErrorData,
    JSONRPCError,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from peregrine.tools import egress, mcp_http, mcp_process
from peregrine.tools.bodies import MAX_BYTES
from peregrine.tools.definition import Output, ToolFailure, TransientFailure
from peregrine.tools.mcp_listing import Offered

MAX_TOOLS = 512

_CLOSE_SECONDS = 8.0
_LISTEN_AGAIN_SECONDS = 5.0
_MAX_WORDS = 4_000
_LOST = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)

# How an answer begins or ends, whatever is in it; most programs write one or the other.
_NAMED = rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(\d{1,18})\s*'
_BEGINS, _ENDS = re.compile(rb"\s*\{\s*" + _NAMED + b","), re.compile(_NAMED + rb"\}\s*\Z")
_END_BYTES = 100

Transport = AbstractAsyncContextManager[Any]

log = structlog.get_logger(__name__)


class ServerAway(TransientFailure):
    """No session could be opened: nothing was asked."""

    nothing_done = True


class SessionGone(TransientFailure):
    """The server does not know the session any more, and did nothing."""

    nothing_done = True


class SessionLost(TransientFailure):
    """The session was lost during a call; what became of the call is not known."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server offers, and for how many seconds it says that this is true; 0: it says not."""

    tools: tuple[Offered, ...]
    seconds: float


def process(command: Sequence[str], environment: Mapping[str, str]) -> Callable[[], Transport]:
    """A server that is a process, spoken to over its standard input and output."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        running = await mcp_process.start(command, get_default_environment() | dict(environment))
        heard, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, said = anyio.create_memory_object_stream[SessionMessage](0)

        async def hear() -> None:
            async with heard:
                async for line in running.lines():
                    await heard.send(_message(line))

        async def say() -> None:
            async with said:
                async for each in said:
                    json = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await running.send(json.encode())

        async def until_lost(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except (ConnectionError, *_LOST):
                await heard.aclose()  # so that nobody waits for an answer

        async with anyio.create_task_group() as group:
            group.start_soon(until_lost, hear)
            group.start_soon(until_lost, say)
            try:
                yield read, write
            finally:
                with anyio.CancelScope(shield=True):
                    await running.stop()
                for stream in (read, write, heard, said):
                    stream.close()
                group.cancel_scope.cancel()

    return opened


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        # Programs write all kinds of things; only an answer has somebody who waits for it.
        answered = _BEGINS.match(line) or _ENDS.search(line[-_END_BYTES:])
        if answered is None:
            return error
        wrong = ErrorData(code=PARSE_ERROR, message="it cannot be read")
        return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(answered[1]), error=wrong))


def http(
    url: str, headers: Mapping[str, str], pool: httpcore.AsyncConnectionPool
) -> Callable[[], Transport]:
    """A server behind streamable HTTP."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with (
            mcp_http.client(headers, pool) as client,
            streamable_http_client(
                url, http_client=client, max_sse_event_size=MAX_BYTES
            ) as streams,
        ):
            yield streams

    return opened


class Session:
    """Opened by `open_session`; `close` ends it."""

    def __init__(self, *, server: str, on_change: Callable[[], object]) -> None:
        self.alive = True
        self._server = server
        self._on_change = on_change
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, transport: Callable[[], Transport], timeout: float) -> None:
        self._task = asyncio.create_task(self._live(transport), name=f"mcp-{self._server}")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ready)
        except TimeoutError:
            await self.close()
            raise ServerAway(
                f"The server {self._server} did not answer within {timeout:.3g} s.",
                reason="MCP_UNREACHABLE",
            ) from None
        except asyncio.CancelledError:
            await self.close()
            raise

    async def list_tools(self, timeout: float) -> Listing:
        """All pages of what the server offers."""
        found: list[Offered] = []
        cursor: str | None = None
        seconds = 0.0
        async with self._asking(timeout) as client:
            while True:
                page = await client.list_tools(cursor=cursor, cache_mode="refresh")
                found += [_offered(tool) for tool in page.tools]
                seconds = (page.ttl_ms or 0) / 1e3
                cursor = page.next_cursor
                if cursor is None or len(found) >= MAX_TOOLS:
                    return Listing(tuple(found[:MAX_TOOLS]), seconds)

    async def call(
        self, tool: str, arguments: dict[str, Any], timeout: float, shared: bool
    ) -> Output:
        """Raises `ToolFailure` with the server's words when the tool says that it failed.

        `shared`: the result may be kept for other users, if the server does not object.
        """
        async with self._asking(timeout) as client:
            result = await client.call_tool(tool, arguments, read_timeout_seconds=timeout)
        output = _output(result, shared=shared)
        if result.is_error:
            raise ToolFailure(output.text or "The tool failed.", reason="MCP_TOOL_ERROR")
        return output

    async def close(self) -> None:
        self.alive = False
        self._over.set()
        if self._task is not None:
            if not self._ready.done():
                self._task.cancel()  # still opening, it would not see that it is over
            _, late = await asyncio.wait((self._task,), timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()

    @asynccontextmanager
    async def _asking(self, timeout: float) -> AsyncIterator[Client]:
        try:
            async with asyncio.timeout(timeout):
                yield self._ready.result()
        except MCPError as error:
            if error.code == CONNECTION_CLOSED or not self.alive:
                raise self._lost() from None
            if error.code == INVALID_REQUEST and error.message == "Session terminated":
                self._over.set()
                raise SessionGone(
                    f"The server {self._server} forgot the session.", reason="MCP_SESSION_LOST"
                ) from None
            if error.code == PARSE_ERROR:
                raise self._unreadable() from None
            raise ToolFailure(
                f"The server says: {error.message[:_MAX_WORDS]}", reason="MCP_ERROR"
            ) from None
        except TimeoutError:
            raise SessionLost(
                f"The server {self._server} did not answer within {timeout:.3g} s.",
                reason="MCP_TIMEOUT",
            ) from None
        except ValidationError:
            raise self._unreadable() from None
        except _LOST:
            raise self._lost() from None

    def _unreadable(self) -> ToolFailure:
        return ToolFailure(
            f"The server {self._server} answered something that cannot be read: no MCP, or nested "
            "too deeply.",
            reason="MCP_ERROR",
        )

    def _lost(self) -> SessionLost:
        self.alive = False
        self._over.set()
        return SessionLost(
            f"The connection to the server {self._server} was lost.", reason="MCP_SESSION_LOST"
        )

    async def _live(self, transport: Callable[[], Transport]) -> None:
        """Opens the session, keeps it until it is over, and closes it."""
        try:
            async with Client(
                _Watched(transport(), self._ended), message_handler=self._heard, cache=None
            ) as client:
                if not self._ready.done():
                    self._ready.set_result(client)
                async with asyncio.TaskGroup() as group:
                    listening = group.create_task(self._listen(client))
                    await self._over.wait()
                    listening.cancel()
        except BaseException as error:
            # The top of a background task, and the boundary to what a server can make of the SDK.
            words = _words(error)
            if not self._ready.done():
                self._ready.set_exception(
                    ServerAway(
                        f"No session with the server {self._server}: {words}",
                        reason="MCP_UNREACHABLE",
                    )
                )
                self._ready.exception()
            elif not self._over.is_set():
                log.warning("mcp_session_lost", server=self._server, error=words)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.alive = False
            self._over.set()

    def _ended(self) -> None:
        self.alive = False
        self._over.set()

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._on_change()

    async def _listen(self, client: Client) -> None:
        """Hears of changes of the list where the server has to be asked to tell."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as subscription:
                    async for _ in subscription:
                        self._on_change()
            except (ListenNotSupportedError, MCPError):
                return  # one that cannot tell; its list is asked for now and then
            except SubscriptionLost:
                pass
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)
            self._on_change()


async def open_session(
    transport: Callable[[], Transport],
    *,
    server: str,
    timeout: float,
    on_change: Callable[[], object],
) -> Session:
    """Raises `ServerAway`. `on_change`: called when the server says that its tools changed."""
    session = Session(server=server, on_change=on_change)
    await session.open(transport, timeout)
    return session


class _Watched:
    """A transport that says when the other side has ended."""

    def __init__(self, transport: Transport, ended: Callable[[], object]) -> None:
        self._transport = transport
        self._ended = ended

    async def __aenter__(self) -> Any:
        read, write = await self._transport.__aenter__()
        return _Reading(read, self._ended), write

    async def __aexit__(self, *details: Any) -> bool | None:
        return await self._transport.__aexit__(*details)


class _Reading:
    def __init__(self, stream: Any, ended: Callable[[], object]) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> "_Reading":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, *_LOST):
            self._ended()
            raise

    async def __aenter__(self) -> "_Reading":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> Any:
        return await self._stream.__aexit__(*details)


def _offered(tool: Any) -> Offered:
    hints = tool.annotations
    return Offered(
        name=tool.name,
        description=tool.description or tool.title or "",
        input_schema=tool.input_schema,
        read_only=None if hints is None else hints.read_only_hint,
        idempotent=None if hints is None else hints.idempotent_hint,
        destructive=None if hints is None else hints.destructive_hint,
        open_world=None if hints is None else hints.open_world_hint,
    )


def _output(result: CallToolResult, *, shared: bool) -> Output:
    texts = [_text(block) for block in result.content]
    meta = result.meta or {}
    personal = shared and meta.get("cacheScope") == "private"
    said = meta.get("ttlMs")
    seconds = None
    if isinstance(said, int | float) and not isinstance(said, bool):
        seconds = said / 1e3
    return Output(
        "\n".join(text for text in texts if text) or "(no output)",
        result.structured_content,
        private=personal or (seconds is not None and seconds <= 0),
        ttl=seconds if seconds and seconds > 0 else None,
    )


def _text(block: Any) -> str:
    match block:
        case TextContent(text=text):
            return text
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case ResourceLink(uri=uri, name=name):
            return f"[{name}: {uri}]"
    kind = getattr(block, "mime_type", None) or block.type
    return f"[{kind}, which is not shown]"


def _words(error: BaseException) -> str:
    """What went wrong, of the first that did: groups are what task groups make of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ToolFailure):
        return error.message
    if isinstance(error, MCPError | mcp_http.Failure | OSError | egress.Refused):
        return f"{error}"[:300] or type(error).__name__
    return type(error).__name__
