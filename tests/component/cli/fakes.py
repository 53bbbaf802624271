"""Small stateful stand-ins for the memory, tool and cache services, over real gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2, memory_pb2_grpc
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit.errors import NotFound, Unimplemented
from tests.support.fake_orchestrator import CONVERSATION, serving


class FakeMemory(memory_pb2_grpc.MemoryServiceServicer):
    """One conversation of three messages, one profile."""

    def __init__(self) -> None:
        self.conversations = {
            CONVERSATION: memory_pb2.Conversation(
                conversation_id=CONVERSATION, title="What is 25 * 17?", agent_id="assistant"
            )
        }
        self.conversations[CONVERSATION].version = 3
        self.messages = [
            memory_pb2.StoredMessage(
                position=position, message=common_pb2.Message(role=role, content=[block])
            )
            for position, (role, block) in enumerate(
                (
                    (common_pb2.ROLE_USER, common_pb2.ContentBlock(text="What is 25 * 17?")),
                    (
                        common_pb2.ROLE_ASSISTANT,
                        common_pb2.ContentBlock(
                            tool_use=common_pb2.ToolUse(
                                call_id="a",
                                tool="calculator",
                                arguments=common_pb2.Json(utf8=b'{"expression":"25 * 17"}'),
                            )
                        ),
                    ),
                    (common_pb2.ROLE_ASSISTANT, common_pb2.ContentBlock(text="425")),
                ),
                start=1,
            )
        ]
        self.profile = memory_pb2.UserProfile()

    async def ListConversations(
        self, request: memory_pb2.ListConversationsRequest, context: Any
    ) -> memory_pb2.ListConversationsResponse:
        return memory_pb2.ListConversationsResponse(conversations=list(self.conversations.values()))

    async def GetConversation(
        self, request: memory_pb2.GetConversationRequest, context: Any
    ) -> memory_pb2.GetConversationResponse:
        found = self.conversations.get(request.conversation_id)
        if found is None:
            raise NotFound("there is no such conversation", reason="CONVERSATION_NOT_FOUND")
        return memory_pb2.GetConversationResponse(conversation=found)

    async def ListMessages(
        self, request: memory_pb2.ListMessagesRequest, context: Any
    ) -> memory_pb2.ListMessagesResponse:
        return memory_pb2.ListMessagesResponse(messages=self.messages)

    async def DeleteConversation(
        self, request: memory_pb2.DeleteConversationRequest, context: Any
    ) -> memory_pb2.DeleteConversationResponse:
        deleted = self.conversations.pop(request.conversation_id, None) is not None
        return memory_pb2.DeleteConversationResponse(deleted=deleted)

    async def GetUserProfile(
        self, request: memory_pb2.GetUserProfileRequest, context: Any
    ) -> memory_pb2.GetUserProfileResponse:
        return memory_pb2.GetUserProfileResponse(profile=self.profile)

    async def PutUserProfile(
        self, request: memory_pb2.PutUserProfileRequest, context: Any
    ) -> memory_pb2.PutUserProfileResponse:
        self.profile = memory_pb2.UserProfile(data=request.data, version=self.profile.version + 1)
        return memory_pb2.PutUserProfileResponse(profile=self.profile)


class FakeTools(tools_pb2_grpc.ToolServiceServicer):
    """A calculator that knows one product; `takes_tools` makes it a registry."""

    def __init__(self) -> None:
        self.takes_tools = False
        self.tools = {
            "calculator": tools_pb2.RegisteredTool(
                tool=tools_pb2.Tool(
                    name="calculator",
                    description="Works out\narithmetic.",
                    effect=common_pb2.EFFECT_PURE,
                    builtin=tools_pb2.BuiltinBackend(),
                ),
                version=1,
                builtin=True,
            )
        }

    async def ListTools(
        self, request: tools_pb2.ListToolsRequest, context: Any
    ) -> tools_pb2.ListToolsResponse:
        names = list(request.names) or sorted(self.tools)
        found = [self.tools[name] for name in names if name in self.tools]
        return tools_pb2.ListToolsResponse(tools=found)

    async def ApplyTool(
        self, request: tools_pb2.ApplyToolRequest, context: Any
    ) -> tools_pb2.ApplyToolResponse:
        if not self.takes_tools:
            raise Unimplemented("not built", reason="METHOD_NOT_IMPLEMENTED")
        known = self.tools.get(request.tool.name)
        if known is None or known.tool != request.tool:
            version = known.version + 1 if known else 1
            known = tools_pb2.RegisteredTool(tool=request.tool, version=version)
            known.create_time.GetCurrentTime()
            self.tools[request.tool.name] = known
        return tools_pb2.ApplyToolResponse(tool=known)

    async def ExecuteTool(
        self, request: tools_pb2.ExecuteToolRequest, context: Any
    ) -> tools_pb2.ExecuteToolResponse:
        call = request.call
        result = tools_pb2.ToolResult(call_id=call.call_id, tool=call.tool)
        if call.tool in self.tools:
            assert call.arguments.utf8 == b'{"expression": "25 * 17"}'
            assert call.idempotency_key
            result.status = tools_pb2.TOOL_STATUS_SUCCEEDED
            result.content.add(text="425")
            result.execution_time.FromMicroseconds(420)
        else:
            result.status = tools_pb2.TOOL_STATUS_FAILED
            result.error.reason = "TOOL_NOT_FOUND"
            result.error.message = "there is no such tool"
        return tools_pb2.ExecuteToolResponse(result=result)


class FakeCache(cache_pb2_grpc.CacheServiceServicer):
    """Policies by namespace."""

    def __init__(self) -> None:
        self.policies: dict[str, cache_pb2.Policy] = {}

    async def GetPolicy(
        self, request: cache_pb2.GetPolicyRequest, context: Any
    ) -> cache_pb2.GetPolicyResponse:
        if request.namespace not in self.policies:
            raise NotFound("there is no such policy", reason="POLICY_NOT_FOUND")
        return cache_pb2.GetPolicyResponse(policy=self.policies[request.namespace])

    async def ApplyPolicy(
        self, request: cache_pb2.ApplyPolicyRequest, context: Any
    ) -> cache_pb2.ApplyPolicyResponse:
        policy = cache_pb2.Policy()
        policy.CopyFrom(request.policy)
        policy.version = 1
        self.policies[policy.namespace] = policy
        return cache_pb2.ApplyPolicyResponse(policy=policy)


class Neighbours:
    """The three together behind one address."""

    def __init__(self) -> None:
        self.memory = FakeMemory()
        self.tools = FakeTools()
        self.cache = FakeCache()
        self.target = ""


@asynccontextmanager
async def neighbours() -> AsyncIterator[Neighbours]:
    fakes = Neighbours()
    servicers = (
        (memory_pb2_grpc.add_MemoryServiceServicer_to_server, fakes.memory),
        (tools_pb2_grpc.add_ToolServiceServicer_to_server, fakes.tools),
        (cache_pb2_grpc.add_CacheServiceServicer_to_server, fakes.cache),
    )
    async with serving(servicers) as target:
        fakes.target = target
        yield fakes
