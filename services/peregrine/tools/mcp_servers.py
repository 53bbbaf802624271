"""The MCP servers of a worker: connected at first need, asked what they offer, called.

A server is declared by an applied tool. Nothing is connected for that. The first who asks for its
tools (by listing or calling one) makes a worker open a session and ask; what it hears is pinned
(`mcp_listing`) and kept in PostgreSQL, from where every worker, also one that starts later, knows
the tools without asking. After that a session is opened by the first call.

The list is asked for again when the server says that it changed, when a session is opened anew, and
when it is older than the server says it may be; always behind somebody's back, never in his way.
"""

import asyncio
import importlib
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import structlog
from prometheus_client import Counter

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit import context
from peregrine.kit.context import Identity, with_identity
from peregrine.kit.errors import PeregrineError
from peregrine.kit.settings import Secret
from peregrine.tools import mcp_listing
from peregrine.tools.definition import (
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    TransientFailure,
)
from peregrine.tools.mcp_listing import Offered, Pinned

_CONNECT_SECONDS = 20.0
_LISTING_SECONDS = 7.0
_CALL_SECONDS = 25.0
_LIST_SECONDS = 300.0
_LIST_AGAIN_SECONDS = 5.0
_MAX_BACKGROUND = 256
_PATIENCE_SECONDS = 1.0
_MARGIN_SECONDS = 0.5
_BACK_OFF = 5
_WANTED_AGAIN = timedelta(days=6)
_LONGEST_PAUSE_SECONDS = 30.0

Keep = Callable[[str, str, bytes, Callable[[bytes], bytes]], Coroutine[Any, Any, None]]
Headers = Mapping[str, str]

log = structlog.get_logger(__name__)


class Server:
    """One server of a tenant, and at most one session with it, which all calls share.

    Args:
      pool: where connections come from (of `outbound`).
      keep: stores a changed listing, given what makes it of the one that is stored.
      failures: counts what broke in the background.
    """

    def __init__(
        self,
        *,
        tenant: str,
        registered: tools_pb2.RegisteredTool,
        pool: Any,
        secret: Callable[[str, str], Secret],
        keep: Keep,
        failures: Counter,
    ) -> None:
        self.tenant = tenant
        self.registered = registered
        self.declared = registered.tool
        self.backend = mcp_listing.backend_digest(self.declared.mcp)
        self.pins: dict[str, Pinned] | None = None
        self.problem = ""
        self._pool = pool
        self._secret = secret
        self._keep = keep
        self._failures = failures
        self._session: Any = None
        self._opening = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._old_at = 0.0
        self._trying_since: float | None = None
        self._not_before = 0.0
        self._background: set[asyncio.Task[None]] = set()

    @property
    def approved(self) -> frozenset[str]:
        return frozenset(self.declared.mcp.approved_digests)

    async def call(
        self, tool: str, arguments: Mapping[str, Any], context: ToolContext, scope: Scope
    ) -> Output:
        """Raises `ToolFailure`, `SessionLost` when nobody knows what became of it."""
        client = await _client()
        try:
            return await self._call(tool, arguments, context, scope)
        except client.SessionGone:
            # A server that was restarted knows no session, and has done nothing.
            return await self._call(tool, arguments, context, scope)

    async def _call(
        self, tool: str, arguments: Mapping[str, Any], context: ToolContext, scope: Scope
    ) -> Output:
        session = await self._opened(context.remaining())
        output: Output = await session.call(
            tool, dict(arguments), max(context.remaining() - 0.05, 0.0), scope is Scope.TENANT
        )
        return output

    @property
    def connected(self) -> bool:
        return self._session is not None and bool(self._session.alive)

    def connect(self) -> None:
        """Opens a session in the background, if there is none and none is being opened."""
        if not self.connected and self._trying_since is None and self.may_answer(0.0):
            self.refresh()

    def refresh_if_old(self) -> None:
        if time.monotonic() >= self._old_at:
            self.refresh()

    def refresh(self) -> None:
        """Asks for the list again, in the background."""
        self._old_at = time.monotonic() + _LIST_AGAIN_SECONDS
        if len(self._background) < _MAX_BACKGROUND:
            self._later(self.discover())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(work, self._failures), name=f"mcp-{self.declared.name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def discover(self) -> None:
        """Asks for the list, opening a session if there is none. Does not raise but for
        cancellation: `problem` says what is wrong."""
        async with self._listing:
            began = self._trying_since = time.monotonic()
            try:
                session = await self._opened(_CONNECT_SECONDS)
                listing = await session.list_tools(_CONNECT_SECONDS)
                self._old_at = time.monotonic() + (listing.seconds or _LIST_SECONDS)
                await self._learn(listing.tools)
                self.problem = ""
            except ToolFailure as failure:
                self.problem = failure.message
                took = time.monotonic() - began
                self._not_before = began + took + min(_BACK_OFF * took, _LONGEST_PAUSE_SECONDS)
            except (TypeError, ValueError, RecursionError):
                self.problem = "what it says it offers cannot be read"
            except PeregrineError as error:
                self.problem = "what it offers could not be kept"
                log.warning("mcp_listing_not_kept", server=self.declared.name, reason=error.reason)
            finally:
                self._trying_since = None

    def may_answer(self, patience: float) -> bool:
        """Whether to wait for it: not for one that has been tried for longer than `patience`, and
        after a failure not for five times as long as that took, so that one that is away is in
        nobody's way."""
        now = time.monotonic()
        if self._trying_since is not None:
            return now - self._trying_since < patience
        return now >= self._not_before

    async def approve(self) -> None:
        """Lets in what the declaration approves and the server said before."""
        await self._learn(None)

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)
        if self._session is not None:
            await self._session.close()

    async def _learn(self, found: Iterable[Offered] | None) -> None:
        offered = None if found is None else tuple(found)

        def update(stored: bytes) -> bytes:
            return mcp_listing.dump(
                mcp_listing.merged(mcp_listing.load(stored), offered, self.approved)
            )

        with with_identity(Identity(self.tenant, "local")):
            await self._keep(self.tenant, self.declared.name, self.backend, update)

    async def _opened(self, timeout: float) -> Any:
        session = self._session
        if session is not None and session.alive:
            return session
        client = await _client()
        try:
            async with asyncio.timeout(timeout), self._opening:
                lost = self._session
                if lost is not None and lost.alive:
                    return lost
                self._session = await client.open_session(
                    self._transport(client),
                    server=self.declared.name,
                    timeout=min(timeout, _CONNECT_SECONDS),
                    on_change=self.refresh,
                )
                if lost is not None:
                    self._later(lost.close())
                    self.refresh()
                return self._session
        except TimeoutError:
            raise client.ServerAway(
                f"There was no session with the server {self.declared.name} in time.",
                reason="MCP_UNREACHABLE",
            ) from None

    def _transport(self, client: ModuleType) -> Any:
        mcp = self.declared.mcp
        if mcp.command:
            environment = dict(mcp.environment) | {
                name: self._secret(self.declared.name, mcp.secret_environment[name]).reveal()
                for name in mcp.secret_environment
            }
            return client.process(mcp.command, environment)
        headers = {
            name: self._secret(self.declared.name, mcp.secret_headers[name]).reveal()
            for name in mcp.secret_headers
        }
        return client.http(mcp.url, headers, self._pool)


class Servers:
    """Those of all tenants. `changed` is told when what a server offers may have changed."""

    def __init__(self, *, changed: Callable[[Server], None], failures: Counter) -> None:
        self._changed = changed
        self._failures = failures
        self._servers: dict[tuple[str, str], Server] = {}
        self._pins: dict[tuple[str, str, bytes], dict[str, Pinned]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Until when they are connected to before they are needed; whether or not they are here.
        self._wanted: dict[tuple[str, str], datetime] = {}

    def wanted(self, tenant: str, name: str, until: datetime) -> None:
        """Somebody uses a server so much that its first call should not wait."""
        self._wanted[tenant, name] = until
        server = self._servers.get((tenant, name))
        if server is not None and until > datetime.now(UTC):
            server.connect()

    def connect(self, tenant: str, names: Iterable[str]) -> list[str]:
        """Connects to the servers of the named tools, in the background. Returns those that are not
        `wanted` yet, or not for long any more."""
        wanted = list(names)
        soon = datetime.now(UTC) + _WANTED_AGAIN
        found = []
        for (whose, prefix), server in self._servers.items():
            if whose == tenant and any(_belongs(name, prefix) for name in wanted):
                server.connect()
                if self._wanted.get((whose, prefix), soon) <= soon:
                    found.append(prefix)
        return found

    def put(self, server: Server) -> None:
        """Adds a server, or replaces one whose declaration changed."""
        key = (server.tenant, server.declared.name)
        self.drop(*key)
        self._servers[key] = server
        server.pins = self._pins.get((*key, server.backend))
        if server.pins and any(
            pin.changed is not None and pin.changed.digest in server.approved
            for pin in server.pins.values()
        ):
            self._later(server.approve())
        until = self._wanted.get(key)
        if until is not None and until > datetime.now(UTC):
            server.connect()
        self._changed(server)

    def drop(self, tenant: str, name: str) -> None:
        server = self._servers.pop((tenant, name), None)
        if server is not None:
            self._later(server.close())

    def learned(self, tenant: str, name: str, backend: bytes, listing: bytes) -> None:
        """What PostgreSQL has of a server, which may not be here (any more)."""
        pins = self._pins[tenant, name, backend] = mcp_listing.load(listing)
        server = self._servers.get((tenant, name))
        if server is not None and server.backend == backend:
            server.pins = pins
            self._changed(server)

    async def need(self, tenant: str, names: Iterable[str], *, to_call: bool = False) -> list[str]:
        """Makes sure that what the named tools are is known, as far as it can be found out now.

        Returns the names, with those of servers replaced by what they offer. Without any names all
        servers of the tenant are meant. `to_call`: one of them is to be called, which is worth more
        patience than a list.
        """
        left = context.deadline_remaining()
        patience = _CALL_SECONDS if to_call else _LISTING_SECONDS
        if left is not None:
            patience = min(patience, max(left - _MARGIN_SECONDS, 0.0))
        wanted = list(names)
        servers = [
            server
            for (whose, prefix), server in self._servers.items()
            if whose == tenant and (not wanted or any(_belongs(name, prefix) for name in wanted))
        ]
        asked = [
            server
            for server in servers
            if server.pins is None
            and server.may_answer(_CALL_SECONDS if to_call else _PATIENCE_SECONDS)
        ]
        for server in servers:
            if server.pins is not None:
                server.refresh_if_old()
        if asked:
            tasks = [asyncio.create_task(server.discover()) for server in asked]
            try:
                await asyncio.wait(tasks, timeout=patience)
            finally:
                for task in tasks:
                    self._closing.add(task)
                    task.add_done_callback(self._closing.discard)
            for server in asked:
                self._changed(server)
        for server in servers:
            if server.declared.name in wanted and not server.declared.mcp.tool:
                pins = (server.pins or {}).values()
                wanted += [mcp_listing.called(server.declared.name, p.tool.name) for p in pins]
        return wanted

    async def close(self) -> None:
        for key in list(self._servers):
            self.drop(*key)
        if self._closing:
            await asyncio.wait(self._closing)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(work, self._failures), name="mcp-servers")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _belongs(name: str, server: str) -> bool:
    return name == server or name.startswith(f"{server}_")


async def _quietly(work: Coroutine[Any, Any, None], failures: Counter) -> None:
    try:
        await work
    except Exception as error:
        # The top of a background task: closing a session, or approving what is asked for again.
        failures.inc()
        log.error("mcp_work_failed", error=type(error).__name__, exc_info=error)


async def _client() -> ModuleType:
    loaded = sys.modules.get("peregrine.tools.mcp_client")
    if loaded is not None and not getattr(loaded.__spec__, "_initializing", False):
        return loaded
    try:
        return await asyncio.to_thread(importlib.import_module, "peregrine.tools.mcp_client")
    except ImportError:
        raise TransientFailure(
            "MCP servers need the extra `tools` of this package, which is not installed.",
            reason="MCP_NOT_INSTALLED",
        ) from None
