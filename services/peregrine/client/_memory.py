"""Conversations and the user's profile: the client of memory."""

from collections.abc import AsyncGenerator
from typing import ClassVar

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2 as pb
from peregrine.api.memory.v1 import memory_pb2_grpc as pb_grpc
from peregrine.client._connection import (
    ServiceClient,
    new_request_id,
    unary_methods,
)
from peregrine.kit.channel import ChannelPool


class MemoryClient(ServiceClient):
    """Reads and deletes conversations, reads and replaces the user's profile.

    An `api_key` needs an `exchange` (an `Exchange` with an orchestrator): memory takes identities.
    """

    name: ClassVar[str] = "memory"
    local: ClassVar[str] = "127.0.0.1:50055"

    def _bind(self, pool: ChannelPool) -> None:
        self._memory = pb_grpc.MemoryServiceStub(pool)

    def _idempotent(self) -> frozenset[str]:
        return unary_methods(pb.DESCRIPTOR.services_by_name["MemoryService"])

    async def get_conversation(self, conversation_id: str) -> pb.Conversation:
        """Raises NotFound / CONVERSATION_NOT_FOUND."""
        request = pb.GetConversationRequest(conversation_id=conversation_id)
        response = await self._call(self._memory.GetConversation, request)
        conversation: pb.Conversation = response.conversation
        return conversation

    def list_conversations(
        self, *, limit: int | None = None
    ) -> AsyncGenerator[pb.Conversation, None]:
        """The user's conversations, the one changed last first."""
        request = pb.ListConversationsRequest()
        return self._list(self._memory.ListConversations, request, "conversations", limit)

    async def page_of_conversations(
        self, *, page_size: int = 0, page_token: str = ""
    ) -> pb.ListConversationsResponse:
        """One page of `list_conversations`, with the token of the next."""
        request = pb.ListConversationsRequest(page_size=page_size, page_token=page_token)
        response: pb.ListConversationsResponse = await self._call(
            self._memory.ListConversations, request
        )
        return response

    def list_messages(
        self, conversation_id: str, *, limit: int | None = None
    ) -> AsyncGenerator[pb.StoredMessage, None]:
        """The messages of a conversation, oldest first."""
        request = pb.ListMessagesRequest(conversation_id=conversation_id)
        return self._list(self._memory.ListMessages, request, "messages", limit)

    async def page_of_messages(
        self, conversation_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> pb.ListMessagesResponse:
        """One page of `list_messages`, with the token of the next."""
        request = pb.ListMessagesRequest(
            conversation_id=conversation_id, page_size=page_size, page_token=page_token
        )
        response: pb.ListMessagesResponse = await self._call(self._memory.ListMessages, request)
        return response

    async def delete_conversation(
        self, conversation_id: str, *, request_id: str | None = None
    ) -> bool:
        """Deletes a conversation with all it holds; False when there was none."""
        request = pb.DeleteConversationRequest(
            conversation_id=conversation_id, request_id=request_id or new_request_id()
        )
        response = await self._call(self._memory.DeleteConversation, request)
        return bool(response.deleted)

    async def get_user_profile(self) -> pb.UserProfile:
        """The user's profile; empty, at version 0, when there is none."""
        response = await self._call(self._memory.GetUserProfile, pb.GetUserProfileRequest())
        profile: pb.UserProfile = response.profile
        return profile

    async def put_user_profile(
        self,
        data: bytes,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
    ) -> pb.UserProfile:
        """Replaces the user's profile by a JSON object of at most 64 KiB, as UTF-8.

        Raises:
          InvalidArgument: PROFILE_INVALID or PROFILE_TOO_LARGE. Aborted: VERSION_STALE.
        """
        request = pb.PutUserProfileRequest(
            data=common_pb2.Json(utf8=data), request_id=request_id or new_request_id()
        )
        if expected_version is not None:
            request.expected_version = expected_version
        response = await self._call(self._memory.PutUserProfile, request)
        profile: pb.UserProfile = response.profile
        return profile
