"""The signed identity: what services show each other to say for whom a call is.

Inside Peregrine, `x-peregrine-identity` carries a compact token (a JWT under HMAC-SHA256): tenant,
user, scopes, and an end five minutes away. Whoever answers a call verifies it; whoever makes a call
on behalf of the one it serves hands the same token on. Only those who hold a credential's word mint
new ones: the orchestrator, for callers at its door and for the runs it owns; and who acts in a
name of its own: the operator, and a cache that warms itself.

A token is verified once and then known: the next call that carries it costs a dictionary lookup. A
minted token is used again by every call of the same user for a minute.

Keys come from the secret `IDENTITY_KEYS`, one line `kid:base64` each; the first signs, all verify.
A key is changed in three rollouts: the new one as the last line; then as the first; then alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import jwt
import structlog

from peregrine.kit import context, keyring, scopes
from peregrine.kit.context import Caller, Door, Identity, OpenDoor
from peregrine.kit.errors import Unauthenticated
from peregrine.kit.keyring import Keys
from peregrine.kit.settings import (
    InnerSettings,
    Secret,
    SettingsError,
    identity_keys_problem,
    secret_ref,
)

IDENTITY_KEY: Final = "x-peregrine-identity"
KEYS: Final = "IDENTITY_KEYS"
LIFE_SECONDS: Final = 300.0
# A token is minted anew after this long, so that one that is handed on is good for minutes.
RENEW_SECONDS: Final = 60.0
# What the clocks of two machines may differ by.
LEEWAY_SECONDS: Final = 30.0

_AUDIENCE = "peregrine"
_ALGORITHM = "HS256"
_MAX_TOKEN = 4096
_KNOWN_TOKENS = 8192

log = structlog.get_logger(__name__)


def credentials_missing() -> Unauthenticated:
    return Unauthenticated(
        "this call carries no credentials: give an API key or a token as `authorization: Bearer …`",
        reason="CREDENTIALS_MISSING",
    )


def credentials_invalid(why: str, *, method: str) -> Unauthenticated:
    """One answer to every bad credential; `why` (constant text) is for the log only."""
    log.info("credentials_refused", why=why, method=method)
    return Unauthenticated(
        "the credentials are not valid: unknown, forged, expired or revoked",
        reason="CREDENTIALS_INVALID",
    )


def keys(secret: Secret) -> Keys:
    """Reads the text of `IDENTITY_KEYS`. Raises SettingsError."""
    try:
        return keyring.read(secret.reveal())
    except ValueError as error:
        raise SettingsError([identity_keys_problem(str(error))]) from None


def keys_from(environ: Mapping[str, str]) -> Keys:
    """The keys of this process, by reference. Raises SettingsError when there are none."""
    return keys(secret_ref(KEYS, environ))


class Passed:
    """Hands on the token that the current call came with."""

    __slots__ = ("_metadata",)

    def __init__(self, token: str) -> None:
        self._metadata = (IDENTITY_KEY, token)

    def metadata(self) -> tuple[str, str]:
        return self._metadata

    async def renew(self) -> None:
        """It lasts as long as it lasts: the call that it came with has a deadline."""


class Signer:
    """Mints identities.

    Args:
      clock: seconds since 1970.
    """

    def __init__(self, keys: Keys, *, clock: Callable[[], float] = time.time) -> None:
        self._kid, self._key = keys.signing
        self._clock = clock
        self._recent: dict[tuple[Identity, frozenset[str]], tuple[str, float]] = {}

    def sign(self, identity: Identity, allowed: frozenset[str]) -> tuple[str, float]:
        """A token and the time when it ends, which is at least four minutes away."""
        now = self._clock()
        recent = self._recent.get((identity, allowed))
        if recent is not None and recent[1] - now > LIFE_SECONDS - RENEW_SECONDS:
            return recent
        ends = int(now + LIFE_SECONDS)
        claims = {
            "aud": _AUDIENCE,
            "tenant": identity.tenant,
            "sub": identity.user,
            "scope": " ".join(scopes.least(allowed)),
            "exp": ends,
        }
        token = jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": self._kid})
        if len(self._recent) >= _KNOWN_TOKENS:
            del self._recent[next(iter(self._recent))]
        self._recent[identity, allowed] = token, float(ends)
        return token, float(ends)

    def proof(self, identity: Identity, allowed: frozenset[str]) -> "Minted":
        return Minted(self, identity, allowed)

    @contextmanager
    def acting_as(self, identity: Identity, granted: frozenset[str] | set[str]) -> Iterator[None]:
        """Runs a block on behalf of `identity`, whose calls prove it for however long it takes."""
        allowed = scopes.expand(granted)
        proof = self.proof(identity, allowed)
        with context.bind(identity=identity, proof=proof, allowed=allowed):
            yield


class Minted:
    """Proves an identity for as long as anybody asks, with tokens minted on the way."""

    __slots__ = ("_allowed", "_identity", "_signer")

    def __init__(self, signer: Signer, identity: Identity, allowed: frozenset[str]) -> None:
        self._signer = signer
        self._identity = identity
        self._allowed = allowed

    def metadata(self) -> tuple[str, str]:
        return IDENTITY_KEY, self._signer.sign(self._identity, self._allowed)[0]

    async def renew(self) -> None:
        """Nothing to do: each call is given a fresh token when it needs one."""


class Verifier:
    """Says who a token is for. What was verified is remembered, bounded, until it ends.

    Args:
      clock: seconds since 1970.
    """

    def __init__(self, keys: Keys, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys.secrets
        self._clock = clock
        self._known: dict[str, tuple[Caller, float]] = {}

    def verify(self, token: str, *, method: str = "") -> Caller:
        """Raises Unauthenticated: CREDENTIALS_INVALID."""
        known = self._known.get(token)
        if known is not None:
            if self._clock() < known[1]:
                return known[0]
            del self._known[token]
        caller, ends = self._verified(token, method)
        if len(self._known) >= _KNOWN_TOKENS:
            del self._known[next(iter(self._known))]
        self._known[token] = caller, ends
        return caller

    def _verified(self, token: str, method: str) -> tuple[Caller, float]:
        if len(token) > _MAX_TOKEN:
            raise credentials_invalid("the identity is too long", method=method)
        try:
            # The key is chosen among ours; the algorithm is never the token's choice.
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise credentials_invalid("the identity names an unknown key", method=method)
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={
                    "require": ["aud", "exp", "sub"],
                    "verify_exp": False,  # by our clock, below
                },
            )
        except jwt.PyJWTError as error:
            raise credentials_invalid(type(error).__name__, method=method) from None
        ends = claims["exp"]
        if not isinstance(ends, int) or self._clock() >= ends + LEEWAY_SECONDS:
            raise credentials_invalid("the identity has expired", method=method)
        try:
            identity = Identity(claims["tenant"], claims["sub"])
            allowed = scopes.expand(str(claims["scope"]).split())
        except (KeyError, TypeError, ValueError):
            raise credentials_invalid("the identity is incomplete", method=method) from None
        return Caller(identity, allowed, Passed(token)), ends + LEEWAY_SECONDS


class SignedDoor:
    """Admits who shows a signed identity."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def admit(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        token = metadata.get(IDENTITY_KEY)
        if token is None:
            raise credentials_missing()
        return self._verifier.verify(token, method=method)


def door(settings: InnerSettings) -> Door:
    """The door of a service that only other services call.

    Raises:
      SettingsError: identity is on, and there are no usable keys.
    """
    if not settings.auth_required:
        return OpenDoor()
    return SignedDoor(Verifier(keys_of(settings)))


def keys_of(settings: InnerSettings) -> Keys:
    """The keys that the settings hold. Raises SettingsError."""
    if settings.identity_keys is None:
        raise SettingsError([identity_keys_problem("is not set")])
    return keys(settings.identity_keys)
