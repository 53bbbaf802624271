"""Titles, words, estimated tokens, page tokens."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.kit.errors import InvalidArgument
from peregrine.memory import content, pages


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Hello", "Hello"),
        ("  two\n lines\tand  blanks ", "two lines and blanks"),
        (
            "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?",
            "What is 25 * 17, what time is it in UTC, and what do our…",
        ),
        ("x" * 80, "x" * 59 + "…"),
        ("nul\x00byte", "nul byte"),
        ("ö" * 60, "ö" * 60),
    ],
)
def test_a_title_is_the_first_words(message: str, title: str) -> None:
    assert content.title(message) == title
    assert len(title) <= content.MAX_TITLE_CHARACTERS


def test_tokens_are_a_quarter_of_what_the_model_reads() -> None:
    message = common_pb2.Message(
        role=common_pb2.ROLE_ASSISTANT,
        content=[
            common_pb2.ContentBlock(text="12345678"),
            common_pb2.ContentBlock(text="€€€€"),
            common_pb2.ContentBlock(
                tool_use=common_pb2.ToolUse(
                    call_id="ignored", tool="abcd", arguments=common_pb2.Json(utf8=b"{ 1 }")
                )
            ),
            common_pb2.ContentBlock(
                tool_outcome=common_pb2.ToolOutcome(
                    call_id="ignored", content=[common_pb2.ContentBlock(text="1234")]
                )
            ),
            common_pb2.ContentBlock(opaque=common_pb2.Json(utf8=b"12345678")),
        ],
    )
    assert content.estimate_tokens(message) == 4 + -(-(8 + 12 + 9 + 4 + 8) // 4)
    assert content.estimate_tokens(content.user_message("a")) == 5


def test_the_words_of_a_message_are_its_texts_and_those_of_outcomes() -> None:
    message = common_pb2.Message(
        content=[
            common_pb2.ContentBlock(text="a\x00b"),
            common_pb2.ContentBlock(
                tool_outcome=common_pb2.ToolOutcome(content=[common_pb2.ContentBlock(text="c")])
            ),
            common_pb2.ContentBlock(opaque=common_pb2.Json(utf8=b'{"type": "image"}')),
        ]
    )
    assert content.words(message) == "a b\nc"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{123e4567-e89b-42d3-a456-426614174000}",
        "123e4567e89b42d3a456426614174000",
        "é" * 36,
    ],
)
def test_only_a_uuid_in_its_usual_form_names_a_conversation(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        content.conversation_id(text)
    assert caught.value.reason == "REQUEST_INVALID"
    identifier = uuid4()
    assert content.conversation_id(str(identifier).upper()) == identifier


def test_page_tokens_give_back_their_key() -> None:
    key = (datetime(2026, 11, 5, 12, 30, 1, 123_456, tzinfo=UTC), uuid4())
    assert pages.read_conversation(pages.after_conversation(*key)) == key
    assert pages.read_position(pages.after_position(2**40)) == 2**40
    assert pages.read_position("") == 0


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "!!!!",
        "é",
        pages.after_position(5),
        pages.after_conversation(datetime(2026, 11, 22, tzinfo=UTC), UUID(int=1))[:-4],
        "Y/////////////////////////////////",
    ],
)
def test_a_token_of_another_list_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pages.read_conversation(token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_conversations_token_is_no_position() -> None:
    with pytest.raises(InvalidArgument):
        pages.read_position(pages.after_conversation(datetime.now(UTC), UUID(int=1)))
    with pytest.raises(InvalidArgument):
        pages.size(201)
    assert (pages.size(0), pages.size(200)) == (50, 200)
