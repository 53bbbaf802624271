"""The tools that were applied: kept in PostgreSQL, followed by every worker.

A change takes the next number of one sequence under a lock that is held until it is committed, so
numbers become visible in their order. A worker remembers the last number it saw and asks twice a
second for what lies beyond: one indexed statement, whatever there is. What it was told stays in
force while PostgreSQL is away. The worker that a change is made at follows at once.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog
from prometheus_client import Counter

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit import requests
from peregrine.kit.errors import (
    Aborted,
    PeregrineError,
    ResourceExhausted,
)
from peregrine.kit.postgres import ALL_TENANTS, Connection, Database, Record
from peregrine.kit.requests import Requests

MAX_TOOLS = 1_000

_EVERY_SECONDS = 0.5
_ROWS_AT_ONCE = 500
_LISTINGS_AT_ONCE = 20
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('peregrine.tools.registry', 0))"
LISTINGS = (
    "SELECT tenant, name, backend, listing, change FROM tools.listings "
    "WHERE change > $1 ORDER BY change LIMIT $2"
)
_LISTING = "SELECT listing FROM tools.listings WHERE tenant = $1 AND name = $2 AND backend = $3"
_LIST = """
INSERT INTO tools.listings (tenant, name, backend, listing) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, name, backend) DO UPDATE SET
    listing = EXCLUDED.listing, change = EXCLUDED.change, update_time = now()
"""
WANTED = (
    "SELECT tenant, name, until, change FROM tools.wanted "
    "WHERE change > $1 ORDER BY change LIMIT $2"
)
_WANT = """
INSERT INTO tools.wanted (tenant, name, until)
SELECT $1, name, now() + interval '7 days' FROM unnest($2::text[]) AS name
ON CONFLICT (tenant, name) DO UPDATE SET until = EXCLUDED.until, change = EXCLUDED.change
"""
_UNWANT = "DELETE FROM tools.wanted WHERE tenant = $1 AND until < now()"
CHANGES = (
    "SELECT tenant, name, version, tool, deleted, change, create_time, update_time "
    "FROM tools.registry WHERE change > $1 ORDER BY change LIMIT $2"
)
_READ = (
    "SELECT version, tool, deleted, create_time, update_time FROM tools.registry "
    "WHERE tenant = $1 AND name = $2"
)
_WRITE = """
INSERT INTO tools.registry AS r (tenant, name, version, tool, deleted) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant, name) DO UPDATE SET
    version = EXCLUDED.version, tool = EXCLUDED.tool, deleted = EXCLUDED.deleted,
    change = EXCLUDED.change, update_time = now(),
    create_time = CASE WHEN r.deleted THEN now() ELSE r.create_time END
RETURNING create_time, update_time
"""
_FORGET = (
    "DELETE FROM tools.requests WHERE tenant = $1 AND create_time < now() - interval '24 hours'"
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One tool of a tenant as it is now; `tool` is None when it was deleted."""

    tenant: str
    name: str
    tool: tools_pb2.RegisteredTool | None


class AppliedTools:
    """The rows, and the place in their changes up to which `on_change` (what is applied),
    `on_listing` (what MCP servers offer) and `on_wanted` (those to connect to) were told.

    Methods raise what `Database.transaction` raises, and AlreadyExists REQUEST_ID_REUSED.
    """

    def __init__(
        self,
        *,
        database: Database,
        on_change: Callable[[Change], None],
        on_listing: Callable[[str, str, bytes, bytes], None],
        on_wanted: Callable[[str, str, datetime], None],
        failures: Counter,
    ) -> None:
        self._database = database
        self._requests = Requests("tools")
        self._on_change = on_change
        self._on_listing = on_listing
        self._on_wanted = on_wanted
        self._seen = 0
        self._listings_seen = 0
        self._wanted_seen = 0
        self._following = asyncio.Lock()
        self._failures = failures

    async def apply(
        self, tenant: str, request: tools_pb2.ApplyToolRequest, tool: tools_pb2.Tool
    ) -> tools_pb2.RegisteredTool:
        """Keeps `tool`, which is the tool of `request` with its defaults.

        Raises:
          Aborted: VERSION_STALE. ResourceExhausted: TOOL_LIMIT_REACHED.
        """
        digest = requests.digest(request)
        body = tool.SerializeToString(deterministic=True)
        async with self._database.transaction(tenant) as conn:
            await conn.execute("tools_lock", _LOCK)
            answered = await self._requests.answered(conn, tenant, request.request_id, digest)
            row = await conn.fetchrow("tools_read", _READ, tenant, tool.name)
            version: int = 0 if row is None else row["version"]
            there = row is not None and not row["deleted"]
            if answered is not None:
                version = answered
            else:
                current = version if there else 0
                if request.HasField("expected_version") and request.expected_version != current:
                    raise Aborted(
                        f"the tool {tool.name!r} is at version {current}",
                        reason="VERSION_STALE",
                        metadata={"version": str(current)},
                    )
                if not there or row is None or row["tool"] != body:
                    if not there:
                        await _refuse_too_many(conn, tenant)
                    version += 1
                    row = await conn.fetchrow(
                        "tools_write", _WRITE, tenant, tool.name, version, body, False
                    )
                await self._claim(conn, tenant, request.request_id, digest, version)
        await self.follow_once()
        created, updated = (None, None) if row is None else (row["create_time"], row["update_time"])
        return registered(tool, version=version, created=created, updated=updated)

    async def delete(self, tenant: str, request: tools_pb2.DeleteToolRequest) -> bool:
        """False when there was none."""
        digest = requests.digest(request)
        async with self._database.transaction(tenant) as conn:
            await conn.execute("tools_lock", _LOCK)
            answered = await self._requests.answered(conn, tenant, request.request_id, digest)
            if answered is not None:
                return bool(answered)
            row = await conn.fetchrow("tools_read", _READ, tenant, request.name)
            there = row is not None and not row["deleted"]
            if row is not None and there:
                await conn.fetchrow(
                    "tools_write", _WRITE, tenant, request.name, row["version"] + 1, b"", True
                )
            await self._claim(conn, tenant, request.request_id, digest, int(there))
        await self.follow_once()
        return there

    async def keep_listing(
        self, tenant: str, name: str, backend: bytes, update: Callable[[bytes], bytes]
    ) -> None:
        """Stores what an MCP server offers, made by `update` of what is stored, if that changes."""
        async with self._database.transaction(tenant) as conn:
            await conn.execute("tools_lock", _LOCK)
            stored = await conn.fetchval("tools_listing", _LISTING, tenant, name, backend)
            listing = update(stored or b"")
            if listing != stored:
                await conn.execute("tools_list", _LIST, tenant, name, backend, listing)
        await self.follow_once()

    async def want(self, tenant: str, names: Iterable[str]) -> None:
        """Has every worker connect to these servers by itself, for the next seven days."""
        async with self._database.transaction(tenant) as conn:
            await conn.execute("tools_lock", _LOCK)
            await conn.execute("tools_unwant", _UNWANT, tenant)
            await conn.execute("tools_want", _WANT, tenant, sorted(names))
        await self.follow_once()

    async def _claim(
        self, conn: Connection, tenant: str, request_id: str, digest: bytes, outcome: int
    ) -> None:
        if request_id:
            await conn.execute("tools_forget_requests", _FORGET, tenant)
            await self._requests.claim(conn, tenant, request_id, digest, outcome)

    async def follow_once(self) -> None:
        """Tells all that has changed since the last time."""
        async with self._following:
            while await self._follow_further():
                pass

    async def _follow_further(self) -> bool:
        """Whether there may be more."""
        async with self._database.transaction(ALL_TENANTS) as conn:
            changes = await conn.fetch("tools_changes", CHANGES, self._seen, _ROWS_AT_ONCE)
            listings = await conn.fetch(
                "tools_listings", LISTINGS, self._listings_seen, _LISTINGS_AT_ONCE
            )
            wanted = await conn.fetch("tools_wanted", WANTED, self._wanted_seen, _ROWS_AT_ONCE)
        for row in changes:
            self._on_change(_change(row))
            self._seen = row["change"]
        for row in listings:
            self._on_listing(row["tenant"], row["name"], row["backend"], row["listing"])
            self._listings_seen = row["change"]
        for row in wanted:
            self._on_wanted(row["tenant"], row["name"], row["until"])
            self._wanted_seen = row["change"]
        return (
            len(changes) == _ROWS_AT_ONCE
            or len(listings) == _LISTINGS_AT_ONCE
            or len(wanted) == _ROWS_AT_ONCE
        )

    async def follow(self) -> None:
        """Until cancelled."""
        failing = False
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.follow_once()
                failing = False
            except PeregrineError as error:
                self._failures.inc()
                if not failing:
                    log.warning("tools_not_followed", reason=error.reason)
                failing = True
            except Exception as error:
                # The top of a background task: the next time may go better.
                self._failures.inc()
                log.error("tools_not_followed", error=type(error).__name__, exc_info=error)


def registered(
    tool: tools_pb2.Tool, *, version: int, created: datetime | None, updated: datetime | None
) -> tools_pb2.RegisteredTool:
    message = tools_pb2.RegisteredTool(tool=tool, version=version)
    if created is not None:
        message.create_time.FromDatetime(created)
    if updated is not None:
        message.update_time.FromDatetime(updated)
    return message


def _change(row: Record) -> Change:
    tool = None
    if not row["deleted"]:
        tool = registered(
            tools_pb2.Tool.FromString(row["tool"]),
            version=row["version"],
            created=row["create_time"],
            updated=row["update_time"],
        )
    return Change(tenant=row["tenant"], name=row["name"], tool=tool)


async def _refuse_too_many(conn: Connection, tenant: str) -> None:
    count = await conn.fetchval(
        "tools_count",
        "SELECT count(*) FROM tools.registry WHERE tenant = $1 AND NOT deleted",
        tenant,
    )
    if count >= MAX_TOOLS:
        raise ResourceExhausted(f"there are {MAX_TOOLS} tools already", reason="TOOL_LIMIT_REACHED")
