"""Lists, profiles, deletion, expiry, over gRPC and PostgreSQL."""

import uuid

import grpc
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2
from peregrine.kit.background import Failures
from peregrine.kit.postgres import ALL_TENANTS, Database
from peregrine.memory.expiry import Expiry
from peregrine.memory.store import Store
from tests.component.memory.conftest import As
from tests.component.memory.test_turns import new_id, reason, text, turn

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


def put(data: bytes, **fields: object) -> memory_pb2.PutUserProfileRequest:
    return memory_pb2.PutUserProfileRequest(
        data=common_pb2.Json(utf8=data),
        **fields,  # type: ignore[arg-type] # by name
    )


async def test_conversations_are_listed_the_one_changed_last_first(ada: As, bob: As) -> None:
    made = [new_id() for _ in range(7)]
    for number, conversation in enumerate(made):
        await ada.BeginTurn(turn(conversation, f"number {number}"))
    await bob.BeginTurn(turn(new_id(), "not hers"))
    await ada.BeginTurn(turn(made[0], "again"))
    expected = [made[0], *reversed(made[1:])]
    seen: list[str] = []
    token = ""
    while True:
        page = await ada.ListConversations(
            memory_pb2.ListConversationsRequest(page_size=3, page_token=token)
        )
        seen += [each.conversation_id for each in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert seen == expected
    assert (
        await ada.ListConversations(memory_pb2.ListConversationsRequest())
    ).next_page_token == ""


async def test_messages_are_listed_page_by_page(ada: As) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "0", run_id="run-1"))
    await ada.AppendMessages(
        memory_pb2.AppendMessagesRequest(
            conversation_id=conversation,
            messages=[text(common_pb2.ROLE_ASSISTANT, f"{number}") for number in range(1, 6)],
        )
    )
    seen: list[memory_pb2.StoredMessage] = []
    token = ""
    for _ in range(3):
        page = await ada.ListMessages(
            memory_pb2.ListMessagesRequest(
                conversation_id=conversation, page_size=2, page_token=token
            )
        )
        seen += page.messages
        token = page.next_page_token
    assert token == ""
    assert [each.message.content[0].text for each in seen] == [f"{number}" for number in range(6)]
    assert (seen[0].run_id, seen[1].run_id) == ("run-1", "")
    assert all(each.tokens == 5 and each.HasField("create_time") for each in seen)


INVENTED_TOKENS = ["nonsense", "bQ", "////"]


async def test_an_invented_page_token_is_refused(ada: As, subtests: pytest.Subtests) -> None:
    for token in INVENTED_TOKENS:
        with subtests.test(token=repr(token)[:60]):
            refused = (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
            conversations = memory_pb2.ListConversationsRequest(page_token=token)
            assert await reason(ada.ListConversations(conversations)) == refused
            messages = memory_pb2.ListMessagesRequest(conversation_id=new_id(), page_token=token)
            assert await reason(ada.ListMessages(messages)) == refused


async def test_a_profile_is_kept_byte_for_byte_and_counts_its_versions(ada: As, bob: As) -> None:
    data = b'{ "b": 9007199254740993, "a": 1.0 }'
    first = await ada.PutUserProfile(put(data, expected_version=0))
    assert (first.profile.data.utf8, first.profile.version) == (data, 1)
    second = await ada.PutUserProfile(put(b"{}", expected_version=1))
    assert second.profile.version == 2
    stale = (grpc.StatusCode.ABORTED, "VERSION_STALE")
    assert await reason(ada.PutUserProfile(put(data, expected_version=1))) == stale
    got = await ada.GetUserProfile(memory_pb2.GetUserProfileRequest())
    assert (got.profile.data.utf8, got.profile.version) == (b"{}", 2)
    nobodys = await bob.GetUserProfile(memory_pb2.GetUserProfileRequest())
    assert (nobodys.profile.data.utf8, nobodys.profile.version) == (b"{}", 0)


async def test_putting_a_profile_again_with_its_request_id_changes_nothing(ada: As) -> None:
    first = await ada.PutUserProfile(put(b'{"n": 1}', request_id="p1"))
    await ada.PutUserProfile(put(b'{"n": 2}', request_id="p2"))
    assert await ada.PutUserProfile(put(b'{"n": 1}', request_id="p1")) == first
    got = await ada.GetUserProfile(memory_pb2.GetUserProfileRequest())
    assert (got.profile.data.utf8, got.profile.version) == (b'{"n": 2}', 2)
    reused = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert await reason(ada.PutUserProfile(put(b'{"n": 3}', request_id="p1"))) == reused


BAD_PROFILES = [
    (b"", "PROFILE_INVALID"),
    (b"[]", "PROFILE_INVALID"),
    (b"{", "PROFILE_INVALID"),
    (b'{"a": "\xff"}', "PROFILE_INVALID"),
    (b'{"a": "' + b"x" * 65_536 + b'"}', "PROFILE_TOO_LARGE"),
]


async def test_a_bad_profile_is_refused_with_a_reason(ada: As, subtests: pytest.Subtests) -> None:
    for data, expected in BAD_PROFILES:
        with subtests.test(data=repr(data)[:60]):
            assert await reason(ada.PutUserProfile(put(data))) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                expected,
            )


async def test_a_deleted_conversation_is_gone_with_its_messages(
    ada: As, bob: As, database: Database
) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "secret", request_id="t1"))
    delete = memory_pb2.DeleteConversationRequest(conversation_id=conversation)
    assert not (await bob.DeleteConversation(delete)).deleted
    delete.request_id = "d1"
    assert (await ada.DeleteConversation(delete)).deleted
    assert (await ada.DeleteConversation(delete)).deleted, "the first outcome, told again"
    delete.request_id = ""
    assert not (await ada.DeleteConversation(delete)).deleted
    got = ada.GetConversation(memory_pb2.GetConversationRequest(conversation_id=conversation))
    assert await reason(got) == NOT_FOUND
    async with database.transaction("acme", user="ada") as conn:
        assert await conn.fetchval("left", "SELECT count(*) FROM memory.messages") == 0
    # The turn that was answered before does not bring it back.
    assert await reason(ada.BeginTurn(turn(conversation, "secret", request_id="t1"))) == NOT_FOUND
    got = ada.GetConversation(memory_pb2.GetConversationRequest(conversation_id=conversation))
    assert await reason(got) == NOT_FOUND


async def test_deleting_a_user_leaves_nothing_of_theirs_and_all_of_others(
    ada: As, bob: As, other_ada: As, database: Database
) -> None:
    for caller in (ada, bob, other_ada):
        for _ in range(3):
            await caller.BeginTurn(turn(new_id(), "hello", request_id=new_id()))
        await caller.PutUserProfile(put(b'{"name": "x"}'))
    request = memory_pb2.DeleteUserRequest(request_id="bye")
    assert (await ada.DeleteUser(request)).deleted_conversations == 3
    assert (await ada.DeleteUser(request)).deleted_conversations == 3
    assert (await ada.DeleteUser(memory_pb2.DeleteUserRequest())).deleted_conversations == 0
    for table in ("conversations", "messages", "profiles", "requests"):
        async with database.transaction("acme", user="ada") as conn:
            assert await conn.fetchval("left", f"SELECT count(*) FROM memory.{table}") == 0
    for caller in (bob, other_ada):
        listed = await caller.ListConversations(memory_pb2.ListConversationsRequest())
        assert len(listed.conversations) == 3
        profile = await caller.GetUserProfile(memory_pb2.GetUserProfileRequest())
        assert profile.profile.version == 1


async def test_rows_show_themselves_to_their_user_only(
    ada: As, bob: As, database: Database
) -> None:
    await ada.BeginTurn(turn(new_id(), "hello", request_id="r"))
    await ada.PutUserProfile(put(b"{}"))
    seen = {}
    for who in (("acme", "ada"), ("acme", "bob"), ("umbrella", "ada"), (ALL_TENANTS, None)):
        async with database.transaction(who[0], user=who[1]) as conn:
            seen[who] = [
                await conn.fetchval("count", f"SELECT count(*) FROM memory.{table}")
                for table in ("conversations", "messages", "profiles", "requests")
            ]
    assert seen.pop(("acme", "ada")) == [1, 1, 1, 1]
    # Whoever looks after everybody sees request ids, which is what expires.
    assert seen.pop((ALL_TENANTS, None)) == [0, 0, 0, 1]
    assert set(map(tuple, seen.values())) == {(0, 0, 0, 0)}


async def test_a_request_id_is_free_again_after_a_day(ada: As, bob: As, database: Database) -> None:
    conversation = new_id()
    await ada.BeginTurn(turn(conversation, "one", request_id="daily"))
    await bob.BeginTurn(turn(new_id(), "one", request_id="daily"))
    await ada.BeginTurn(turn(conversation, "young", request_id="young"))
    async with database.transaction(ALL_TENANTS) as conn:
        await conn.execute(
            "age",
            "UPDATE memory.requests SET create_time = create_time - interval '25 hours' "
            "WHERE request_id = 'daily'",
        )
    # Late to be swept, and new all the same.
    assert (await ada.BeginTurn(turn(conversation, "two", request_id="daily"))).version == 3
    expiry = Expiry(store=Store(database), interval=600, failures=Failures().of("expiry"))
    assert await expiry.sweep() == 1
    assert await expiry.sweep() == 0
    async with database.transaction(ALL_TENANTS) as conn:
        left = await conn.fetch("left", "SELECT request_id FROM memory.requests ORDER BY 1")
    assert [row["request_id"] for row in left] == ["daily", "young"]


async def test_an_unknown_conversation_is_not_found_everywhere(ada: As) -> None:
    unknown = str(uuid.uuid4())
    for attempt in (
        ada.GetConversation(memory_pb2.GetConversationRequest(conversation_id=unknown)),
        ada.ListMessages(memory_pb2.ListMessagesRequest(conversation_id=unknown)),
        ada.LoadContext(memory_pb2.LoadContextRequest(conversation_id=unknown)),
    ):
        assert await reason(attempt) == NOT_FOUND
