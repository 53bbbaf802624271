"""A Messages request, checked as the API checks it, with content in its one normal form.

The checks are those that a client can trip over by mistake: missing fields, wrong types, roles, a
`tool_use` without its `tool_result` in the next message, a `tool_result` without its `tool_use`.
What passes is kept as it came but for one thing: content and system given as a string become one
text block, so that everything behind reads blocks only.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from peregrine.simulator.wire import ApiError, Json, invalid

_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CHOICES: Final = ("auto", "any", "tool", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """The body of `POST /v1/messages` (or of count_tokens, where `max_tokens` is 0)."""

    model: str
    max_tokens: int
    messages: list[Json]
    system: list[Json] = field(default_factory=list)
    tools: list[Json] = field(default_factory=list)
    stream: bool = False
    stop_sequences: tuple[str, ...] = ()
    tool_choice: str = "auto"
    forced_tool: str | None = None
    parallel_tools: bool = True
    thinking: bool = False
    cache_control: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def offered(self) -> dict[str, Json]:
        """The tools that may be called, by name."""
        return {} if self.tool_choice == "none" else {tool["name"]: tool for tool in self.tools}


def knows_model(model: str, models: tuple[str, ...]) -> bool:
    """Whether `model` is served: those listed, and any name of the family."""
    return model in models or model.startswith("claude-")


def parse(body: bytes, *, models: tuple[str, ...], counting: bool = False) -> MessagesRequest:
    """Check `body`; raises `ApiError` 400 or 404 with the first thing that is wrong."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("The request body must be a JSON object")
    model = _required(raw, "model", str)
    max_tokens = 0 if counting else _required(raw, "max_tokens", int)
    if not counting and max_tokens < 1:
        raise invalid("max_tokens: Input should be greater than or equal to 1")
    stream = _optional(raw, "stream", bool, False)
    temperature = raw.get("temperature")
    if temperature is not None and not (_is_number(temperature) and 0 <= temperature <= 1):
        raise invalid("temperature: range: 0..1")
    tools = _tools(_optional(raw, "tools", list, []))
    choice = _optional(raw, "tool_choice", dict, {"type": "auto"})
    kind, forced = _tool_choice(choice, tools)
    messages = _messages(_required(raw, "messages", list))
    if not knows_model(model, models):
        raise ApiError(404, f"model: {model}")
    return MessagesRequest(
        model=model,
        max_tokens=max_tokens,
        messages=messages,
        system=_system(raw.get("system")),
        tools=tools,
        stream=stream,
        stop_sequences=_stop_sequences(_optional(raw, "stop_sequences", list, [])),
        tool_choice=kind,
        forced_tool=forced,
        parallel_tools=not choice.get("disable_parallel_tool_use", False),
        thinking=_thinking(raw.get("thinking"), max_tokens),
        cache_control=raw.get("cache_control"),
        metadata=_optional(raw, "metadata", dict, {}),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _required(raw: Json, name: str, kind: type) -> Any:
    if raw.get(name) is None:
        raise invalid(f"{name}: Field required")
    return _optional(raw, name, kind, None)


def _optional(raw: Json, name: str, kind: type, default: Any) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise invalid(f"{name}: Input should be a valid {_NAMES[kind]}")
    return value


_NAMES: Final = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "dictionary"}


def _system(raw: Any) -> list[Json]:
    if raw is None or raw == "":
        return []
    if isinstance(raw, str):
        return [{"type": "text", "text": raw}]
    if not isinstance(raw, list):
        raise invalid("system: Input should be a valid string or array")
    return _content(raw, "system")


def _content(raw: Any, where: str) -> list[Json]:
    if isinstance(raw, str):
        if not raw:
            raise invalid(f"{where}: content must be non-empty")
        return [{"type": "text", "text": raw}]
    if not isinstance(raw, list) or not raw:
        raise invalid(f"{where}: content must be non-empty")
    for index, block in enumerate(raw):
        at = f"{where}.{index}"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise invalid(f"{at}: Input should be a content block with a type")
        if block["type"] == "text":
            if not isinstance(block.get("text"), str):
                raise invalid(f"{at}.text: Field required")
            if not block["text"]:
                raise invalid(f"{at}: text content blocks must be non-empty")
        elif block["type"] == "tool_use":
            if not isinstance(block.get("input"), dict):
                raise invalid(f"{at}.input: Input should be a valid dictionary")
            if not isinstance(block.get("id"), str) or not isinstance(block.get("name"), str):
                raise invalid(f"{at}: tool_use needs an id and a name")
        elif block["type"] == "tool_result" and not isinstance(block.get("tool_use_id"), str):
            raise invalid(f"{at}.tool_use_id: Field required")
    return raw


def _messages(raw: list[Any]) -> list[Json]:
    if not raw:
        raise invalid("messages: at least one message is required")
    messages: list[Json] = []
    for index, turn in enumerate(raw):
        at = f"messages.{index}"
        if not isinstance(turn, dict) or turn.get("role") not in ("user", "assistant"):
            raise invalid(f"{at}.role: Input should be 'user' or 'assistant'")
        messages.append({"role": turn["role"], "content": _content(turn.get("content"), at)})
    if messages[0]["role"] != "user":
        raise invalid('messages: first message must use the "user" role')
    _check_tool_pairs(messages)
    return messages


def _check_tool_pairs(messages: list[Json]) -> None:
    """Every tool_use is answered in the next message, every tool_result answers one before it.

    Neighbouring messages of one role count as one message, as in the real API.
    """
    open_ids: list[str] = []
    index = -1
    for _, same_role in itertools.groupby(messages, key=lambda turn: turn["role"]):
        turns = list(same_role)
        index += len(turns)
        blocks = [block for turn in turns for block in turn["content"]]
        answered = [b["tool_use_id"] for b in blocks if b["type"] == "tool_result"]
        missing = [id for id in open_ids if id not in answered]
        if missing:
            raise invalid(
                f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
        unknown = [id for id in answered if id not in open_ids]
        if unknown:
            raise invalid(
                f"messages.{index}.content: unexpected `tool_use_id` found in `tool_result` "
                f"blocks: {', '.join(unknown)}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message."
            )
        if len(set(answered)) != len(answered):
            raise invalid(
                f"messages.{index}.content: each tool_use must have a single result. "
                "Found multiple `tool_result` blocks with the same id"
            )
        open_ids = [b["id"] for b in blocks if b["type"] == "tool_use"]
        if len(set(open_ids)) != len(open_ids):
            raise invalid(f"messages.{index}: `tool_use` ids must be unique")
    if open_ids:
        raise invalid(
            f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` "
            f"blocks immediately after: {', '.join(open_ids)}."
        )


def _tools(raw: list[Any]) -> list[Json]:
    names: set[str] = set()
    for index, tool in enumerate(raw):
        at = f"tools.{index}"
        if not isinstance(tool, dict):
            raise invalid(f"{at}: Input should be a valid dictionary")
        name = tool.get("name")
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise invalid(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if name in names:
            raise invalid("tools: Tool names must be unique.")
        names.add(name)
        schema = tool.get("input_schema")
        if tool.get("type", "custom") == "custom" and (
            not isinstance(schema, dict) or schema.get("type") != "object"
        ):
            raise invalid(f"{at}.custom.input_schema.type: Input should be 'object'")
    return raw


def _tool_choice(choice: Json, tools: list[Json]) -> tuple[str, str | None]:
    kind = choice.get("type")
    if kind not in _CHOICES:
        raise invalid(f"tool_choice.type: Input should be one of {', '.join(_CHOICES)}")
    if kind in ("any", "tool") and not tools:
        raise invalid("tool_choice: may only be specified while providing tools")
    if kind != "tool":
        return kind, None
    name = choice.get("name")
    if not isinstance(name, str) or all(tool["name"] != name for tool in tools):
        raise invalid(f"Tool '{name}' not found in provided tools")
    return kind, name


def _stop_sequences(raw: list[Any]) -> tuple[str, ...]:
    for index, sequence in enumerate(raw):
        if not isinstance(sequence, str) or not sequence.strip():
            raise invalid(f"stop_sequences.{index}: each stop sequence must contain non-whitespace")
    return tuple(raw)


def _thinking(raw: Any, max_tokens: int) -> bool:
    if raw is None:
        return False
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind not in ("enabled", "adaptive", "disabled", "between_tools"):
        raise invalid("thinking.type: Input should be 'enabled', 'adaptive' or 'disabled'")
    if kind == "enabled":
        budget = raw.get("budget_tokens")
        if not isinstance(budget, int) or budget < 1024:
            raise invalid(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if max_tokens and budget >= max_tokens:
            raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`")
    return bool(kind in ("enabled", "adaptive"))
