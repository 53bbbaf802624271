"""Keys by name: one line `kid:base64` each, of which the first signs and all verify."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

_MIN_BYTES = 32
_LINE = re.compile(r"([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/_-]+)={0,2}")
_STANDARD = str.maketrans("-_", "+/")


@dataclass(frozen=True, repr=False)
class Keys:
    """Secrets by key id."""

    secrets: Mapping[str, bytes]

    @property
    def signing(self) -> tuple[str, bytes]:
        return next(iter(self.secrets.items()))

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.secrets)})"


def read(text: str) -> Keys:
    """The keys of a text, in base64 of either alphabet, padded or not.

    Raises:
      ValueError: says what is wrong with which line, and shows no key.
    """
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        parts = _LINE.fullmatch(line.strip())
        key = _decoded(parts[2]) if parts else None
        if parts is None or key is None:
            raise ValueError(f"line {number} is not kid:base64")
        if len(key) < _MIN_BYTES:
            raise ValueError(f"the key in line {number} has fewer than {_MIN_BYTES} bytes")
        if parts[1] in found:
            raise ValueError(f"line {number} has a kid that was there before")
        found[parts[1]] = key
    if not found:
        raise ValueError("holds no key")
    return Keys(found)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.translate(_STANDARD) + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
