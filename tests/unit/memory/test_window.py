"""The choice of the window: examples, and what holds for every conversation."""

from hypothesis import given
from hypothesis import strategies as st

from peregrine.memory.window import Choice, Entry, choose

FAR = 1_000


def user(tokens: int = 1) -> Entry:
    return Entry(tokens=tokens, from_user=True)


def answer(tokens: int = 1) -> Entry:
    return Entry(tokens=tokens, from_user=False)


def call(*ids: str) -> Entry:
    return Entry(tokens=1, from_user=False, calls=frozenset(ids))


def outcome(*ids: str) -> Entry:
    return Entry(tokens=1, from_user=True, outcomes=frozenset(ids))


def chosen(conversation: list[Entry], messages: int = FAR, tokens: int = FAR) -> Choice:
    return choose(reversed(conversation), max_messages=messages, token_budget=tokens)


def test_all_of_a_short_conversation_is_the_window() -> None:
    assert chosen([user(), answer(), user()]) == Choice(3, 3, sound=True)


def test_it_begins_with_a_message_of_the_user() -> None:
    assert chosen([user(), answer(), user(), answer(), user()], messages=3).count == 3


def test_it_does_not_begin_between_a_call_and_its_outcome() -> None:
    conversation = [user(), answer(), user(), call("a"), outcome("a"), answer(), user()]
    assert chosen(conversation, messages=2).count == 1
    assert chosen(conversation, messages=4).count == 5


def test_the_newest_message_is_in_it_whatever_it_costs() -> None:
    assert chosen([user(), answer(), user(9_999)], tokens=10) == Choice(1, 9_999, sound=True)


def test_the_last_exchange_stays_whole_beyond_the_limits() -> None:
    conversation = [user(), answer(), user(), call("a", "b"), outcome("a", "b"), answer()]
    assert chosen(conversation, messages=1, tokens=1).count == 4


def test_without_a_fit_beginning_the_newest_message_is_all_there_is() -> None:
    assert chosen([answer(), answer()]) == Choice(1, 1, sound=False)
    assert chosen([outcome("lost")]) == Choice(1, 1, sound=False)


def test_it_reads_no_further_back_than_it_must() -> None:
    def conversation() -> object:
        yield user()
        yield answer()
        yield user()
        raise AssertionError("read too far")

    assert choose(conversation(), max_messages=1, token_budget=FAR).count == 1  # type: ignore[arg-type] # a generator


@st.composite
def conversations(draw: st.DrawFn) -> list[Entry]:
    """Turns of a user, answers, and steps of tools; some outcomes come late, some never."""
    entries: list[Entry] = []
    waiting: list[str] = []
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["user", "answer", "call", "outcome", "orphan"]))
        tokens = draw(st.integers(1, 50))
        if kind == "call":
            waiting.append(f"c{number}")
            entries.append(Entry(tokens, False, calls=frozenset({f"c{number}"})))
        elif kind == "outcome" and waiting:
            entries.append(Entry(tokens, True, outcomes=frozenset({waiting.pop()})))
        elif kind == "orphan":
            entries.append(Entry(tokens, True, outcomes=frozenset({f"o{number}"})))
        else:
            entries.append(Entry(tokens, kind != "answer"))
    return entries


def is_sound(window: list[Entry]) -> bool:
    called: set[str] = set()
    for entry in window:
        if entry.outcomes - called:
            return False
        called |= entry.calls
    return window[0].from_user


@given(conversations(), st.integers(1, 12), st.integers(1, 300))
def test_every_window_is_the_longest_sound_one_within_the_limits(
    conversation: list[Entry], messages: int, tokens: int
) -> None:
    choice = chosen(conversation, messages, tokens)
    ends = [conversation[-count:] for count in range(1, len(conversation) + 1)]
    sound = [window for window in ends if is_sound(window)]
    fits = [
        window
        for window in sound
        if len(window) <= messages + 1 and sum(each.tokens for each in window) <= tokens
    ]
    assert choice.tokens == sum(each.tokens for each in conversation[-choice.count :])
    assert choice.sound == bool(sound)
    if fits:
        assert choice.count == len(fits[-1])
    elif sound:
        assert choice.count == len(sound[0])
    else:
        assert choice.count == 1
