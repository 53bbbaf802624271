"""Entries, and how they are written down: one frame of bytes, the same in Redis and PostgreSQL.

    "PC2" flag version(16 digits) checksum(8) | times epoch digest ... length-of-tags | tags value

An entry says when its value was true and for how long, so its age is computed when it is read. The
checksum covers the whole frame and the address it is stored at: a frame that was damaged, or that
stands where another one belongs, is no entry. The version stands in digits at a fixed place, so
that a script in Redis can compare two of them; what precedes the tags has a fixed size, so that the
script can hand back what it replaces (`Replaced`). A removed entry leaves a tombstone there for a
moment, which a slower reader's promotion of the old value cannot overwrite.

Values of 2 KiB and more are compressed when that makes them smaller by a tenth.

Versions are microseconds of the wall clock, made to grow: the last writer wins in every tier.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

MAX_VALUE_BYTES = 1024 * 1024
COMPRESSED_FROM = 2 * 1024

_MAGIC = b"PC2"
_ENTRY, _TOMBSTONE = b"e", b"t"
_DIGITS = 16
_HEAD = len(_MAGIC) + 1 + _DIGITS
_SUM = 8
_DIGEST = 8
# fetch time, ttl, first ttl, cost (µs), epoch, digest of the value, bits, length of the tags
_FIXED = struct.Struct(f">qqqqq{_DIGEST}sBI")
_BODY = _HEAD + _SUM
FIXED_BYTES = _BODY + _FIXED.size
_COMPRESSED, _ABSENT = 1, 2
_SAMPLE = 4_096
_WORTH_IT = 0.9


class Corrupt(Exception):
    """The bytes are not the entry of that address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an entry lives. `user` is empty for what everyone of the tenant may see."""

    tenant: str
    user: str
    namespace: str
    key: bytes

    @property
    def redis_key(self) -> bytes:
        # None of the three names can hold a slash, so no two addresses meet.
        return b"pc:%b/%b/%b/%b" % (
            self.tenant.encode(),
            self.user.encode(),
            self.namespace.encode(),
            self.key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`fetch_time`: seconds since 1970, when the value was true. `ttl`, `first_ttl` and `cost` in
    seconds; the first two as the writer gave them, 0 when it did not."""

    value: bytes
    version: int
    fetch_time: float
    ttl: float = 0.0
    first_ttl: float = 0.0
    cost: float = 0.0
    epoch: int = 0
    absent: bool = False
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replaced:
    """What is said of an entry that another one took the place of."""

    fetch_time: float
    epoch: int
    digest: bytes


def encode(entry: Entry, address: Address) -> bytes:
    tags = "\n".join(entry.tags).encode()
    value, compressed = _packed(entry.value)
    fixed = _FIXED.pack(
        _microseconds(entry.fetch_time),
        _microseconds(entry.ttl),
        _microseconds(entry.first_ttl),
        _microseconds(entry.cost),
        entry.epoch,
        digest_of(entry.value),
        _COMPRESSED * compressed + _ABSENT * entry.absent,
        len(tags),
    )
    return _framed(_ENTRY, entry.version, fixed + tags + value, address)


def tombstone(version: int, address: Address) -> bytes:
    return _framed(_TOMBSTONE, version, b"", address)


def decode(frame: bytes, address: Address) -> Entry | None:
    """The entry in `frame`; None for a tombstone.

    Raises:
      Corrupt: it is damaged, of another format, or the entry of another address.
    """
    head, checksum, body = frame[:_HEAD], frame[_HEAD:_BODY], frame[_BODY:]
    if head[:3] != _MAGIC or checksum != _checksum(head, body, address):
        raise Corrupt
    if head[3:4] == _TOMBSTONE:
        return None
    fetched, ttl, first, cost, epoch, _, bits, size = _FIXED.unpack_from(body)
    start = _FIXED.size + size
    tags = body[_FIXED.size : start].decode()
    return Entry(
        value=_unpacked(body[start:]) if bits & _COMPRESSED else body[start:],
        version=int(head[4:]),
        fetch_time=fetched / 1e6,
        ttl=ttl / 1e6,
        first_ttl=first / 1e6,
        cost=cost / 1e6,
        epoch=epoch,
        absent=bool(bits & _ABSENT),
        tags=tuple(tags.split("\n")) if tags else (),
    )


def replaced(beginning: bytes) -> Replaced | None:
    """What the first `FIXED_BYTES` of a frame say; None unless they are an entry's."""
    if len(beginning) < FIXED_BYTES or beginning[:4] != _MAGIC + _ENTRY:
        return None
    fetched, _, _, _, epoch, digest, _, _ = _FIXED.unpack_from(beginning, _BODY)
    return Replaced(fetched / 1e6, epoch, digest)


def digest_of(value: bytes) -> bytes:
    return blake2b(value, digest_size=_DIGEST).digest()


class Versions:
    """Versions that grow, on the clock `now` (seconds since 1970)."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, _microseconds(self._now()))
        return self._last


def _packed(value: bytes) -> tuple[bytes, bool]:
    size = len(value)
    if size < COMPRESSED_FROM:
        return value, False
    sample = value[:_SAMPLE]
    if size > _SAMPLE and len(zlib.compress(sample, 1)) > _WORTH_IT * len(sample):
        return value, False
    packed = zlib.compress(value, 1)
    return (packed, True) if len(packed) <= _WORTH_IT * size else (value, False)


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        value = unpacking.decompress(packed, MAX_VALUE_BYTES + 1)
    except zlib.error:
        raise Corrupt from None
    if not unpacking.eof or len(value) > MAX_VALUE_BYTES:
        raise Corrupt
    return value


def _framed(flag: bytes, version: int, body: bytes, address: Address) -> bytes:
    head = b"%b%b%016d" % (_MAGIC, flag, version)
    return b"".join((head, _checksum(head, body, address), body))


def _checksum(head: bytes, body: bytes, address: Address) -> bytes:
    digest = blake2b(address.redis_key, digest_size=_SUM)
    digest.update(head)
    digest.update(body)
    return digest.digest()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
