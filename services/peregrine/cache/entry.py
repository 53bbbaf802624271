"""Entries, and how they are written down: one frame of bytes, the same in Redis and PostgreSQL.

    "PC1" flag version(16 digits) checksum(8) | fetch_time ttl cost (µs) length-of-tags | tags value

An entry says when its value was true and for how long, so its age is computed when it is read. The
checksum covers the whole frame and the address it is stored at: a frame that was damaged, or that
stands where another one belongs, is no entry. The version stands in digits at a fixed place, so
that a script in Redis can compare two of them. A removed entry leaves a tombstone there for a
moment, which a slower reader's promotion of the old value cannot overwrite.

Versions are microseconds of the wall clock, made to grow: the last writer wins in every tier.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

MAX_VALUE_BYTES = 1024 * 1024

_MAGIC = b"PC1"
_ENTRY, _TOMBSTONE = b"e", b"t"
_DIGITS = 16
_HEAD = len(_MAGIC) + 1 + _DIGITS
_SUM = 8
_TIMES = struct.Struct(">qqqI")
_BODY = _HEAD + _SUM


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
    """`fetch_time`: seconds since 1970, when the value was true. `ttl` and `cost` in seconds."""

    value: bytes
    version: int
    fetch_time: float
    ttl: float
    cost: float = 0.0
    tags: tuple[str, ...] = ()

    @property
    def expire_time(self) -> float:
        return self.fetch_time + self.ttl


def encode(entry: Entry, address: Address) -> bytes:
    tags = "\n".join(entry.tags).encode()
    times = _TIMES.pack(
        _microseconds(entry.fetch_time),
        _microseconds(entry.ttl),
        _microseconds(entry.cost),
        len(tags),
    )
    return _framed(_ENTRY, entry.version, times + tags + entry.value, address)


def tombstone(version: int, address: Address) -> bytes:
    return _framed(_TOMBSTONE, version, b"", address)


def decode(frame: bytes, address: Address) -> Entry | None:
    """The entry in `frame`; None for a tombstone.

    Raises:
      Corrupt: it is damaged, or the entry of another address.
    """
    head, checksum, body = frame[:_HEAD], frame[_HEAD:_BODY], frame[_BODY:]
    if head[:3] != _MAGIC or checksum != _checksum(head, body, address):
        raise Corrupt
    if head[3:4] == _TOMBSTONE:
        return None
    fetched, ttl, cost, size = _TIMES.unpack_from(body)
    value = _TIMES.size + size
    tags = body[_TIMES.size : value].decode()
    return Entry(
        value=body[value:],
        version=int(head[4:]),
        fetch_time=fetched / 1e6,
        ttl=ttl / 1e6,
        cost=cost / 1e6,
        tags=tuple(tags.split("\n")) if tags else (),
    )


class Versions:
    """Versions that grow, on the clock `now` (seconds since 1970)."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, _microseconds(self._now()))
        return self._last


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
