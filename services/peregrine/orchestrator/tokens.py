"""JWTs of a trusted issuer: which are believed, and whose they are.

The algorithms are fixed by a setting and asymmetric, so a token cannot choose how it is checked: no
`none`, and no HMAC under a public key. Issuer and audience must be the configured ones, an end must
be there. The subject is the user, the tenant is a claim, the scopes are those of ours in `scope`.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Final

import jwt

from peregrine.kit import scopes
from peregrine.kit.context import Identity
from peregrine.orchestrator.jwks import KeySet

ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_LEEWAY_SECONDS: Final = 30.0
_MAX_SUBJECT: Final = 255
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.@-]{0,62}")
_DERIVED: Final = "sub-"


class Refused(Exception):
    """The token is not believed; says why, for the log, in constant words."""


class Tokens:
    """What is believed. `algorithms` are among `ASYMMETRIC`."""

    def __init__(
        self,
        *,
        keys: KeySet,
        issuer: str,
        audience: str,
        algorithms: Sequence[str],
        tenant_claim: str,
    ) -> None:
        if not ASYMMETRIC.issuperset(algorithms):
            raise ValueError("only asymmetric algorithms are safe here")
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = list(algorithms)
        self._tenant_claim = tenant_claim

    async def read(self, token: str) -> tuple[Identity, frozenset[str], float]:
        """Whose it is, what it allows, and when it ends (seconds since 1970).

        Raises:
          Refused: it is not believed.
          Unavailable: JWKS_UNAVAILABLE.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._algorithms:
                raise Refused("the algorithm is not one of ours")
            key = await self._keys.find(header.get("kid"))
            if key is None:
                raise Refused("the token names an unknown key")
            claims = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Refused(type(error).__name__) from None
        try:
            identity = Identity(claims[self._tenant_claim], user_of(claims["sub"]))
        except (KeyError, TypeError, ValueError):
            raise Refused("the tenant or the subject cannot be used") from None
        return identity, _granted(claims.get("scope")), float(claims["exp"]) + _LEEWAY_SECONDS


def user_of(subject: str) -> str:
    """The name of the user that a subject is. One that is no plain name gets one of its digest.

    Raises:
      ValueError: the subject is empty or longer than 255 characters.
    """
    if not 1 <= len(subject) <= _MAX_SUBJECT:
        raise ValueError("not a subject")
    if _PLAIN.fullmatch(subject) and not subject.startswith(_DERIVED):
        return subject
    digest = hashlib.sha256(subject.encode()).digest()
    return _DERIVED + base64.b32encode(digest).decode().rstrip("=").lower()


def _granted(claim: object) -> frozenset[str]:
    """`scope` as a text with spaces (RFC 8693), or as the list that some issuers make of it."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return scopes.expand(each for each in words if each in scopes.GRANTABLE)
