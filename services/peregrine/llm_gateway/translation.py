"""The provider's stream events as generation events: a pure state machine.

Text and thinking pass through as they come. Everything else is whole when it leaves: a tool call at
the end of its block, announced at its beginning, with the arguments exactly as the model wrote
them, byte for byte; a block
that must go back to the model unchanged (thinking with its signature, redacted thinking, the
provider's own tools) as one opaque JSON object.

Arguments that are not a JSON object, which models do write, above all when `max_tokens` cuts them,
are not repaired and not an error here: the tool call is emitted with the raw text, and the tools
service refuses it with ARGUMENTS_INVALID, so that the model is told and can try again.

Citations of text blocks are dropped; nothing else is.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from peregrine.api.common.v1 import common_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb

_STOP_REASONS = {
    "end_turn": pb.STOP_REASON_END_TURN,
    "tool_use": pb.STOP_REASON_TOOL_USE,
    "max_tokens": pb.STOP_REASON_MAX_TOKENS,
    "model_context_window_exceeded": pb.STOP_REASON_MAX_TOKENS,
    "stop_sequence": pb.STOP_REASON_STOP_SEQUENCE,
    "refusal": pb.STOP_REASON_REFUSAL,
    "pause_turn": pb.STOP_REASON_PAUSE,
}
_USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


@dataclass(frozen=True, slots=True)
class StreamError:
    """The provider broke its answer off with an error event."""

    kind: str
    message: str


class Translation:
    """One answer of the provider. Feed it every event; `done` or `error` says how it ended."""

    __slots__ = (
        "_blocks",
        "broken_arguments",
        "done",
        "error",
        "has_content",
        "prompt_usage",
        "stop_reason",
        "usage",
    )

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self.usage = common_pb2.Usage()
        self.stop_reason: pb.StopReason = pb.STOP_REASON_UNSPECIFIED
        # What message_start said; None before it.
        self.prompt_usage: common_pb2.Usage | None = None
        # Whether anything of the answer was handed on, so that it can no longer be made again.
        self.has_content = False
        self.done = False
        self.error: StreamError | None = None
        self.broken_arguments = 0

    def feed(self, event: dict[str, Any]) -> pb.GenerationEvent | None:
        """The generation event that `event` makes, without sequence and time, if it makes one."""
        made = self._feed(event)
        if made is not None and not made.HasField("tool_use_started"):
            self.has_content = True
        return made

    def _feed(self, event: dict[str, Any]) -> pb.GenerationEvent | None:
        match event.get("type"):
            case "content_block_delta":
                block = self._blocks.get(event.get("index", -1))
                return None if block is None else block.delta(event.get("delta") or {})
            case "content_block_start":
                block = _Block(event.get("content_block") or {})
                self._blocks[event.get("index", -1)] = block
                return block.start()
            case "content_block_stop":
                block = self._blocks.pop(event.get("index", -1), None)
                return None if block is None else self._stop(block)
            case "message_start":
                self._count((event.get("message") or {}).get("usage"))
                self.prompt_usage = common_pb2.Usage()
                self.prompt_usage.CopyFrom(self.usage)
            case "message_delta":
                self._count(event.get("usage"))
                if reason := (event.get("delta") or {}).get("stop_reason"):
                    self.stop_reason = _STOP_REASONS.get(reason, pb.STOP_REASON_UNSPECIFIED)
            case "message_stop":
                self.done = True
            case "error":
                error = event.get("error") or {}
                self.error = StreamError(str(error.get("type", "")), str(error.get("message", "")))
        return None

    def _stop(self, block: "_Block") -> pb.GenerationEvent | None:
        if block.kind != "tool_use":
            return block.opaque()
        arguments = block.arguments()
        if not is_object(arguments):
            self.broken_arguments += 1
        call = common_pb2.ToolUse(
            call_id=block.call_id,
            tool=block.tool,
            arguments=common_pb2.Json(utf8=arguments),
        )
        return pb.GenerationEvent(tool_use=call)

    def _count(self, usage: Any) -> None:
        # The figures of a stream are cumulative; what an event leaves out or nulls stays.
        if isinstance(usage, dict):
            for field in _USAGE_FIELDS:
                if isinstance(count := usage.get(field), int):
                    setattr(self.usage, field, count)


class _Block:
    """A content block in the making."""

    __slots__ = ("_parts", "json", "kind")

    def __init__(self, json: dict[str, Any]) -> None:
        self.json = json
        self.kind = json.get("type")
        self._parts: list[str] = []

    @property
    def call_id(self) -> str:
        return str(self.json.get("id", ""))

    @property
    def tool(self) -> str:
        return str(self.json.get("name", ""))

    def start(self) -> pb.GenerationEvent | None:
        if self.kind == "text" and (text := self.json.get("text")):
            return _text(text)
        if self.kind == "thinking" and (text := self.json.get("thinking")):
            self._parts.append(text)
            return _thinking(text)
        if self.kind == "tool_use":
            started = pb.ToolUseStarted(call_id=self.call_id, tool=self.tool)
            return pb.GenerationEvent(tool_use_started=started)
        return None

    def delta(self, delta: dict[str, Any]) -> pb.GenerationEvent | None:
        match delta.get("type"):
            case "text_delta":
                return _text(delta["text"]) if delta.get("text") else None
            case "input_json_delta":
                self._parts.append(delta.get("partial_json") or "")
            case "thinking_delta":
                self._parts.append(delta.get("thinking") or "")
                return _thinking(delta["thinking"]) if delta.get("thinking") else None
            case "signature_delta":
                self.json["signature"] = delta.get("signature", "")
        return None

    def arguments(self) -> bytes:
        """What the model wrote, untouched; a block without deltas holds its input at the start."""
        return "".join(self._parts).encode() or orjson.dumps(self.json.get("input") or {})

    def opaque(self) -> pb.GenerationEvent | None:
        if self.kind == "text":
            return None
        if self.kind == "thinking":
            self.json["thinking"] = "".join(self._parts)
        elif "".join(self._parts):
            arguments = self.arguments()
            self.json["input"] = orjson.Fragment(arguments) if is_object(arguments) else {}
        return pb.GenerationEvent(opaque_block=common_pb2.Json(utf8=orjson.dumps(self.json)))


def is_object(utf8: bytes) -> bool:
    """Whether `utf8` is the text of one JSON object."""
    try:
        return type(orjson.loads(utf8)) is dict
    except orjson.JSONDecodeError:
        return False


def _text(text: str) -> pb.GenerationEvent:
    return pb.GenerationEvent(text_delta=pb.TextDelta(text=text))


def _thinking(text: str) -> pb.GenerationEvent:
    return pb.GenerationEvent(thinking_delta=pb.ThinkingDelta(text=text))
