"""The provider's prompt cache: which prefix of a prompt has been read before.

A prompt is a sequence of blocks in the order tools, system, messages. A `cache_control` mark on a
block (or on the request, meaning its last block) is a breakpoint: the prefix up to it is written.
A later prompt reads the longest prefix that was written, looking back up to `LOOKBACK` blocks from
each of its breakpoints; so a mark that moves on with the conversation still finds what the turn
before wrote. An entry lives for its time to live since its last use, is readable once the first
token of the request that wrote it is out, and is never shorter than the minimum. Pure but for the
entries: time is an argument.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from peregrine.simulator import tokens
from peregrine.simulator.wire import Json, Usage, invalid

LOOKBACK: Final = 20
MAX_BREAKPOINTS: Final = 4
MAX_ENTRIES: Final = 10_000
TIMES_TO_LIVE: Final = {"5m": 300.0, "1h": 3600.0}


@dataclass(slots=True)
class _Entry:
    readable_at: float
    expires_at: float
    time_to_live: float


@dataclass(frozen=True, slots=True)
class Prefix:
    """One block's end in a prompt: the digest and length of all up to it, and its breakpoint."""

    digest: bytes
    tokens: int
    breakpoint: str | None
    """The time to live asked for here (`5m`, `1h`), or None."""


def prefixes(
    model: str,
    tools: list[Json],
    system: list[Json],
    messages: list[Json],
    automatic: Any = None,
) -> list[Prefix]:
    """The prefixes of a prompt, one per block. `automatic` is the request's own cache_control."""
    digest = hashlib.blake2b(model.encode(), digest_size=16)
    found: list[Prefix] = []
    length = 0
    marks = 0
    for role, block in _blocks(tools, system, messages):
        mark = _time_to_live(block.get("cache_control"))
        plain = {key: value for key, value in block.items() if key != "cache_control"}
        encoded = orjson.dumps(plain)
        digest.update(role)
        digest.update(encoded)
        length += _tokens(plain, encoded)
        marks += mark is not None
        found.append(Prefix(digest.copy().digest(), length, mark))
    if automatic is not None and found and found[-1].breakpoint is None:
        last = found[-1]
        found[-1] = Prefix(last.digest, last.tokens, _time_to_live(automatic))
        marks += 1
    if marks > MAX_BREAKPOINTS:
        raise invalid(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {marks}."
        )
    return found


class PrefixCache:
    """What was written, by prefix. Holds at most `MAX_ENTRIES`, the least recently used go."""

    def __init__(self, *, minimum_tokens: int) -> None:
        self._minimum_tokens = minimum_tokens
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def clear(self) -> None:
        self._entries.clear()

    def usage(self, prompt: list[Prefix], now: float) -> Usage:
        """What of `prompt` is read from the cache, written to it, or neither."""
        total = prompt[-1].tokens if prompt else 0
        marks = [i for i, prefix in enumerate(prompt) if prefix.breakpoint is not None]
        if not marks:
            return Usage(input_tokens=total)
        read = self._longest_cached(prompt, marks, now)
        written = {"5m": 0, "1h": 0}
        covered = read
        for mark in marks:
            prefix = prompt[mark]
            if prefix.tokens > covered and prefix.tokens >= self._minimum_tokens:
                written[prefix.breakpoint or "5m"] += prefix.tokens - covered
                covered = prefix.tokens
        return Usage(
            input_tokens=total - covered,
            cache_creation_5m=written["5m"],
            cache_creation_1h=written["1h"],
            cache_read_input_tokens=read,
        )

    def write(self, prompt: list[Prefix], *, now: float, readable_at: float) -> None:
        """Keep the prefixes that `prompt` marks, readable from `readable_at` on."""
        for prefix in prompt:
            if prefix.breakpoint is None or prefix.tokens < self._minimum_tokens:
                continue
            entry = self._entries.get(prefix.digest)
            time_to_live = TIMES_TO_LIVE[prefix.breakpoint]
            if entry is None or entry.expires_at <= now:
                entry = _Entry(readable_at, readable_at + time_to_live, time_to_live)
                self._entries[prefix.digest] = entry
            else:
                entry.expires_at = max(entry.expires_at, now + time_to_live)
            self._entries.move_to_end(prefix.digest)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    def _longest_cached(self, prompt: list[Prefix], marks: list[int], now: float) -> int:
        looked_at = -1
        best = 0
        for mark in marks:
            for index in range(mark, max(looked_at, mark - LOOKBACK), -1):
                prefix = prompt[index]
                entry = self._entries.get(prefix.digest)
                if entry is None or not entry.readable_at <= now < entry.expires_at:
                    continue
                entry.expires_at = now + entry.time_to_live
                self._entries.move_to_end(prefix.digest)
                best = max(best, prefix.tokens)
                break
            looked_at = mark
        return best


def _blocks(
    tools: list[Json], system: list[Json], messages: list[Json]
) -> Iterator[tuple[bytes, Json]]:
    for tool in tools:
        yield b"tool", tool
    for block in system:
        yield b"system", block
    for turn in messages:
        for block in turn["content"]:
            yield turn["role"].encode(), block


def _tokens(block: Json, encoded: bytes) -> int:
    text = block.get("text")
    return tokens.count(text) if isinstance(text, str) else tokens.count(encoded.decode())


def _time_to_live(mark: Any) -> str | None:
    if mark is None:
        return None
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        raise invalid("cache_control.type: Input should be 'ephemeral'")
    time_to_live = mark.get("ttl", "5m")
    if time_to_live not in TIMES_TO_LIVE:
        raise invalid("cache_control.ttl: Input should be '5m' or '1h'")
    return str(time_to_live)
