"""Requests as the unit tests write them: short, and through the real parser."""

from typing import Any

import orjson

from peregrine.simulator import request
from peregrine.simulator.request import MessagesRequest

MODELS = ("claude-sonnet-5-5",)

CALCULATOR = {
    "name": "calculator",
    "input_schema": {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
}
CURRENT_TIME = {
    "name": "current_time",
    "input_schema": {"type": "object", "properties": {"timezone": {"type": "string"}}},
}
KNOWLEDGE_SEARCH = {
    "name": "knowledge_search",
    "input_schema": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["query"],
    },
}
WEATHER = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TOOLS = [CALCULATOR, CURRENT_TIME, KNOWLEDGE_SEARCH, WEATHER]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def tool_use(id: str, name: str, input: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def tool_result(id: str, content: Any, *, is_error: bool = False) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error}


def results(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def parsed(*messages: dict[str, Any], **fields: Any) -> MessagesRequest:
    body = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "messages": list(messages),
        **fields,
    }
    return request.parse(orjson.dumps(body), models=MODELS)
