"""How the simulator counts tokens: four characters (code points) are one token, rounded up.

The approximation is the same everywhere: for prompts, for `max_tokens`, for usage and for the
pieces in which text is streamed, so that a delta is one token and every figure can be checked by
hand. No claim is made that a real tokenizer would agree.
"""

from collections.abc import Iterator

CHARACTERS_PER_TOKEN = 4


def count(text: str) -> int:
    """The number of tokens in `text`."""
    return (len(text) + CHARACTERS_PER_TOKEN - 1) // CHARACTERS_PER_TOKEN


def pieces(text: str) -> Iterator[str]:
    """`text` in token-sized pieces; joined, they are `text` again."""
    for start in range(0, len(text), CHARACTERS_PER_TOKEN):
        yield text[start : start + CHARACTERS_PER_TOKEN]


def truncate(text: str, tokens: int) -> str:
    """The first `tokens` tokens of `text`."""
    return text[: tokens * CHARACTERS_PER_TOKEN]
