"""Page tokens: where the next page starts, opaque to the caller.

A token holds the key of the last row of its page (keyset paging), so that a page costs the same
wherever it is and rows that are added meanwhile move nothing. It gives no access to anything: the
rows after the key are those of the caller.
"""

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from peregrine.kit.errors import InvalidArgument
from peregrine.memory import content

DEFAULT_SIZE = 50
MAX_SIZE = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CONVERSATION = struct.Struct(">cq16s")
_POSITION = struct.Struct(">cq")
_LAST = datetime(9999, 1, 1, tzinfo=UTC)
_BEFORE_ALL = (_LAST, UUID(int=0))


def size(asked: int) -> int:
    """Raises `InvalidArgument` (REQUEST_INVALID) for a size outside 0 (the default) to 200."""
    if not 0 <= asked <= MAX_SIZE:
        raise content.invalid("page_size", f"is not between 1 and {MAX_SIZE}")
    return asked or DEFAULT_SIZE


def after_conversation(update_time: datetime, conversation_id: UUID) -> str:
    microseconds = (update_time - _EPOCH) // _MICROSECOND
    return _text(_CONVERSATION.pack(b"c", microseconds, conversation_id.bytes))


def read_conversation(token: str) -> tuple[datetime, UUID]:
    """The key that the page comes after. Raises `InvalidArgument` (PAGE_TOKEN_INVALID)."""
    if not token:
        return _BEFORE_ALL
    kind, microseconds, identifier = _unpacked(_CONVERSATION, token)
    if kind != b"c" or not 0 <= microseconds <= (_LAST - _EPOCH) // _MICROSECOND:
        raise _invalid()
    return _EPOCH + microseconds * _MICROSECOND, UUID(bytes=identifier)


def after_position(position: int) -> str:
    return _text(_POSITION.pack(b"m", position))


def read_position(token: str) -> int:
    """0 for the first page. Raises `InvalidArgument` (PAGE_TOKEN_INVALID)."""
    if not token:
        return 0
    kind, position = _unpacked(_POSITION, token)
    if kind != b"m" or position < 0:
        raise _invalid()
    return int(position)


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def _unpacked(form: struct.Struct, token: str) -> tuple[Any, ...]:
    try:
        key = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        return form.unpack(key)
    except (binascii.Error, struct.error, ValueError):
        raise _invalid() from None


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "the page token is not one that this list gave", reason="PAGE_TOKEN_INVALID"
    )
