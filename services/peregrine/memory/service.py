"""The memory service as gRPC sees it: check, translate, ask the store, translate back."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grpc.aio

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2, memory_pb2_grpc
from peregrine.kit import context as call_context
from peregrine.kit.postgres import Record
from peregrine.memory import content, pages, window
from peregrine.memory.store import Profile, Request, Store, Turn
from peregrine.memory.window import Choice, Entry

_MAX_MESSAGES = 1_000
_MAX_TOKENS = 10_000_000
_LIMITS = (64, 512, 2_048)

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryService(memory_pb2_grpc.MemoryServiceServicer):
    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def BeginTurn(
        self, request: memory_pb2.BeginTurnRequest, context: Context
    ) -> memory_pb2.BeginTurnResponse:
        conversation = content.conversation_id(request.conversation_id)
        message = content.user_message(request.message)
        max_messages, token_budget = _limits(request.window)
        turn = await self._store.begin_turn(
            call_context.identity(),
            conversation,
            message,
            request=_idempotency("BeginTurn", request),
            create=request.create_conversation,
            title=content.title(request.message),
            agent_id=content.optional_id("agent_id", request.agent_id),
            run_id=content.optional_id("run_id", request.run_id),
            expected_version=_expected(request),
            max_messages=max_messages,
            token_budget=token_budget,
        )
        # The newest message is what the user just said, where a window may always begin.
        messages, choice = _window(turn, max_messages, token_budget)
        return memory_pb2.BeginTurnResponse(
            conversation_id=str(conversation),
            version=turn.version,
            context=_context(turn, messages, choice),
            profile=_profile(turn.profile),
        )

    async def AppendMessages(
        self, request: memory_pb2.AppendMessagesRequest, context: Context
    ) -> memory_pb2.AppendMessagesResponse:
        conversation = content.conversation_id(request.conversation_id)
        content.check_appended(request.messages)
        version = await self._store.append(
            call_context.identity(),
            conversation,
            request.messages,
            request=_idempotency("AppendMessages", request),
            run_id=content.optional_id("run_id", request.run_id),
            expected_version=_expected(request),
        )
        return memory_pb2.AppendMessagesResponse(version=version)

    async def LoadContext(
        self, request: memory_pb2.LoadContextRequest, context: Context
    ) -> memory_pb2.LoadContextResponse:
        conversation = content.conversation_id(request.conversation_id)
        max_messages, token_budget = _limits(request.window)
        who = call_context.identity()
        turn = await self._store.head(
            who, conversation, limit=max_messages + 1, budget=token_budget
        )
        messages, choice = _window(turn, max_messages, token_budget)
        # The last exchange may be longer than the limits: then all of it is the window.
        for limit in _LIMITS:
            if choice.sound or len(turn.bodies) >= turn.version:
                break
            turn = await self._store.head(who, conversation, limit=limit, budget=_MAX_TOKENS)
            messages, choice = _window(turn, max_messages, token_budget)
        return memory_pb2.LoadContextResponse(
            version=turn.version,
            context=_context(turn, messages, choice),
            profile=_profile(turn.profile),
        )

    async def GetConversation(
        self, request: memory_pb2.GetConversationRequest, context: Context
    ) -> memory_pb2.GetConversationResponse:
        conversation = content.conversation_id(request.conversation_id)
        row = await self._store.conversation(call_context.identity(), conversation)
        return memory_pb2.GetConversationResponse(conversation=_conversation(row))

    async def ListConversations(
        self, request: memory_pb2.ListConversationsRequest, context: Context
    ) -> memory_pb2.ListConversationsResponse:
        size = pages.size(request.page_size)
        rows = await self._store.conversations(
            call_context.identity(),
            after=pages.read_conversation(request.page_token),
            limit=size + 1,
        )
        more = len(rows) > size
        last = rows[min(size, len(rows)) - 1] if more else None
        return memory_pb2.ListConversationsResponse(
            conversations=[_conversation(row) for row in rows[:size]],
            next_page_token=""
            if last is None
            else pages.after_conversation(last["update_time"], last["conversation_id"]),
        )

    async def ListMessages(
        self, request: memory_pb2.ListMessagesRequest, context: Context
    ) -> memory_pb2.ListMessagesResponse:
        conversation = content.conversation_id(request.conversation_id)
        size = pages.size(request.page_size)
        rows = await self._store.messages(
            call_context.identity(),
            conversation,
            after=pages.read_position(request.page_token),
            limit=size + 1,
        )
        more = len(rows) > size
        return memory_pb2.ListMessagesResponse(
            messages=[_stored(row) for row in rows[:size]],
            next_page_token=pages.after_position(rows[size - 1]["position"]) if more else "",
        )

    async def DeleteConversation(
        self, request: memory_pb2.DeleteConversationRequest, context: Context
    ) -> memory_pb2.DeleteConversationResponse:
        deleted = await self._store.delete_conversation(
            call_context.identity(),
            content.conversation_id(request.conversation_id),
            request=_idempotency("DeleteConversation", request),
        )
        return memory_pb2.DeleteConversationResponse(deleted=deleted)

    async def PutUserProfile(
        self, request: memory_pb2.PutUserProfileRequest, context: Context
    ) -> memory_pb2.PutUserProfileResponse:
        profile = await self._store.put_profile(
            call_context.identity(),
            content.profile(request.data.utf8),
            request=_idempotency("PutUserProfile", request),
            expected_version=_expected(request),
        )
        return memory_pb2.PutUserProfileResponse(profile=_profile(profile))

    async def GetUserProfile(
        self, request: memory_pb2.GetUserProfileRequest, context: Context
    ) -> memory_pb2.GetUserProfileResponse:
        profile = await self._store.profile(call_context.identity())
        return memory_pb2.GetUserProfileResponse(profile=_profile(profile))

    async def DeleteUser(
        self, request: memory_pb2.DeleteUserRequest, context: Context
    ) -> memory_pb2.DeleteUserResponse:
        deleted = await self._store.delete_user(
            call_context.identity(), request=_idempotency("DeleteUser", request)
        )
        return memory_pb2.DeleteUserResponse(deleted_conversations=deleted)


class _Mutation(Protocol):
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


def _idempotency(method: str, request: _Mutation) -> Request:
    request_id = content.optional_id("request_id", request.request_id)
    digest = hashlib.blake2b(method.encode(), digest_size=16)
    digest.update(request.SerializeToString(deterministic=True))
    return Request(id=request_id, digest=digest.digest())


def _expected(request: Any) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None


def _limits(asked: memory_pb2.ContextWindow) -> tuple[int, int]:
    """Messages besides the newest, and tokens."""
    if asked.max_messages > _MAX_MESSAGES:
        raise content.invalid("window.max_messages", f"is above {_MAX_MESSAGES}")
    if asked.token_budget > _MAX_TOKENS:
        raise content.invalid("window.token_budget", f"is above {_MAX_TOKENS}")
    return (
        asked.max_messages or window.DEFAULT_MESSAGES,
        asked.token_budget or window.DEFAULT_TOKENS,
    )


def _window(
    turn: Turn, max_messages: int, token_budget: int
) -> tuple[list[common_pb2.Message], Choice]:
    """The chosen messages, oldest first. Reads no message that does not matter."""
    read: list[common_pb2.Message] = []

    def entries() -> Iterator[Entry]:
        for body, tokens in zip(turn.bodies, turn.tokens, strict=True):
            message = common_pb2.Message.FromString(body)
            read.append(message)
            yield content.entry(message, tokens)

    choice = window.choose(entries(), max_messages=max_messages, token_budget=token_budget)
    return read[: choice.count][::-1], choice


def _context(
    turn: Turn, messages: Sequence[common_pb2.Message], choice: Choice
) -> memory_pb2.Context:
    return memory_pb2.Context(
        messages=messages, tokens=choice.tokens, omitted_messages=turn.version - choice.count
    )


def _profile(profile: Profile) -> memory_pb2.UserProfile:
    return memory_pb2.UserProfile(
        data=common_pb2.Json(utf8=profile.data),
        version=profile.version,
        update_time=profile.update_time,
    )


def _conversation(row: Record) -> memory_pb2.Conversation:
    return memory_pb2.Conversation(
        conversation_id=str(row["conversation_id"]),
        title=row["title"],
        agent_id=row["agent_id"],
        version=row["version"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _stored(row: Record) -> memory_pb2.StoredMessage:
    return memory_pb2.StoredMessage(
        position=row["position"],
        message=common_pb2.Message.FromString(row["body"]),
        create_time=row["create_time"],
        run_id=row["run_id"],
        tokens=row["tokens"],
    )
