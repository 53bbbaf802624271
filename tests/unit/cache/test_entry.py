"""Frames: what was written down comes back, and nothing else does."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.cache.entry import (
    COMPRESSED_FROM,
    FIXED_BYTES,
    MAX_VALUE_BYTES,
    Address,
    Corrupt,
    Entry,
    Versions,
    decode,
    digest_of,
    encode,
    replaced,
    tombstone,
)

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
    first_ttl=TIMES,
    cost=TIMES,
    epoch=st.integers(0, 2**62),
    absent=st.booleans(),
    tags=st.lists(st.from_regex(r"[!-~]{1,8}", fullmatch=True), max_size=3).map(tuple),
)
HERE = Address("acme", "ada", "tool:x", b"k")


@given(ENTRIES, ADDRESSES)
def test_an_entry_comes_back_as_it_was(entry: Entry, address: Address) -> None:
    back = decode(encode(entry, address), address)
    assert back is not None
    for field in ("value", "version", "tags", "epoch", "absent"):
        assert getattr(back, field) == getattr(entry, field)
    for field in ("fetch_time", "ttl", "first_ttl", "cost"):
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


def kept(value: bytes) -> Entry:
    return Entry(value=value, version=1, fetch_time=1.0, ttl=1.0)


def test_what_gets_smaller_is_compressed_from_two_kibibytes_on() -> None:
    for size in (COMPRESSED_FROM, 100_000, MAX_VALUE_BYTES):
        text = b"the same again " * (size // 15 + 1)
        frame = encode(kept(text[:size]), HERE)
        assert len(frame) < size / 5
        assert decode(frame, HERE) == kept(text[:size])
    for value in (b"a" * (COMPRESSED_FROM - 1), os.urandom(100_000)):
        frame = encode(kept(value), HERE)
        assert frame.endswith(value)
        assert decode(frame, HERE) == kept(value)


def test_a_compressed_value_that_unpacks_to_too_much_is_corrupt() -> None:
    frame = encode(kept(bytes(2 * MAX_VALUE_BYTES)), HERE)
    with pytest.raises(Corrupt):
        decode(frame, HERE)


@given(ENTRIES, ADDRESSES)
def test_the_beginning_of_a_frame_tells_what_is_replaced(entry: Entry, address: Address) -> None:
    before = replaced(encode(entry, address)[:FIXED_BYTES])
    assert before is not None
    assert (before.digest, before.epoch) == (digest_of(entry.value), entry.epoch)
    assert replaced(tombstone(1, address)) is None and replaced(b"") is None
    assert replaced(b"PC1e" + b"0" * 200) is None
