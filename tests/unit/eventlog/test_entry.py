"""Frames: what is written is what is read, and a damaged one is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.kit.eventlog.entry import Entry, continuing, decode, encode

entries = st.lists(
    st.builds(
        Entry,
        sequence=st.integers(1, 2**63 - 1),
        epoch=st.integers(1, 2**32 - 1),
        payload=st.binary(max_size=64),
        terminal=st.booleans(),
    ),
    max_size=8,
)


@given(entries)
def test_frames_laid_end_to_end_are_read_back(given_entries: list[Entry]) -> None:
    assert decode(b"".join(map(encode, given_entries))) == given_entries


@given(entries.filter(bool), st.integers(1, 16))
def test_frames_that_are_cut_short_are_refused(given_entries: list[Entry], cut: int) -> None:
    with pytest.raises(ValueError):
        decode(b"".join(map(encode, given_entries))[: -min(cut, 16)])


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 45))
def test_what_continues_a_position_begins_right_after_it(
    first: int, count: int, position: int
) -> None:
    there = [Entry(first + offset, 1, b"") for offset in range(count)]
    following = continuing(there, position)
    if following:
        assert following[0].sequence == position + 1
        assert following[-1] == there[-1]
    else:
        assert position + 1 < first or position >= first + count - 1
