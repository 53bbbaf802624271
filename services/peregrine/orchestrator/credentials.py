"""What an API key looks like, and how its secret is kept and compared: pure.

`pk_<key id>_<secret>`: 16 and 43 letters and digits. 43 of 62 give 256 bits, so what is kept is a
plain SHA-256: a slow hash protects secrets that people choose, and would only cost time here. The
key id is not secret; it finds the row. A digest is compared in constant time, and one is compared
as well when there is no row, so that the time tells nothing about which ids exist.
"""

import hashlib
import hmac
import re
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH, _SECRET_LENGTH = 16, 43
_FORM = re.compile(rf"pk_([A-Za-z0-9]{{{_ID_LENGTH}}})_[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
# The digest of no credential that anybody will find.
_NOBODY = bytes(32)


def new_key() -> tuple[str, str]:
    """A key id and a secret."""
    return _random(_ID_LENGTH), _random(_SECRET_LENGTH)


def written(key_id: str, secret: str) -> str:
    """The credential as it is given out."""
    return f"pk_{key_id}_{secret}"


def key_id_of(credential: str) -> str | None:
    """The key id, if the credential has the form of an API key."""
    parts = _FORM.fullmatch(credential)
    return parts[1] if parts else None


def digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()


def is_same(credential: str, kept: bytes | None) -> bool:
    """Whether `kept` is the digest of `credential`; in the same time when there is none."""
    matches = hmac.compare_digest(digest(credential), _NOBODY if kept is None else kept)
    return matches and kept is not None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
