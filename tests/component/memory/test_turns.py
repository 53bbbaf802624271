"""BeginTurn, AppendMessages and LoadContext, over gRPC and PostgreSQL."""

import asyncio
import uuid

import grpc
import grpc.aio
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2
from peregrine.kit.errors import from_rpc_error
from tests.component.memory.conftest import As

USER, ASSISTANT = common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT


def new_id() -> str:
    return str(uuid.uuid4())


def text(role: common_pb2.Role, words: str) -> common_pb2.Message:
    return common_pb2.Message(role=role, content=[common_pb2.ContentBlock(text=words)])


def call(call_id: str) -> common_pb2.Message:
    use = common_pb2.ToolUse(
        call_id=call_id, tool="calculator", arguments=common_pb2.Json(utf8=b"{}")
    )
    return common_pb2.Message(role=ASSISTANT, content=[common_pb2.ContentBlock(tool_use=use)])


def outcome(call_id: str) -> common_pb2.Message:
    result = common_pb2.ToolOutcome(call_id=call_id, content=[common_pb2.ContentBlock(text="425")])
    return common_pb2.Message(role=USER, content=[common_pb2.ContentBlock(tool_outcome=result)])


def said(context: memory_pb2.Context) -> list[str]:
    return [block.text for message in context.messages for block in message.content]


def turn(conversation: str, message: str, **fields: object) -> memory_pb2.BeginTurnRequest:
    return memory_pb2.BeginTurnRequest(
        conversation_id=conversation,
        message=message,
        **{"create_conversation": True, **fields},  # type: ignore[arg-type] # by name
    )


async def reason(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc] # any call of a stub
    return caught.value.code(), from_rpc_error(caught.value).reason


async def test_a_first_turn_creates_the_conversation_and_shows_the_message(ada: As) -> None:
    conversation = new_id()
    begun = await ada.BeginTurn(
        turn(conversation, "What do our docs say about refunds?", agent_id="assistant")
    )
    assert (begun.conversation_id, begun.version) == (conversation, 1)
    assert said(begun.context) == ["What do our docs say about refunds?"]
    assert begun.context.omitted_messages == 0
    assert (begun.profile.data.utf8, begun.profile.version) == (b"{}", 0)

    got = await ada.GetConversation(memory_pb2.GetConversationRequest(conversation_id=conversation))
    assert got.conversation.title == "What do our docs say about refunds?"
    assert got.conversation.agent_id == "assistant"
    assert got.conversation.version == 1


async def test_a_turn_sees_what_was_appended_and_the_profile(ada: As) -> None:
    conversation = new_id()
    await ada.PutUserProfile(
        memory_pb2.PutUserProfileRequest(data=common_pb2.Json(utf8=b'{"name": "Ada"}'))
    )
    await ada.BeginTurn(turn(conversation, "one"))
    appended = await ada.AppendMessages(
        memory_pb2.AppendMessagesRequest(
            conversation_id=conversation,
            messages=[call("a"), outcome("a"), text(ASSISTANT, "two")],
            expected_version=1,
        )
    )
    assert appended.version == 4
    begun = await ada.BeginTurn(turn(conversation, "three", create_conversation=False))
    assert begun.version == 5
    assert [block.text for block in begun.context.messages[3].content] == ["two"]
    assert len(begun.context.messages) == 5
    assert begun.profile.data.utf8 == b'{"name": "Ada"}'
    assert begun.profile.version == 1


async def test_the_window_keeps_to_its_limits_and_counts_what_it_leaves_out(ada: As) -> None:
    conversation = new_id()
    for number in range(6):
        await ada.BeginTurn(turn(conversation, f"question {number}"))
        await ada.AppendMessages(
            memory_pb2.AppendMessagesRequest(
                conversation_id=conversation, messages=[text(ASSISTANT, f"answer {number}")]
            )
        )
    few = await ada.BeginTurn(
        turn(conversation, "now", window=memory_pb2.ContextWindow(max_messages=3))
    )
    # Three besides the newest would begin with an answer.
    assert said(few.context) == ["question 5", "answer 5", "now"]
    assert few.context.omitted_messages == 10
    tight = await ada.LoadContext(
        memory_pb2.LoadContextRequest(
            conversation_id=conversation, window=memory_pb2.ContextWindow(token_budget=1)
        )
    )
    assert said(tight.context) == ["now"]


async def test_loading_a_context_never_cuts_the_last_exchange(ada: As) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "go"))
    steps = [
        message for number in range(40) for message in (call(f"c{number}"), outcome(f"c{number}"))
    ]
    await ada.AppendMessages(
        memory_pb2.AppendMessagesRequest(conversation_id=conversation, messages=steps)
    )
    loaded = await ada.LoadContext(
        memory_pb2.LoadContextRequest(
            conversation_id=conversation,
            window=memory_pb2.ContextWindow(max_messages=2, token_budget=5),
        )
    )
    assert len(loaded.context.messages) == 81
    assert loaded.context.omitted_messages == 0


async def test_the_same_request_is_answered_the_same_again_and_changes_nothing(ada: As) -> None:
    conversation = new_id()
    first = await ada.BeginTurn(turn(conversation, "hello", request_id="r1"))
    await ada.AppendMessages(
        memory_pb2.AppendMessagesRequest(
            conversation_id=conversation, messages=[text(ASSISTANT, "hi")], request_id="r1:end"
        )
    )
    assert await ada.BeginTurn(turn(conversation, "hello", request_id="r1")) == first
    again = await ada.AppendMessages(
        memory_pb2.AppendMessagesRequest(
            conversation_id=conversation, messages=[text(ASSISTANT, "hi")], request_id="r1:end"
        )
    )
    assert again.version == 2
    listed = await ada.ListMessages(memory_pb2.ListMessagesRequest(conversation_id=conversation))
    assert [each.position for each in listed.messages] == [1, 2]


async def test_a_request_id_with_another_body_is_refused_and_changes_nothing(ada: As) -> None:
    conversation, other = new_id(), new_id()
    await ada.BeginTurn(turn(conversation, "hello", request_id="r1"))
    refused = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert await reason(ada.BeginTurn(turn(conversation, "bye", request_id="r1"))) == refused
    assert await reason(ada.BeginTurn(turn(other, "hello", request_id="r1"))) == refused
    missing = ada.GetConversation(memory_pb2.GetConversationRequest(conversation_id=other))
    assert await reason(missing) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_twin_requests_at_the_same_time_append_once(ada: As) -> None:
    conversation = new_id()
    answers = await asyncio.gather(
        *(ada.BeginTurn(turn(conversation, "hello", request_id="r1")) for _ in range(12))
    )
    assert {answer.version for answer in answers} == {1}


async def test_concurrent_appends_get_gapless_positions(ada: As) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "start"))
    versions = await asyncio.gather(
        *(
            ada.AppendMessages(
                memory_pb2.AppendMessagesRequest(
                    conversation_id=conversation,
                    messages=[text(USER, f"{number}"), text(ASSISTANT, f"{number}")],
                )
            )
            for number in range(30)
        )
    )
    assert sorted(answer.version for answer in versions) == list(range(3, 62, 2))
    listed = await ada.ListMessages(
        memory_pb2.ListMessagesRequest(conversation_id=conversation, page_size=200)
    )
    assert [each.position for each in listed.messages] == list(range(1, 62))
    words = [each.message.content[0].text for each in listed.messages[1:]]
    assert words[::2] == words[1::2], "an append was interleaved with another"


async def test_a_stale_version_is_refused(ada: As) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "one", expected_version=0))
    stale = (grpc.StatusCode.ABORTED, "VERSION_STALE")
    assert await reason(ada.BeginTurn(turn(conversation, "two", expected_version=0))) == stale
    appending = memory_pb2.AppendMessagesRequest(
        conversation_id=conversation, messages=[text(ASSISTANT, "x")], expected_version=7
    )
    assert await reason(ada.AppendMessages(appending)) == stale


async def test_nobody_reaches_the_conversation_of_another(ada: As, bob: As, other_ada: As) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "mine"))
    missing = (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")
    for stranger in (bob, other_ada):
        for attempt in (
            stranger.GetConversation(
                memory_pb2.GetConversationRequest(conversation_id=conversation)
            ),
            stranger.ListMessages(memory_pb2.ListMessagesRequest(conversation_id=conversation)),
            stranger.LoadContext(memory_pb2.LoadContextRequest(conversation_id=conversation)),
            stranger.BeginTurn(turn(conversation, "?", create_conversation=False)),
            stranger.AppendMessages(
                memory_pb2.AppendMessagesRequest(
                    conversation_id=conversation, messages=[text(USER, "?")]
                )
            ),
        ):
            assert await reason(attempt) == missing
        # The id alone gives nothing away: with it a stranger creates a conversation of their own.
        own = await stranger.BeginTurn(turn(conversation, "theirs"))
        assert said(own.context) == ["theirs"]
    mine = await ada.LoadContext(memory_pb2.LoadContextRequest(conversation_id=conversation))
    assert said(mine.context) == ["mine"]


BAD_TURNS = [
    (turn("nonsense", "hi"), "REQUEST_INVALID"),
    (turn("", "hi"), "REQUEST_INVALID"),
    (turn(new_id(), ""), "MESSAGE_EMPTY"),
    (turn(new_id(), " \n\t"), "MESSAGE_EMPTY"),
    (turn(new_id(), "x" * (256 * 1024 + 1)), "MESSAGE_TOO_LONG"),
    (turn(new_id(), "€" * 90_000), "MESSAGE_TOO_LONG"),
    (turn(new_id(), "hi", request_id="with blank"), "REQUEST_INVALID"),
    (turn(new_id(), "hi", request_id="x" * 129), "REQUEST_INVALID"),
    (
        turn(new_id(), "hi", window=memory_pb2.ContextWindow(max_messages=1_001)),
        "REQUEST_INVALID",
    ),
]


async def test_a_bad_turn_is_refused_with_a_reason(ada: As, subtests: pytest.Subtests) -> None:
    for request_, expected in BAD_TURNS:
        with subtests.test(request_=repr(request_)[:60]):
            assert await reason(ada.BeginTurn(request_)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                expected,
            )


GOOD_TEXTS = ["x" * 256 * 1024, "a\x00b", "👩‍🚀 grüß €"]


async def test_any_text_within_the_limit_comes_back_as_it_was(
    ada: As, subtests: pytest.Subtests
) -> None:
    for message in GOOD_TEXTS:
        with subtests.test(message=repr(message)[:60]):
            begun = await ada.BeginTurn(turn(new_id(), message))
            assert said(begun.context) == [message]


BAD_APPENDS = [
    ([], "REQUEST_INVALID"),
    ([text(USER, "x")] * 257, "REQUEST_INVALID"),
    ([text(common_pb2.ROLE_UNSPECIFIED, "x")], "REQUEST_INVALID"),
    ([text(USER, "")], "MESSAGE_EMPTY"),
    ([common_pb2.Message(role=USER)], "MESSAGE_EMPTY"),
    (
        [
            common_pb2.Message(
                role=USER,
                content=[common_pb2.ContentBlock(text="x"), common_pb2.ContentBlock()],
            )
        ],
        "REQUEST_INVALID",
    ),
    ([text(USER, "x" * (8 * 1024 * 1024 + 1))], "MESSAGE_TOO_LONG"),
]


async def test_a_bad_append_is_refused_with_a_reason_and_appends_nothing(
    ada: As, subtests: pytest.Subtests
) -> None:
    for messages, expected in BAD_APPENDS:
        with subtests.test(messages=repr(messages)[:60]):
            conversation = new_id()
            await ada.BeginTurn(turn(conversation, "start"))
            request = memory_pb2.AppendMessagesRequest(
                conversation_id=conversation, messages=messages
            )
            assert await reason(ada.AppendMessages(request)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                expected,
            )
            got = await ada.GetConversation(
                memory_pb2.GetConversationRequest(conversation_id=conversation)
            )
            assert got.conversation.version == 1


async def test_a_conversation_that_is_not_there_is_not_made_unless_asked(ada: As) -> None:
    attempt = ada.BeginTurn(turn(new_id(), "hi", create_conversation=False))
    assert await reason(attempt) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")
