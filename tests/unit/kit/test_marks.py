"""Marks against their definition: a list of all that was ever struck."""

from hypothesis import given
from hypothesis import strategies as st

from peregrine.kit.marks import GROUP, KEY, TAG, Mark, Marks, key_digest

OWNERS = st.sampled_from(["acme", "umbrella"])
NAMES = st.sampled_from(["x", "y"])
STRIKES = st.one_of(
    st.tuples(OWNERS, st.just(TAG), NAMES),
    st.tuples(OWNERS, st.just(GROUP), NAMES),
    st.tuples(OWNERS, st.just(KEY), NAMES.map(lambda name: key_digest("ada", "x", name.encode()))),
)
TAGS = st.lists(NAMES, max_size=2, unique=True)


def truly_struck(
    history: list[tuple[Mark, int]], owner: str, group: str, key: bytes, tags: list[str], epoch: int
) -> bool:
    covering = {(owner, GROUP, group), (owner, KEY, key_digest("ada", group, key))}
    covering |= {(owner, TAG, tag) for tag in tags}
    return any(sequence > epoch and mark in covering for mark, sequence in history)


@given(st.lists(STRIKES, max_size=12), OWNERS, NAMES, NAMES, TAGS, st.integers(0, 13))
def test_with_room_for_all_marks_the_answer_is_exact(
    strikes: list[Mark], owner: str, group: str, key: str, tags: list[str], epoch: int
) -> None:
    marks, history = Marks(), list(zip(strikes, range(1, 13), strict=False))
    for mark, sequence in history:
        marks.strike(mark, sequence)
    struck = marks.struck(owner, "ada", group, key.encode(), tags, epoch)
    assert struck == truly_struck(history, owner, group, key.encode(), tags, epoch)


@given(
    st.lists(STRIKES, max_size=12),
    OWNERS,
    NAMES,
    NAMES,
    TAGS,
    st.integers(0, 13),
    st.integers(1, 4),
    st.integers(0, 12),
)
def test_with_less_room_nothing_untrue_is_believed(
    strikes: list[Mark],
    owner: str,
    group: str,
    key: str,
    tags: list[str],
    epoch: int,
    limit: int,
    forgotten: int,
) -> None:
    marks, history = Marks(limit=limit), list(zip(strikes, range(1, 13), strict=False))
    for mark, sequence in history:
        marks.strike(mark, sequence)
        assert len(marks) <= limit
    marks.forget_before(forgotten)
    if truly_struck(history, owner, group, key.encode(), tags, epoch):
        assert marks.struck(owner, "ada", group, key.encode(), tags, epoch)
    # What is new is believed all the same.
    assert not marks.struck(owner, "ada", group, key.encode(), tags, 13)


def test_keys_of_users_and_groups_do_not_meet() -> None:
    names = [
        ("", "x", b"y"),
        ("x", "", b"y"),
        ("", "x/", b"y"),
        ("a", "x", b"y"),
        ("a", "x", b"/y"),
    ]
    assert len({key_digest(*each) for each in names}) == len(names)
