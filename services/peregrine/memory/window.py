"""Which messages of a conversation the model is shown: the window.

The window is a run of messages up to the newest one. It may begin only where a model can be made to
begin: with a message of the user, and so that every tool outcome in it has its call in it too. Of
all such beginnings within the limits the earliest is taken; when none is, the latest, because the
newest message is always part of the window, with what it cannot be understood without.

One walk from the newest message back finds it. On the way the outcomes whose calls have not been
met yet are kept in a set: a place is a beginning when the user speaks there and the set is empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_MESSAGES = 10
DEFAULT_TOKENS = 8_000


@dataclass(frozen=True, slots=True)
class Entry:
    """What the choice needs to know of a message."""

    tokens: int
    from_user: bool
    calls: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Choice:
    """The newest `count` messages, with `tokens` in all.

    `sound` is false when none of the messages seen is a fit beginning: older ones are needed, or,
    if there are none, nothing better than the newest message alone can be had.
    """

    count: int
    tokens: int
    sound: bool


def choose(newest_first: Iterable[Entry], *, max_messages: int, token_budget: int) -> Choice:
    """Chooses the window, reading no further back than it must.

    Args:
      max_messages: at most this many besides the newest one.
      token_budget: at most this many tokens in all.
    """
    chosen: Choice | None = None
    first = Choice(0, 0, sound=False)
    tokens = 0
    uncalled: set[str] = set()
    for count, entry in enumerate(newest_first, 1):
        tokens += entry.tokens
        if chosen is not None and (count > max_messages + 1 or tokens > token_budget):
            break
        uncalled |= entry.outcomes
        uncalled -= entry.calls
        if count == 1:
            first = Choice(1, tokens, sound=False)
        if entry.from_user and not uncalled:
            chosen = Choice(count, tokens, sound=True)
    return chosen or first
