"""What is in a message: its limits, its words, its estimated tokens, its tool calls.

Tokens are estimated as a quarter of the UTF-8 bytes of what the model reads, rounded up, and four
more per message for its frame. For English prose that is the usual "four characters a token"; for
scripts of three bytes a character it is three quarters of a token each, which is near, too. An
estimate is enough: it bounds the window, the provider counts what is billed.
"""

import re
from collections.abc import Iterator, Sequence
from uuid import UUID

import orjson

from peregrine.api.common.v1 import common_pb2
from peregrine.kit.errors import InvalidArgument
from peregrine.memory.window import Entry

MAX_USER_TEXT_BYTES = 256 * 1024
# Of a message that is appended: outcomes of several tools at 1 MiB each come in one message.
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_APPENDED = 256
MAX_PROFILE_BYTES = 64 * 1024
MAX_TITLE_CHARACTERS = 60

_FRAME_TOKENS = 4
_BYTES_PER_TOKEN = 4
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_ROLES = (common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT)


def conversation_id(text: str) -> UUID:
    """Raises `InvalidArgument` (REQUEST_INVALID) unless it is a UUID in its usual form."""
    if not _UUID.fullmatch(text):
        raise invalid(
            "conversation_id", "is not a UUID such as 123e4567-e89b-42d3-a456-426614174000"
        )
    return UUID(text)


def optional_id(field: str, text: str) -> str:
    """An id that a caller made up: empty, or 1 to 128 printable ASCII characters, no space."""
    if text and not _ID.fullmatch(text):
        raise invalid(field, "is not 1 to 128 printable ASCII characters without spaces")
    return text


def user_message(text: str) -> common_pb2.Message:
    """The message of a user who says `text`.

    Raises:
      InvalidArgument: MESSAGE_EMPTY (also for blanks only, which no model takes), MESSAGE_TOO_LONG.
    """
    if not text.strip():
        raise InvalidArgument(
            "the message is empty", reason="MESSAGE_EMPTY", violations=[("message", "is empty")]
        )
    # A character has at most four bytes, so most messages need not be encoded to be measured.
    if len(text) * 4 > MAX_USER_TEXT_BYTES and len(text.encode()) > MAX_USER_TEXT_BYTES:
        raise _too_long("message", MAX_USER_TEXT_BYTES)
    return common_pb2.Message(
        role=common_pb2.ROLE_USER, content=[common_pb2.ContentBlock(text=text)]
    )


def check_appended(messages: Sequence[common_pb2.Message]) -> None:
    """Raises `InvalidArgument`: REQUEST_INVALID, MESSAGE_EMPTY, MESSAGE_TOO_LONG."""
    if not 1 <= len(messages) <= MAX_APPENDED:
        raise invalid("messages", f"has {len(messages)} messages instead of 1 to {MAX_APPENDED}")
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        if message.role not in _ROLES:
            raise invalid(f"{field}.role", "is neither ROLE_USER nor ROLE_ASSISTANT")
        if not any(_says_something(block) for block in message.content):
            raise InvalidArgument(
                f"{field} is empty", reason="MESSAGE_EMPTY", violations=[(field, "is empty")]
            )
        for place, block in enumerate(message.content):
            if block.WhichOneof("block") is None:
                raise invalid(f"{field}.content[{place}]", "is a block of no kind")
        if message.ByteSize() > MAX_MESSAGE_BYTES:
            raise _too_long(field, MAX_MESSAGE_BYTES)


def profile(data: bytes) -> bytes:
    """Raises `InvalidArgument`: PROFILE_TOO_LARGE, PROFILE_INVALID."""
    if len(data) > MAX_PROFILE_BYTES:
        raise InvalidArgument(
            f"the profile has more than {MAX_PROFILE_BYTES} bytes",
            reason="PROFILE_TOO_LARGE",
            violations=[("data", f"has {len(data)} bytes")],
        )
    try:
        is_object = isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        is_object = False
    if not is_object:
        raise InvalidArgument(
            "the profile is not a JSON object",
            reason="PROFILE_INVALID",
            violations=[("data", "is not a JSON object")],
        )
    return data


def title(text: str) -> str:
    """The first words of `text`, at most 60 characters, on one line."""
    line = " ".join(text[: MAX_TITLE_CHARACTERS * 8].replace("\x00", " ").split())
    if len(line) <= MAX_TITLE_CHARACTERS:
        return line
    cut = line[:MAX_TITLE_CHARACTERS]
    # A single long word (a URL) is cut where it is.
    words = cut[: cut.rfind(" ")] if cut.rfind(" ") > MAX_TITLE_CHARACTERS // 2 else cut[:-1]
    return words.rstrip(" ,;:.-") + "…"


def words(message: common_pb2.Message) -> str:
    """What a person would read of it, for search. PostgreSQL's text has no NUL."""
    return "\n".join(_texts(message)).replace("\x00", " ")


def estimate_tokens(message: common_pb2.Message) -> int:
    size = sum(_size(block) for block in message.content)
    return _FRAME_TOKENS + -(-size // _BYTES_PER_TOKEN)


def entry(message: common_pb2.Message, tokens: int) -> Entry:
    """What choosing the window needs to know of it."""
    calls = []
    outcomes = []
    for block in message.content:
        kind = block.WhichOneof("block")
        if kind == "tool_use":
            calls.append(block.tool_use.call_id)
        elif kind == "tool_outcome":
            outcomes.append(block.tool_outcome.call_id)
    return Entry(
        tokens=tokens,
        from_user=message.role == common_pb2.ROLE_USER,
        calls=frozenset(calls),
        outcomes=frozenset(outcomes),
    )


def invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", reason="REQUEST_INVALID", violations=[(field, what)])


def _too_long(field: str, limit: int) -> InvalidArgument:
    return InvalidArgument(
        f"{field} has more than {limit} bytes",
        reason="MESSAGE_TOO_LONG",
        metadata={"limit_bytes": str(limit)},
        violations=[(field, f"has more than {limit} bytes")],
    )


def _says_something(block: common_pb2.ContentBlock) -> bool:
    return block.WhichOneof("block") not in (None, "text") or bool(block.text)


def _texts(message: common_pb2.Message) -> Iterator[str]:
    for block in message.content:
        kind = block.WhichOneof("block")
        if kind == "text":
            yield block.text
        elif kind == "tool_outcome":
            for part in block.tool_outcome.content:
                if part.WhichOneof("block") == "text":
                    yield part.text


def _size(block: common_pb2.ContentBlock) -> int:
    match block.WhichOneof("block"):
        case "text":
            return len(block.text) if block.text.isascii() else len(block.text.encode())
        case "tool_use":
            return len(block.tool_use.tool) + len(block.tool_use.arguments.utf8)
        case "tool_outcome":
            return sum(_size(part) for part in block.tool_outcome.content)
        case "opaque":
            return len(block.opaque.utf8)
        case _:
            return 0
