"""What a tool returned, as the model is shown it: text within bounds, and JSON data.

A result that is too long for a model is cut with a note that says so, because the beginning of an
answer is worth more than an error. Data that is too large is left out; the cut text stands for it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import orjson

from peregrine.tools.definition import Output

MAX_BYTES = 1024 * 1024

_NOTE = "\n[The result was cut here: it has {size} bytes, and {limit} are shown.]"


class NotShowable(Exception):
    """The tool returned what is neither text nor JSON data."""


@dataclass(frozen=True, slots=True)
class Shown:
    """`data` is JSON, empty when there is none. `cut`: not all of it is here. `private` and `ttl`
    as the tool's `Output` said."""

    text: str
    data: bytes = b""
    cut: bool = False
    private: bool = False
    ttl: float | None = None


def show(result: Any) -> Shown:
    """Raises `NotShowable`."""
    if isinstance(result, str):
        return _within(result, b"")
    if isinstance(result, Output):
        if not isinstance(result.text, str):
            raise NotShowable(type(result.text).__name__)
        shown = _within(result.text, b"" if result.data is None else _json(result.data))
        if result.private or result.ttl is not None:
            return dataclasses.replace(shown, private=result.private, ttl=result.ttl)
        return shown
    if hasattr(result, "model_dump"):  # of pydantic
        result = result.model_dump(mode="json")
    data = _json(result)
    return _within(data.decode(), data)


def _json(data: object) -> bytes:
    try:
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise NotShowable(str(error)) from None


def _within(text: str, data: bytes) -> Shown:
    cut = len(data) > MAX_BYTES
    try:
        # A character has at most four bytes, so a short text need not be encoded to be measured.
        size = len(text.encode()) if len(text) * 4 > MAX_BYTES or not text.isascii() else len(text)
    except UnicodeEncodeError:
        raise NotShowable("text with half a character") from None
    if size > MAX_BYTES:
        note = _NOTE.format(size=size, limit=MAX_BYTES)
        kept = text.encode()[: MAX_BYTES - len(note)].decode(errors="ignore")
        text, cut = kept + note, True
    return Shown(text, b"" if len(data) > MAX_BYTES else data, cut)
