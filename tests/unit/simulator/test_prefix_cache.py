"""What the provider's prompt cache remembers."""

from typing import Any

import pytest

from peregrine.simulator import prefix_cache
from peregrine.simulator.prefix_cache import Prefix, PrefixCache
from peregrine.simulator.wire import ApiError, Usage

MARK = {"cache_control": {"type": "ephemeral"}}


def block(characters: int, letter: str = "a", **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": letter * characters, **fields}


def prompt(*blocks: dict[str, Any], model: str = "m", automatic: Any = None) -> list[Prefix]:
    messages = [{"role": "user", "content": list(blocks)}]
    return prefix_cache.prefixes(model, [], [], messages, automatic)


def ask(cache: PrefixCache, prompt: list[Prefix], now: float) -> Usage:
    usage = cache.usage(prompt, now)
    cache.write(prompt, now=now, readable_at=now)
    return usage


def figures(usage: Usage) -> tuple[int, int, int]:
    return usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens


def test_a_marked_prefix_is_written_once_and_read_until_it_expires() -> None:
    cache = PrefixCache(minimum_tokens=10)
    asked = prompt(block(400, **MARK), block(40, "b"))
    assert figures(ask(cache, asked, 0)) == (10, 100, 0)
    assert figures(ask(cache, asked, 299)) == (10, 0, 100)
    assert figures(ask(cache, asked, 299 + 299)) == (10, 0, 100)  # reading renews it
    assert figures(ask(cache, asked, 598 + 300)) == (10, 100, 0)


def test_nothing_is_cached_without_a_mark_or_below_the_minimum() -> None:
    cache = PrefixCache(minimum_tokens=101)
    unmarked = prompt(block(4000))
    assert figures(ask(cache, unmarked, 0)) == (1000, 0, 0)
    assert figures(ask(cache, unmarked, 1)) == (1000, 0, 0)
    short = prompt(block(400, **MARK))
    assert figures(ask(cache, short, 0)) == (100, 0, 0)


def test_a_mark_that_moves_on_finds_what_the_turn_before_wrote() -> None:
    cache = PrefixCache(minimum_tokens=1)
    ask(cache, prompt(block(400), block(40, "b", **MARK)), 0)
    longer = prompt(block(400), block(40, "b"), block(40, "c"), block(80, "d", **MARK))
    assert figures(ask(cache, longer, 1)) == (0, 30, 110)


def test_it_looks_back_twenty_blocks_and_no_further() -> None:
    cache = PrefixCache(minimum_tokens=1)
    ask(cache, prompt(block(400, **MARK)), 0)
    near = [block(4, "b") for _ in range(18)]
    assert cache.usage(prompt(block(400), *near, block(4, **MARK)), 1).cache_read_input_tokens
    far = [block(4, "b") for _ in range(19)]
    assert not cache.usage(prompt(block(400), *far, block(4, **MARK)), 1).cache_read_input_tokens


def test_another_prefix_or_another_model_reads_nothing() -> None:
    cache = PrefixCache(minimum_tokens=1)
    ask(cache, prompt(block(400, **MARK)), 0)
    assert cache.usage(prompt(block(400, "x", **MARK)), 1).cache_read_input_tokens == 0
    assert cache.usage(prompt(block(400, **MARK), model="n"), 1).cache_read_input_tokens == 0


def test_an_entry_is_readable_once_the_answer_that_wrote_it_has_begun() -> None:
    cache = PrefixCache(minimum_tokens=1)
    asked = prompt(block(400, **MARK))
    cache.write(asked, now=0, readable_at=2)
    assert cache.usage(asked, 1).cache_read_input_tokens == 0
    assert cache.usage(asked, 2).cache_read_input_tokens == 100


def test_the_request_may_mark_its_last_block() -> None:
    cache = PrefixCache(minimum_tokens=1)
    asked = prompt(block(400), automatic={"type": "ephemeral", "ttl": "1h"})
    usage = ask(cache, asked, 0)
    assert (usage.cache_creation_1h, usage.cache_creation_5m) == (100, 0)
    assert cache.usage(asked, 3000).cache_read_input_tokens == 100


def test_five_marks_are_one_too_many() -> None:
    with pytest.raises(ApiError, match="maximum of 4"):
        prompt(*[block(4, **MARK) for _ in range(5)])


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "MAX_ENTRIES", 2)
    cache = PrefixCache(minimum_tokens=1)
    first, second, third = (prompt(block(40, letter, **MARK)) for letter in "abc")
    for asked in (first, second, third):
        ask(cache, asked, 0)
    assert cache.usage(first, 1).cache_read_input_tokens == 0
    assert cache.usage(third, 1).cache_read_input_tokens == 10
