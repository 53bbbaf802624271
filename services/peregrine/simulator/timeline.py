"""A turn as a timeline: which bytes are due when, as offsets from the start of the request.

`play` is a generator, so a long turn costs no more memory than its next event, and it is pure: the
server adds a clock and sends, the unit tests read the offsets. What cannot be known before is
gathered on the way in `Outcome`: tokens so far, the content as it stands (which is also the body of
an answer that is not streamed), and the modelled times that a benchmark subtracts.

Limits cut where the real API cuts: `max_tokens` in the middle of whatever is being written (a tool
call then has broken JSON), a stop sequence before its first character.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from peregrine.simulator import tokens, wire
from peregrine.simulator.latency import Latency
from peregrine.simulator.turn import Block, Stall, Turn, Where
from peregrine.simulator.wire import Json, Usage


class Frame(NamedTuple):
    """Bytes that are due `at` seconds after the start."""

    at: float
    data: bytes


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What has been said so far, and when it was due."""

    content: list[Json] = field(default_factory=list)
    output_tokens: int = 0
    thinking_tokens: int = 0
    events: int = 0
    stop_reason: str | None = None
    stop_sequence: str | None = None
    first_token: float | None = None
    """Offset at which the first delta was due."""
    end: float = 0.0
    """Offset at which what was last made is due."""
    unfinished: list[str] = field(default_factory=list)
    """The pieces so far of the last block, until it is complete."""

    def said(self) -> list[Json]:
        """The content, with what there is of a block that was never finished."""
        if not self.unfinished:
            return self.content
        last = dict(self.content[-1])
        key = {"text": "text", "thinking": "thinking"}.get(last["type"], "partial_json")
        last[key] = "".join(self.unfinished)
        return [*self.content[:-1], last]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Everything that decides the timeline of one answer."""

    turn: Turn
    message_id: str
    model: str
    usage: Usage
    latency: Latency
    first_token: float
    """Seconds until the first token, prompt reading and jitter included."""
    max_tokens: int
    stop_sequences: tuple[str, ...] = ()
    tool_ids: str = "toolu_sim"
    """The tool_use of block n gets the id `{tool_ids}{n:02}` unless the script names one."""
    ping_seconds: float = 10.0
    """A ping after so much silence."""


def play(performance: Performance, outcome: Outcome) -> Iterator[Frame]:
    """The frames of an answer, in order, the last with `message_stop`."""
    clock = _Clock(performance, outcome)
    outcome.end = performance.first_token
    whole = wire.message(
        id=performance.message_id,
        model=performance.model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=performance.usage.start(1, performance.turn.usage),
    )
    yield from _pings(0.0, performance.first_token, performance.ping_seconds)
    yield clock.frame(wire.message_start(whole))
    budget = performance.max_tokens
    for index, block in enumerate(performance.turn.blocks):
        if index and outcome.output_tokens >= budget:
            outcome.stop_reason = "max_tokens"
            break
        yield from _block(index, block, clock)
        if outcome.stop_reason is not None:
            break
    if outcome.stop_reason is None:
        calls = any(block.type == "tool_use" for block in performance.turn.blocks)
        fallback = "tool_use" if calls else "end_turn"
        outcome.stop_reason = performance.turn.stop_reason or fallback
    usage = performance.usage.delta(outcome.output_tokens, performance.turn.usage)
    if outcome.thinking_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": outcome.thinking_tokens}
    yield clock.frame(wire.message_delta(outcome.stop_reason, outcome.stop_sequence, usage))
    yield clock.frame(wire.MESSAGE_STOP)


def whole_message(performance: Performance, outcome: Outcome) -> Json:
    """The answer to a request that is not streamed, once `play` has run to its end."""
    return wire.message(
        id=performance.message_id,
        model=performance.model,
        content=outcome.content,
        stop_reason=outcome.stop_reason,
        stop_sequence=outcome.stop_sequence,
        usage=performance.usage.start(outcome.output_tokens, performance.turn.usage),
    )


def reached(where: Where, outcome: Outcome) -> bool:
    """Whether the stream has come to `where`, the frame just made included."""
    if where.after_tokens is not None:
        return outcome.output_tokens >= where.after_tokens
    if where.after_events is not None:
        return outcome.events >= where.after_events
    return True


class _Clock:
    """The offset that advances as tokens are made."""

    def __init__(self, performance: Performance, outcome: Outcome) -> None:
        self.performance = performance
        self.outcome = outcome
        self._stalls = list(performance.turn.stalls)

    def frame(self, data: bytes) -> Frame:
        self.outcome.events += 1
        return Frame(self.outcome.end, data)

    def pause(self, seconds: float) -> Iterator[Frame]:
        start = self.outcome.end
        self.outcome.end += seconds
        yield from _pings(start, self.outcome.end, self.performance.ping_seconds)

    def stall(self) -> Iterator[Frame]:
        """The turn's own stalls that are due after the tokens made so far."""
        while self._stalls and self._stalls[0].after_tokens <= self.outcome.output_tokens:
            yield from self.pause(self._stalls.pop(0).seconds)

    def token(self, seconds: float) -> None:
        """One more token: the first of the turn is due at once, each other after `seconds`."""
        outcome = self.outcome
        if outcome.first_token is None:
            outcome.first_token = outcome.end
        else:
            outcome.end += seconds
        outcome.output_tokens += 1


def _pings(start: float, end: float, every: float) -> Iterator[Frame]:
    at = start + every
    while every and at < end:
        yield Frame(at, wire.PING)
        at += every


def _block(index: int, block: Block, clock: _Clock) -> Iterator[Frame]:
    outcome = clock.outcome
    yield from clock.pause(block.delay)
    yield from clock.stall()
    content = _empty(index, block, clock.performance)
    outcome.content.append(content)
    yield clock.frame(wire.block_start(index, content))
    if index == 0:
        yield Frame(outcome.end, wire.PING)
    said = _limited(block, clock)
    if block.type == "tool_use":
        if said:
            yield from _deltas(index, block, said, "input_json_delta", "partial_json", clock)
        else:
            yield clock.frame(wire.Deltas(index, "input_json_delta", "partial_json")(""))
        content["input"] = _parsed(said)
    elif block.type == "thinking":
        yield from _deltas(index, block, said, "thinking_delta", "thinking", clock)
        outcome.thinking_tokens += tokens.count(said)
        signature = _signature(said)
        yield clock.frame(wire.Deltas(index, "signature_delta", "signature")(signature))
        content["thinking"] = said
        content["signature"] = signature
    else:
        yield from _deltas(index, block, said, "text_delta", "text", clock)
        content["text"] = said
    outcome.unfinished.clear()
    yield clock.frame(wire.block_stop(index))


def _deltas(
    index: int, block: Block, said: str, type: str, field: str, clock: _Clock
) -> Iterator[Frame]:
    """One delta per token, or `chunks` deltas that each take the time of their tokens."""
    make = wire.Deltas(index, type, field)
    speed = block.tokens_per_second
    token_seconds = clock.performance.latency.token_seconds
    if speed is not None:
        token_seconds = 1 / speed if speed else 0.0
    stalls = list(block.stalls)
    pieces = list(tokens.pieces(said))
    size = 1 if block.chunks is None else max(1, -(-len(pieces) // block.chunks))
    for start in range(0, len(pieces), size):
        while stalls and stalls[0].after_tokens <= start:
            yield from clock.pause(stalls.pop(0).seconds)
        chunk = pieces[start : start + size]
        for _ in chunk:
            clock.token(token_seconds)
        piece = "".join(chunk)
        clock.outcome.unfinished.append(piece)
        yield clock.frame(make(piece))
        yield from clock.stall()
    for stall in _reached(stalls, len(pieces)):
        yield from clock.pause(stall.seconds)


def _reached(stalls: list[Stall], made: int) -> Iterator[Stall]:
    return (stall for stall in stalls if stall.after_tokens <= made)


def _limited(block: Block, clock: _Clock) -> str:
    """What of the block is said, after stop sequences and `max_tokens`."""
    outcome, performance = clock.outcome, clock.performance
    said = block.text
    if block.type == "text":
        found = [(said.find(stop), stop) for stop in performance.stop_sequences if stop in said]
        if found:
            at, sequence = min(found)
            said = said[:at]
            outcome.stop_reason, outcome.stop_sequence = "stop_sequence", sequence
    left = performance.max_tokens - outcome.output_tokens
    if tokens.count(said) > left:
        said = tokens.truncate(said, left)
        outcome.stop_reason, outcome.stop_sequence = "max_tokens", None
    return said


def _empty(index: int, block: Block, performance: Performance) -> Json:
    if block.type == "tool_use":
        id = block.id or f"{performance.tool_ids}{index:02}"
        return {"type": "tool_use", "id": id, "name": block.name, "input": {}}
    if block.type == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _parsed(said: str) -> Any:
    try:
        return orjson.loads(said or "{}")
    except orjson.JSONDecodeError:
        return {}


def _signature(said: str) -> str:
    """Opaque to clients; here it only says that it is not a real one."""
    return f"c2ltdWxhdGVk{tokens.count(said):08x}"
