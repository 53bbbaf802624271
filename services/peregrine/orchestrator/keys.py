"""PostgreSQL: API keys. Read and written as their tenant, but for the one that a caller names."""

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from peregrine.api.identity.v1 import identity_pb2 as pb
from peregrine.kit import errors
from peregrine.kit.context import Identity
from peregrine.kit.postgres import NO_TENANT, Database, Record

_REQUEST_ID_LIFE = datetime.timedelta(hours=24)
_FIND_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is written when a key is made. `created_by`: who asked, in the words of the log."""

    key_id: str
    identity: Identity
    name: str
    scopes: Sequence[str]
    secret_digest: bytes
    expire_time: datetime.datetime | None
    created_by: str
    request_id: str
    request_digest: bytes


@dataclass(frozen=True, slots=True, repr=False)
class FoundKey:
    """A key as the door needs it. `ends`: seconds since 1970."""

    identity: Identity
    scopes: frozenset[str]
    secret_digest: bytes
    ends: float | None
    revoked: bool
    stale_use: bool


class KeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_id: str) -> FoundKey | None:
        """The key of that id, whosever it is."""
        async with self._database.transaction(NO_TENANT, user="", timeout=_FIND_SECONDS) as conn:
            await conn.execute(
                "api_key_name", "SELECT set_config('peregrine.key_id', $1, true)", key_id
            )
            row = await conn.fetchrow(
                "api_key_find",
                "SELECT tenant, user_id, scopes, secret_digest, expire_time,"
                " revoke_time IS NOT NULL AS revoked,"
                " coalesce(last_used_time < now() - interval '5 minutes', true) AS stale_use"
                " FROM orchestrator.api_keys WHERE key_id = $1",
                key_id,
            )
        if row is None:
            return None
        return FoundKey(
            identity=Identity(row["tenant"], row["user_id"]),
            scopes=frozenset(row["scopes"]),
            secret_digest=row["secret_digest"],
            ends=row["expire_time"].timestamp() if row["expire_time"] is not None else None,
            revoked=row["revoked"],
            stale_use=row["stale_use"],
        )

    async def used(self, tenant: str, key_id: str) -> None:
        async with self._database.transaction(tenant, user="", timeout=_FIND_SECONDS) as conn:
            await conn.execute(
                "api_key_used",
                "UPDATE orchestrator.api_keys SET last_used_time = now() WHERE key_id = $1",
                key_id,
            )

    async def insert(self, new: NewKey) -> tuple[pb.ApiKey, bool]:
        """Writes a key; with False, the one that the same request has made before.

        Raises:
          AlreadyExists: REQUEST_ID_REUSED, when the request id came with another request.
        """
        tenant, request_id = new.identity.tenant, new.request_id or None
        async with self._database.transaction(tenant, user="") as conn:
            await conn.execute(
                "api_key_forget_request",
                "UPDATE orchestrator.api_keys SET request_id = NULL WHERE request_id = $1"
                " AND created_by = $2 AND create_time < now() - $3::interval",
                request_id,
                new.created_by,
                _REQUEST_ID_LIFE,
            )
            row = await conn.fetchrow(
                "api_key_insert",
                "INSERT INTO orchestrator.api_keys (key_id, tenant, user_id, name, scopes,"
                " secret_digest, expire_time, created_by, request_id, request_digest)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
                " ON CONFLICT (tenant, created_by, request_id) WHERE request_id IS NOT NULL"
                " DO NOTHING RETURNING *",
                new.key_id,
                tenant,
                new.identity.user,
                new.name,
                list(new.scopes),
                new.secret_digest,
                new.expire_time,
                new.created_by,
                request_id,
                new.request_digest,
            )
            if row is not None:
                return _key(row), True
            row = await conn.fetchrow(
                "api_key_by_request",
                "SELECT * FROM orchestrator.api_keys WHERE request_id = $1 AND created_by = $2",
                request_id,
                new.created_by,
            )
        if row is None or row["request_digest"] != new.request_digest:
            raise errors.AlreadyExists(
                "this request id was used with another request: take a new one",
                reason="REQUEST_ID_REUSED",
            )
        return _key(row), False

    async def page(self, tenant: str, page_token: str, limit: int) -> tuple[list[pb.ApiKey], str]:
        """A page of the tenant's keys, newest first, and the token of the next page."""
        before = _parse_token(page_token)
        async with self._database.transaction(tenant, user="") as conn:
            rows = await conn.fetch(
                "api_keys_list",
                "SELECT * FROM orchestrator.api_keys"
                " WHERE tenant = $1 AND (create_time, key_id) < ($2, $3)"
                " ORDER BY create_time DESC, key_id DESC LIMIT $4",
                tenant,
                *before,
                limit + 1,
            )
        token = ""
        if len(rows) > limit:
            rows = rows[:limit]
            token = _token(rows[-1])
        return [_key(row) for row in rows], token

    async def revoke(self, tenant: str, key_id: str) -> pb.ApiKey:
        """Raises NotFound: KEY_NOT_FOUND, also for another tenant's."""
        async with self._database.transaction(tenant, user="") as conn:
            row = await conn.fetchrow(
                "api_key_revoke",
                "UPDATE orchestrator.api_keys SET revoke_time = coalesce(revoke_time, now())"
                " WHERE key_id = $1 AND tenant = $2 RETURNING *",
                key_id,
                tenant,
            )
        if row is None:
            raise errors.NotFound("there is no such key", reason="KEY_NOT_FOUND")
        return _key(row)


def _key(row: Record) -> pb.ApiKey:
    key = pb.ApiKey(
        key_id=row["key_id"],
        name=row["name"],
        for_tenant=row["tenant"],
        for_user=row["user_id"],
        scopes=row["scopes"],
    )
    for field in ("create_time", "expire_time", "revoke_time", "last_used_time"):
        if row[field] is not None:
            getattr(key, field).FromDatetime(row[field])
    return key


def _token(row: Record) -> str:
    text = f"{row['create_time'].isoformat()}|{row['key_id']}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def _parse_token(token: str) -> tuple[datetime.datetime, str]:
    if not token:
        return datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC), ""
    try:
        text, _, key_id = base64.urlsafe_b64decode(token.encode()).decode("ascii").partition("|")
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo is None or not key_id.isalnum():
            raise ValueError("not ours")
        return time, key_id
    except ValueError:
        raise errors.InvalidArgument(
            "the page token is not one of this list: begin without one",
            reason="PAGE_TOKEN_INVALID",
        ) from None
