"""A turn: what the model does in answer to one request, whoever decided it.

The small talker makes turns from the conversation, a script makes them from JSON; the timeline
plays both the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from peregrine.simulator.latency import Latency
from peregrine.simulator.wire import ApiError, Json, invalid

MAX_TOKENS_MADE_UP = 1_000_000
MAX_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A pause of `seconds` after so many tokens (of the turn, or of the block that has it)."""

    after_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One content block: a text, thinking or tool_use."""

    type: Literal["text", "thinking", "tool_use"]
    text: str = ""
    """What is streamed: the text, the thinking, or the JSON of a tool's input."""
    name: str = ""
    """The tool."""
    id: str | None = None
    """The id of the tool_use; made up when None."""
    delay: float = 0.0
    """Seconds of silence before the block begins."""
    chunks: int | None = None
    """In how many deltas the text comes; None: one per token."""
    tokens_per_second: float | None = None
    """The block's own speed."""
    stalls: tuple[Stall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place in the stream; neither means before any response."""

    after_tokens: int | None = None
    after_events: int | None = None

    @property
    def at_start(self) -> bool:
        return self.after_tokens is None and self.after_events is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    error: ApiError
    where: Where = Where()
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    where: Where = Where()
    scope: Literal["stream", "connection"] = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    blocks: tuple[Block, ...] = ()
    stalls: tuple[Stall, ...] = ()
    failure: Failure | None = None
    cut: Cut | None = None
    latency: Mapping[str, Any] = field(default_factory=dict)
    stop_reason: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)


Attempts = Sequence[Turn]


def text(content: str) -> Block:
    return Block(type="text", text=content)


def tool_use(name: str, input: Json) -> Block:
    return Block(type="tool_use", name=name, text=orjson.dumps(input).decode())


def numbered(tokens: int) -> str:
    """`tokens` made-up tokens that say their own place, so that a gap shows."""
    return "".join(f"{n % 1000:03d} " for n in range(1, tokens + 1))


def parse_turn(raw: Any, at: str, latency: Mapping[str, Any]) -> Attempts:
    """The attempts of one turn of a script; `latency` is that of the whole script."""
    if isinstance(raw, dict) and "attempts" in raw:
        check_fields(raw, at, ("attempts",))
        attempts = raw["attempts"]
        if not isinstance(attempts, list) or not attempts:
            raise invalid(f"{at}.attempts: expected at least one turn")
        return [_turn(one, f"{at}.attempts.{i}", latency) for i, one in enumerate(attempts)]
    return [_turn(raw, at, latency)]


def check_fields(raw: Any, at: str, known: tuple[str, ...]) -> None:
    if not isinstance(raw, dict):
        raise invalid(f"{at}: expected an object")
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise invalid(f"{at}: unknown field {unknown[0]!r}, expected {', '.join(known)}")


def _turn(raw: Any, at: str, latency: Mapping[str, Any]) -> Turn:
    check_fields(raw, at, ("blocks", "stalls", "error", "cut", "latency", "stop_reason", "usage"))
    blocks = raw.get("blocks") or []
    if not isinstance(blocks, list):
        raise invalid(f"{at}.blocks: expected an array")
    changes = {**latency, **(raw.get("latency") or {})}
    Latency().with_changes(changes)
    stop_reason = raw.get("stop_reason")
    if stop_reason is not None and not isinstance(stop_reason, str):
        raise invalid(f"{at}.stop_reason: expected a string")
    usage = raw.get("usage") or {}
    if not isinstance(usage, dict):
        raise invalid(f"{at}.usage: expected an object")
    return Turn(
        blocks=tuple(_block(block, f"{at}.blocks.{i}") for i, block in enumerate(blocks)),
        stalls=_stalls(raw.get("stalls"), f"{at}.stalls"),
        failure=_failure(raw.get("error"), f"{at}.error"),
        cut=_cut(raw.get("cut"), f"{at}.cut"),
        latency=changes,
        stop_reason=stop_reason,
        usage=usage,
    )


def _block(raw: Any, at: str) -> Block:
    kind = raw.get("type") if isinstance(raw, dict) else None
    timing = ("type", "delay", "delay_before", "tokens_per_second", "stalls", "chunks")
    if kind in ("text", "thinking"):
        check_fields(raw, at, (*timing, "text", "tokens"))
        made_up = _count(raw, "tokens", at, 0)
        if made_up > MAX_TOKENS_MADE_UP:
            raise invalid(f"{at}.tokens: at most {MAX_TOKENS_MADE_UP}")
        content = numbered(made_up) if "tokens" in raw else raw.get("text")
        name, id = "", None
        if not isinstance(content, str):
            raise invalid(f"{at}: expected text or tokens")
    elif kind == "tool_use":
        check_fields(raw, at, (*timing, "name", "id", "input", "json"))
        name, id = raw.get("name"), raw.get("id")
        if not isinstance(name, str) or not name or not isinstance(id, str | None):
            raise invalid(f"{at}: expected the name of a tool (and an id that is a string)")
        content = raw.get("json", orjson.dumps(raw.get("input", {})).decode())
        if not isinstance(content, str):
            raise invalid(f"{at}.json: expected a string")
    else:
        raise invalid(f"{at}.type: expected text, thinking or tool_use")
    speed = raw.get("tokens_per_second")
    return Block(
        type=kind,
        text=content,
        name=name,
        id=id,
        delay=_seconds(raw, "delay", at) + _seconds(raw, "delay_before", at),
        chunks=_count(raw, "chunks", at, None, least=1),
        tokens_per_second=None if speed is None else _seconds(raw, "tokens_per_second", at),
        stalls=_stalls(raw.get("stalls"), f"{at}.stalls"),
    )


def _failure(raw: Any, at: str) -> Failure | None:
    if raw is None:
        return None
    check_fields(
        raw,
        at,
        ("status", "type", "message", "retry_after", "delay", "after_tokens", "after_events"),
    )
    status = raw.get("status", 500)
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise invalid(f"{at}.status: expected 400 to 599")
    retry_after = _seconds(raw, "retry_after", at) if "retry_after" in raw else None
    message = raw.get("message", "Scripted error")
    kind = raw.get("type")
    if not isinstance(message, str) or not isinstance(kind, str | None):
        raise invalid(f"{at}: expected type and message to be strings")
    return Failure(
        error=ApiError(status, message, type=kind, retry_after=retry_after),
        where=_where(raw, at),
        delay=_seconds(raw, "delay", at),
    )


def _cut(raw: Any, at: str) -> Cut | None:
    if raw is None:
        return None
    check_fields(raw, at, ("after_tokens", "after_events", "scope"))
    scope = raw.get("scope", "stream")
    if scope not in ("stream", "connection"):
        raise invalid(f"{at}.scope: expected stream or connection")
    return Cut(where=_where(raw, at), scope=scope)


def _where(raw: Json, at: str) -> Where:
    where = Where(
        after_tokens=_count(raw, "after_tokens", at, None),
        after_events=_count(raw, "after_events", at, None),
    )
    if where.after_tokens is not None and where.after_events is not None:
        raise invalid(f"{at}: expected after_tokens or after_events, not both")
    return where


def _stalls(raw: Any, at: str) -> tuple[Stall, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise invalid(f"{at}: expected an array")
    stalls = []
    for index, one in enumerate(raw):
        check_fields(one, f"{at}.{index}", ("after_tokens", "seconds"))
        stalls.append(
            Stall(
                after_tokens=_count(one, "after_tokens", f"{at}.{index}", 0),
                seconds=_seconds(one, "seconds", f"{at}.{index}"),
            )
        )
    return tuple(sorted(stalls, key=lambda stall: stall.after_tokens))


def _count(raw: Json, name: str, at: str, default: Any, *, least: int = 0) -> Any:
    value = raw.get(name, default)
    if value is not default and (
        not isinstance(value, int) or isinstance(value, bool) or value < least
    ):
        raise invalid(f"{at}.{name}: expected an integer of at least {least}")
    return value


def _seconds(raw: Json, name: str, at: str) -> float:
    value = raw.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"{at}.{name}: expected a number")
    if not 0 <= value <= MAX_SECONDS:
        raise invalid(f"{at}.{name}: expected 0 to {MAX_SECONDS:g}")
    return float(value)
