"""Questions asked of a request's messages, by scripts and by the small talker alike.

A *round* begins when the user writes something; the assistant messages after it, and the tool
results between them, belong to it. A user message that carries tool results and also text counts
as tool results: the text there is an aside of whoever ran the tools.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from peregrine.simulator.request import MessagesRequest
from peregrine.simulator.wire import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """A tool call of this round and what came of it."""

    name: str
    input: Json
    text: str
    is_error: bool


def text_of(content: Any) -> str:
    """The text in a message's or a tool result's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(
        block["text"]
        for block in content
        if isinstance(block, dict) and isinstance(block.get("text"), str)
    )


def user_text(request: MessagesRequest) -> str:
    """What the user last wrote."""
    return text_of(request.messages[_start_of_round(request)]["content"])


def rounds(request: MessagesRequest) -> int:
    """How many assistant messages there are since the user last wrote."""
    since = request.messages[_start_of_round(request) :]
    return sum(turn["role"] == "assistant" for turn in since)


def assistant_messages(request: MessagesRequest) -> int:
    return sum(turn["role"] == "assistant" for turn in request.messages)


def said_by_user(request: MessagesRequest) -> list[str]:
    """Everything the user wrote, oldest first."""
    return [text_of(turn["content"]) for turn in request.messages if turn["role"] == "user"]


def all_texts(request: MessagesRequest) -> Iterator[str]:
    yield text_of(request.system)
    for turn in request.messages:
        for block in turn["content"]:
            if block["type"] == "text":
                yield block["text"]
            elif block["type"] == "tool_result":
                yield text_of(block.get("content"))


def tool_results(request: MessagesRequest) -> list[ToolResult]:
    """The results of this round's tool calls in the order of the calls; empty when none came."""
    calls: dict[str, Json] = {}
    results: dict[str, ToolResult] = {}
    for turn in request.messages[_start_of_round(request) + 1 :]:
        for block in turn["content"]:
            if block["type"] == "tool_use":
                calls[block["id"]] = block
            elif block["type"] == "tool_result" and block["tool_use_id"] in calls:
                call = calls[block["tool_use_id"]]
                results[block["tool_use_id"]] = ToolResult(
                    name=call["name"],
                    input=call["input"],
                    text=text_of(block.get("content")),
                    is_error=bool(block.get("is_error", False)),
                )
    return [results[id] for id in calls if id in results]


def fingerprint(request: MessagesRequest) -> bytes:
    """Equal for a request and its retry."""
    encoded = orjson.dumps([request.model, request.messages])
    return hashlib.blake2b(encoded, digest_size=16).digest()


def _start_of_round(request: MessagesRequest) -> int:
    for index in range(len(request.messages) - 1, -1, -1):
        turn = request.messages[index]
        if turn["role"] == "user" and all(b["type"] != "tool_result" for b in turn["content"]):
            return index
    return 0
