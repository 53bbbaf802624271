"""One entry of a log, and how entries are written down: as frames that can be laid end to end.

The same frames are the items of the tail in Redis, the messages to followers and, compressed, the
fold of a finished log; so nobody re-encodes, and a follower needs no read after a message.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

# Length of the payload, sequence, epoch, 1 if terminal; append.lua reads the last one.
_FRAME = struct.Struct(">IQIB")


class Address(NamedTuple):
    """What names a log: nobody reads or writes one without saying whose it is."""

    tenant: str
    log_id: UUID


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as every reader sees it. (sequence, epoch) never has two different payloads."""

    sequence: int
    epoch: int
    payload: bytes
    terminal: bool = False


def encode(entry: Entry) -> bytes:
    payload = entry.payload
    return _FRAME.pack(len(payload), entry.sequence, entry.epoch, entry.terminal) + payload


def decode(data: bytes) -> list[Entry]:
    """The entries in `data`, any number of frames end to end. ValueError when it is cut short."""
    entries = []
    offset, end = 0, len(data)
    while offset < end:
        start = offset + _FRAME.size
        if start > end:
            raise ValueError("a frame's head is cut short")
        length, sequence, epoch, terminal = _FRAME.unpack_from(data, offset)
        offset = start + length
        if offset > end:
            raise ValueError("a frame's payload is cut short")
        entries.append(Entry(sequence, epoch, data[start:offset], bool(terminal)))
    return entries


def decode_all(frames: Iterable[bytes]) -> list[Entry]:
    return decode(b"".join(frames))


def continuing(entries: Sequence[Entry], position: int) -> Sequence[Entry]:
    """What of `entries` follows `position` without a gap (they are in order, maybe overlapping)."""
    for index, entry in enumerate(entries):
        if entry.sequence > position:
            return entries[index:] if entry.sequence == position + 1 else ()
    return ()
