"""Frames: what was written down comes back, and nothing else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.cache.entry import Address, Corrupt, Entry, Versions, decode, encode, tombstone

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.@-]{0,10}", fullmatch=True)
ADDRESSES = st.builds(
    Address,
    tenant=NAMES,
    user=st.just("") | NAMES,
    namespace=st.from_regex(r"[A-Za-z0-9_.:-]{1,10}", fullmatch=True),
    key=st.binary(min_size=1, max_size=20),
)
TIMES = st.integers(0, 10**15).map(lambda microseconds: microseconds / 1e6)
ENTRIES = st.builds(
    Entry,
    value=st.binary(max_size=200),
    version=st.integers(1, 10**16 - 1),
    fetch_time=TIMES,
    ttl=TIMES,
    cost=TIMES,
    tags=st.lists(st.from_regex(r"[!-~]{1,8}", fullmatch=True), max_size=3).map(tuple),
)
HERE = Address("acme", "ada", "tool:x", b"k")


@given(ENTRIES, ADDRESSES)
def test_an_entry_comes_back_as_it_was(entry: Entry, address: Address) -> None:
    back = decode(encode(entry, address), address)
    assert back is not None
    assert (back.value, back.version, back.tags) == (entry.value, entry.version, entry.tags)
    for field in ("fetch_time", "ttl", "cost"):
        assert getattr(back, field) == pytest.approx(getattr(entry, field), abs=2e-6)


@given(ENTRIES, ADDRESSES, st.data())
def test_a_changed_or_cut_frame_is_corrupt(
    entry: Entry, address: Address, data: st.DataObject
) -> None:
    frame = bytearray(encode(entry, address))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt):
        decode(bytes(frame), address)
    with pytest.raises(Corrupt):
        decode(encode(entry, address)[:place], address)


@given(ENTRIES, ADDRESSES, ADDRESSES)
def test_a_frame_belongs_to_one_address(entry: Entry, one: Address, other: Address) -> None:
    assert (one.redis_key == other.redis_key) == (one == other)
    if one != other:
        with pytest.raises(Corrupt):
            decode(encode(entry, one), other)
        with pytest.raises(Corrupt):
            decode(tombstone(entry.version, one), other)


@given(st.integers(0, 10**16 - 1))
def test_the_version_stands_where_the_script_in_redis_looks_for_it(version: int) -> None:
    entry = Entry(value=b"", version=version, fetch_time=0, ttl=1)
    for frame, flag in ((encode(entry, HERE), b"e"), (tombstone(version, HERE), b"t")):
        assert int(frame[4:20]) == version
        assert frame[3:4] == flag


def test_a_tombstone_is_no_entry() -> None:
    assert decode(tombstone(5, HERE), HERE) is None


def test_versions_grow_even_when_the_clock_does_not() -> None:
    clock = [100.0]
    versions = Versions(lambda: clock[0])
    seen = [versions.next() for _ in range(3)]
    clock[0] = 50.0
    seen.append(versions.next())
    clock[0] = 200.0
    seen.append(versions.next())
    assert seen == [100_000_000, 100_000_001, 100_000_002, 100_000_003, 200_000_000]
