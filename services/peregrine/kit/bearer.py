"""The credential in an `authorization` header or metadata (RFC 6750)."""

import re

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,8192})", re.IGNORECASE)


def credential_in(header: object) -> str | None:
    """What follows `Bearer`, if the header has that form."""
    found = _BEARER.fullmatch(header) if isinstance(header, str) else None
    return found[1] if found else None
