"""The feed and the policies in PostgreSQL, and the request ids that were answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.protobuf.message import Message

from peregrine.api.cache.v1 import cache_pb2
from peregrine.cache.entry import Address
from peregrine.cache.feed import KEPT_EVENTS, POLICY, Event, mark_of
from peregrine.cache.policies import MAX_POLICIES
from peregrine.kit import requests
from peregrine.kit.errors import (
    Aborted,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from peregrine.kit.marks import Mark
from peregrine.kit.postgres import ALL_TENANTS, Connection, Database, DatabaseError, Record
from peregrine.kit.requests import Requests

AT_ONCE = 500

_MAX_MARKS = 100_000
_WRITE_SECONDS = 5.0
_LOAD_SECONDS = 30.0
# As long as the longest-lived entry, and a day.
_KEPT_DAYS = 31

_COLUMNS = "sequence, previous, tenant, kind, user_id, namespace, target, create_time"
_END = "SELECT sequence FROM cache.feed_end"
SINCE = f"SELECT {_COLUMNS} FROM cache.feed WHERE sequence > $1 ORDER BY sequence LIMIT $2"  # noqa: S608 - constants
_NEWEST = f"SELECT {_COLUMNS} FROM cache.feed WHERE sequence <= $1 ORDER BY sequence DESC LIMIT $2"  # noqa: S608 - constants
_MARKS = f"""
SELECT max(sequence) AS sequence, 0 AS previous, tenant, kind, user_id, namespace, target,
    max(create_time) AS create_time
FROM cache.feed
WHERE kind <> 'p' AND create_time > now() - interval '{_KEPT_DAYS} days'
GROUP BY tenant, kind, user_id, namespace, target ORDER BY 1 DESC LIMIT $1
"""  # noqa: S608 - constants
_POLICIES = "SELECT tenant, policy, version FROM cache.policies"
_APPEND = f"SELECT {_COLUMNS} FROM cache.append($1, $2, $3, $4, $5)"  # noqa: S608 - constants
_REMOVE = (
    "DELETE FROM cache.entries WHERE tenant = $1 AND user_id = $2 AND namespace = $3 AND key = $4"
)
_POLICY = "SELECT policy, version FROM cache.policies WHERE tenant = $1 AND namespace = $2"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('peregrine.cache.policies', 0))"
_COUNT = "SELECT count(*) FROM cache.policies WHERE tenant = $1"
_PUT_POLICY = """
INSERT INTO cache.policies (tenant, namespace, version, policy) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, namespace) DO UPDATE
    SET version = EXCLUDED.version, policy = EXCLUDED.policy
"""
_LIST = (
    "SELECT policy, version FROM cache.policies WHERE tenant = $1 AND namespace > $2 "
    "ORDER BY namespace LIMIT $3"
)
_SWEEP = f"""
WITH requests AS (
    DELETE FROM cache.requests WHERE create_time < now() - interval '24 hours'
), frequencies AS (
    DELETE FROM cache.frequencies WHERE hour < now() - interval '26 hours'
)
DELETE FROM cache.feed WHERE create_time < now() - interval '{_KEPT_DAYS} days'
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """All that a starting replica has to know. `floor`: marks up to this number are not in it."""

    sequence: int
    start: int
    events: list[Event]
    marks: list[tuple[Mark, int]]
    floor: int
    policies: list[tuple[str, cache_pb2.Policy]]


class FeedStore:
    """Methods raise what `Database.transaction` raises; those that write raise Unavailable
    CACHE_TIER_UNAVAILABLE instead, and AlreadyExists REQUEST_ID_REUSED."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._requests = Requests("cache")

    async def load(self) -> Loaded:
        async with self._database.transaction(ALL_TENANTS, timeout=_LOAD_SECONDS) as conn:
            # First the end: what comes in meanwhile is read again, which changes nothing.
            end = int(await conn.fetchval("cache_feed_end", _END))
            newest = await conn.fetch("cache_feed_newest", _NEWEST, end, KEPT_EVENTS + 1)
            marks = await conn.fetch("cache_feed_marks", _MARKS, _MAX_MARKS + 1)
            policies = await conn.fetch("cache_policies", _POLICIES)
        events = [_event(row) for row in reversed(newest)]
        start = events[0].previous if events else end
        if len(events) > KEPT_EVENTS:
            start = events.pop(0).sequence
        return Loaded(
            sequence=end,
            start=start,
            events=events,
            marks=[(mark_of(_event(row)), row["sequence"]) for row in reversed(marks)],
            floor=marks[-1]["sequence"] if len(marks) > _MAX_MARKS else 0,
            policies=[(row["tenant"], _policy(row)) for row in policies],
        )

    async def since(self, sequence: int, *, timeout: float) -> list[Event]:
        """The next events, at most `AT_ONCE`."""
        async with self._database.transaction(ALL_TENANTS, timeout=timeout) as conn:
            rows = await conn.fetch("cache_feed_since", SINCE, sequence, AT_ONCE)
        return [_event(row) for row in rows]

    async def invalidate(
        self,
        tenant: str,
        kind: str,
        *,
        address: Address | None = None,
        namespace: str = "",
        tag: str = "",
        request: Message | None = None,
        request_id: str = "",
    ) -> tuple[int, Event | None, bool]:
        """Appends to the feed and, for a key, removes the row. Returns the number, the event (None
        when the request was answered before), and whether there was a row."""
        user = address.user if address else ""
        target = address.key if address else tag.encode()
        group = address.namespace if address else namespace
        _check(request_id)
        digest = b"" if request is None else requests.digest(request, user=user)
        removed = False
        async with self._writing(tenant, user=user) as conn:
            answered = await self._requests.answered(conn, tenant, request_id, digest)
            if answered is not None:
                return answered, None, False
            if address is not None:
                status = await conn.execute(
                    "cache_remove", _REMOVE, tenant, user, address.namespace, address.key
                )
                removed = status != "DELETE 0"
            row = await conn.fetchrow("cache_append", _APPEND, tenant, kind, user, group, target)
            event = _appended(row)
            await self._requests.claim(conn, tenant, request_id, digest, event.sequence)
        return event.sequence, event, removed

    async def apply_policy(
        self, tenant: str, policy: cache_pb2.Policy, request: cache_pb2.ApplyPolicyRequest
    ) -> tuple[cache_pb2.Policy, Event | None]:
        """Keeps the policy; returns it with its version, and the event when something changed.

        Raises:
          Aborted: VERSION_STALE. ResourceExhausted: POLICY_LIMIT_REACHED.
        """
        _check(request.request_id)
        digest = requests.digest(request)
        body = policy.SerializeToString(deterministic=True)
        applied, event = cache_pb2.Policy.FromString(body), None
        async with self._writing(tenant) as conn:
            await conn.execute("cache_policies_lock", _LOCK)
            answered = await self._requests.answered(conn, tenant, request.request_id, digest)
            if answered is not None:
                applied.version = answered
                return applied, None
            row = await conn.fetchrow("cache_policy", _POLICY, tenant, policy.namespace)
            version: int = row["version"] if row is not None else 0
            if request.HasField("expected_version") and request.expected_version != version:
                raise Aborted(
                    f"the policy of {policy.namespace!r} is at version {version}",
                    reason="VERSION_STALE",
                    metadata={"version": str(version)},
                )
            if row is None or row["policy"] != body:
                if (
                    row is None
                    and await conn.fetchval("cache_count", _COUNT, tenant) >= MAX_POLICIES
                ):
                    raise ResourceExhausted(
                        f"there are {MAX_POLICIES} policies already",
                        reason="POLICY_LIMIT_REACHED",
                    )
                version += 1
                await conn.execute(
                    "cache_put_policy", _PUT_POLICY, tenant, policy.namespace, version, body
                )
                applied.version = version
                event = _appended(
                    await conn.fetchrow(
                        "cache_append",
                        _APPEND,
                        tenant,
                        POLICY,
                        "",
                        policy.namespace,
                        applied.SerializeToString(deterministic=True),
                    )
                )
            applied.version = version
            await self._requests.claim(conn, tenant, request.request_id, digest, version)
        return applied, event

    async def policy(self, tenant: str, namespace: str) -> cache_pb2.Policy:
        """Raises NotFound / POLICY_NOT_FOUND."""
        async with self._database.transaction(tenant) as conn:
            row = await conn.fetchrow("cache_policy", _POLICY, tenant, namespace)
        if row is None:
            raise NotFound(f"there is no policy of {namespace!r}", reason="POLICY_NOT_FOUND")
        return _policy(row)

    async def policies(self, tenant: str, *, after: str, limit: int) -> list[cache_pb2.Policy]:
        """By namespace, beyond `after`."""
        async with self._database.transaction(tenant) as conn:
            rows = await conn.fetch("cache_list_policies", _LIST, tenant, after, limit)
        return [_policy(row) for row in rows]

    async def sweep(self) -> None:
        """Removes what is too old to matter of the feed, the request ids and the counts."""
        async with self._database.transaction(ALL_TENANTS, timeout=_LOAD_SECONDS) as conn:
            await conn.execute("cache_sweep", _SWEEP)

    @asynccontextmanager
    async def _writing(self, tenant: str, *, user: str = "") -> AsyncIterator[Connection]:
        try:
            async with self._database.transaction(
                tenant, user=user or None, timeout=_WRITE_SECONDS
            ) as conn:
                yield conn
        except (Unavailable, DatabaseError) as error:
            raise Unavailable(
                "PostgreSQL is away, so that nobody can be told",
                reason="CACHE_TIER_UNAVAILABLE",
                retry_after=1.0,
            ) from error


def _event(row: Record) -> Event:
    return Event(
        sequence=row["sequence"],
        previous=row["previous"],
        tenant=row["tenant"],
        kind=row["kind"],
        user=row["user_id"],
        namespace=row["namespace"],
        target=row["target"],
        create_time=row["create_time"].timestamp(),
    )


def _appended(row: Record | None) -> Event:
    if row is None:
        raise RuntimeError("cache.append gave no row")
    return _event(row)


def _policy(row: Record) -> cache_pb2.Policy:
    policy = cache_pb2.Policy.FromString(row["policy"])
    policy.version = row["version"]
    return policy


def _check(request_id: str) -> None:
    if len(request_id) > 128 or (request_id and not request_id.isprintable()):
        what = "is not 1 to 128 printable characters"
        raise InvalidArgument(
            f"request_id {what}", reason="REQUEST_ID_INVALID", violations=[("request_id", what)]
        )
