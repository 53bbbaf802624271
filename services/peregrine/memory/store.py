"""The rows of conversations and profiles: each operation one transaction of the call's user.

What changes something is one function in the database (see `migrations/`), called in one round
trip. It answers with an outcome; a bad one takes everything back and becomes an error here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from peregrine.api.common.v1 import common_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import Aborted, AlreadyExists, NotFound, PeregrineError
from peregrine.kit.postgres import ALL_TENANTS, Connection, Database, Record, Refused
from peregrine.memory import content

_DONE = ("done", "replayed")
_HEAD = (
    "SELECT c.version, p.data, p.version AS profile_version, p.update_time "
    "FROM memory.conversations c "
    "LEFT JOIN memory.profiles p ON p.tenant = c.tenant AND p.user_id = c.user_id "
    "WHERE c.tenant = $1 AND c.user_id = $2 AND c.conversation_id = $3"
)
NEWEST = "SELECT body, tokens FROM memory.newest_messages($1, $2, $3, $4, $5, $6)"
_CONVERSATION = (
    "SELECT conversation_id, title, agent_id, version, create_time, update_time "
    "FROM memory.conversations WHERE tenant = $1 AND user_id = $2"
)
LIST_CONVERSATIONS = (
    f"{_CONVERSATION} AND (update_time, conversation_id) < ($3, $4) "
    "ORDER BY update_time DESC, conversation_id DESC LIMIT $5"
)
LIST_MESSAGES = (
    "SELECT position, body, tokens, run_id, create_time FROM memory.messages "
    "WHERE tenant = $1 AND user_id = $2 AND conversation_id = $3 AND position > $4 "
    "ORDER BY position LIMIT $5"
)
_EXPIRE = (
    "DELETE FROM memory.requests WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM memory.requests WHERE create_time < now() - interval '24 hours' "
    "ORDER BY create_time LIMIT $1 FOR UPDATE SKIP LOCKED))"
)
_DELETE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    data: bytes = b"{}"
    version: int = 0
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The conversation at `version`, with its newest messages (newest first) and their tokens."""

    version: int
    bodies: Sequence[bytes]
    tokens: Sequence[int]
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What makes a mutation idempotent. An empty id means that it is not."""

    id: str
    digest: bytes


class Store:
    """All rows of the memory service. Methods raise what `Database.transaction` raises, and these:

    NotFound CONVERSATION_NOT_FOUND, Aborted VERSION_STALE, AlreadyExists REQUEST_ID_REUSED.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin_turn(
        self,
        who: Identity,
        conversation: UUID,
        message: common_pb2.Message,
        *,
        request: Request,
        create: bool,
        title: str,
        agent_id: str,
        run_id: str,
        expected_version: int | None,
        max_messages: int,
        token_budget: int,
    ) -> Turn:
        row = await self._change(
            "memory_begin_turn",
            "memory.begin_turn",
            who,
            conversation,
            create,
            title,
            agent_id,
            expected_version,
            request.id,
            request.digest,
            run_id,
            message.role,
            message.SerializeToString(),
            content.words(message),
            content.estimate_tokens(message),
            max_messages + 1,
            token_budget,
        )
        profile = _profile(row["profile"], row["profile_version"], row["profile_time"])
        return Turn(version=row["head"], bodies=row["bodies"], tokens=row["sizes"], profile=profile)

    async def append(
        self,
        who: Identity,
        conversation: UUID,
        messages: Sequence[common_pb2.Message],
        *,
        request: Request,
        run_id: str,
        expected_version: int | None,
    ) -> int:
        """Returns the version after them."""
        row = await self._change(
            "memory_append_messages",
            "memory.append_messages",
            who,
            conversation,
            expected_version,
            request.id,
            request.digest,
            run_id,
            [message.role for message in messages],
            [message.SerializeToString() for message in messages],
            [content.words(message) for message in messages],
            [content.estimate_tokens(message) for message in messages],
        )
        version: int = row["head"]
        return version

    async def head(self, who: Identity, conversation: UUID, *, limit: int, budget: int) -> Turn:
        """The conversation as it stands, with at most `limit` of its newest messages."""
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            row = await conn.fetchrow("memory_head", _HEAD, who.tenant, who.user, conversation)
            if row is None:
                raise _not_found()
            newest = await conn.fetch(
                "memory_newest",
                NEWEST,
                who.tenant,
                who.user,
                conversation,
                row["version"],
                limit,
                budget,
            )
        return Turn(
            version=row["version"],
            bodies=[each["body"] for each in newest],
            tokens=[each["tokens"] for each in newest],
            profile=_profile(row["data"], row["profile_version"], row["update_time"]),
        )

    async def conversation(self, who: Identity, conversation: UUID) -> Record:
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            row = await conn.fetchrow(
                "memory_conversation",
                f"{_CONVERSATION} AND conversation_id = $3",
                who.tenant,
                who.user,
                conversation,
            )
        if row is None:
            raise _not_found()
        return row

    async def conversations(
        self, who: Identity, *, after: tuple[datetime, UUID], limit: int
    ) -> list[Record]:
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            return await conn.fetch(
                "memory_conversations",
                LIST_CONVERSATIONS,
                who.tenant,
                who.user,
                *after,
                limit,
            )

    async def messages(
        self, who: Identity, conversation: UUID, *, after: int, limit: int
    ) -> list[Record]:
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            rows = await conn.fetch(
                "memory_messages",
                LIST_MESSAGES,
                who.tenant,
                who.user,
                conversation,
                after,
                limit,
            )
            if not rows and not await self._exists(conn, who, conversation):
                raise _not_found()
        return rows

    async def profile(self, who: Identity) -> Profile:
        async with self._database.transaction(who.tenant, user=who.user) as conn:
            row = await conn.fetchrow(
                "memory_profile",
                "SELECT data, version, update_time FROM memory.profiles "
                "WHERE tenant = $1 AND user_id = $2",
                who.tenant,
                who.user,
            )
        return Profile() if row is None else _profile(*row)

    async def put_profile(
        self, who: Identity, data: bytes, *, request: Request, expected_version: int | None
    ) -> Profile:
        row = await self._change(
            "memory_put_profile",
            "memory.put_profile",
            who,
            data,
            expected_version,
            request.id,
            request.digest,
        )
        return Profile(data=data, version=row["head"], update_time=row["since"])

    async def delete_conversation(
        self, who: Identity, conversation: UUID, *, request: Request
    ) -> bool:
        """Whether there was one."""
        async with self._database.transaction(
            who.tenant, user=who.user, timeout=_DELETE_SECONDS
        ) as conn:
            row = await conn.fetchrow(
                "memory_delete_conversation",
                "SELECT * FROM memory.delete_conversation($1, $2, $3, $4, $5)",
                who.tenant,
                who.user,
                conversation,
                request.id,
                request.digest,
            )
            return bool(_deleted(row))

    async def delete_user(self, who: Identity, *, request: Request) -> int:
        """The number of conversations that were deleted."""
        async with self._database.transaction(
            who.tenant, user=who.user, timeout=_DELETE_SECONDS
        ) as conn:
            row = await conn.fetchrow(
                "memory_delete_user",
                "SELECT * FROM memory.delete_user($1, $2, $3, $4)",
                who.tenant,
                who.user,
                request.id,
                request.digest,
            )
            return _deleted(row)

    async def expire_requests(self, *, limit: int) -> int:
        """Forgets request ids older than 24 hours, of everybody; returns how many."""
        async with self._database.transaction(ALL_TENANTS) as conn:
            tag = await conn.execute("memory_expire_requests", _EXPIRE, limit)
        return int(tag.rpartition(" ")[2])

    async def _change(self, name: str, function: str, who: Identity, *args: Any) -> Record:
        try:
            rows = await self._database.call(
                name, function, *args, tenant=who.tenant, user=who.user, accept=_DONE
            )
        except Refused as refused:
            raise _refusal(refused.outcome, refused.head) from None
        return rows[0]

    async def _exists(self, conn: Connection, who: Identity, conversation: UUID) -> bool:
        return bool(
            await conn.fetchval(
                "memory_exists",
                "SELECT EXISTS (SELECT 1 FROM memory.conversations "
                "WHERE tenant = $1 AND user_id = $2 AND conversation_id = $3)",
                who.tenant,
                who.user,
                conversation,
            )
        )


def _profile(data: Any, version: Any, update_time: Any) -> Profile:
    if version is None:
        return Profile()
    return Profile(data=data, version=version, update_time=update_time)


def _deleted(row: Record | None) -> int:
    assert row is not None  # noqa: S101 - a function with OUT parameters gives exactly one row
    if row["outcome"] not in _DONE:
        raise _refusal(row["outcome"], None)
    return int(row["deleted"])


def _refusal(outcome: str, head: int | None) -> PeregrineError:
    match outcome:
        case "not_found":
            return _not_found()
        case "stale":
            return Aborted(
                f"the version is {head} by now",
                reason="VERSION_STALE",
                metadata={"version": str(head)},
            )
        case "reused":
            return AlreadyExists(
                "the request id was used for another request within 24 hours",
                reason="REQUEST_ID_REUSED",
            )
    raise ValueError(f"the database answered with {outcome!r}")


def _not_found() -> NotFound:
    return NotFound("there is no such conversation", reason="CONVERSATION_NOT_FOUND")
