"""The door: who shows a credential, or an identity that a service signed, is known from here on.

A credential is checked once and then believed for ten seconds, so a run's many calls cost one look
at the database. While PostgreSQL or the issuer is away, what was good before stays good for ten
minutes at most: nothing can be revoked in a database that is away.

Whatever is wrong with a credential, the caller is told the same; the log says what.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter

from peregrine.kit import scopes
from peregrine.kit.bearer import credential_in
from peregrine.kit.believed import Believed
from peregrine.kit.context import Caller, Identity
from peregrine.kit.errors import PeregrineError, Unavailable
from peregrine.kit.identity import (
    IDENTITY_KEY,
    Signer,
    Verifier,
    credentials_invalid,
    credentials_missing,
)
from peregrine.kit.settings import Secret
from peregrine.orchestrator import credentials
from peregrine.orchestrator.keys import FoundKey, KeyStore
from peregrine.orchestrator.tokens import Refused, Tokens

EXCHANGE: Final = "/peregrine.api.identity.v1.IdentityService/ExchangeCredential"
BOOTSTRAP_USER: Final = Identity("default", "admin")
_BELIEVED_SECONDS: Final = 10.0
_OUTAGE_SECONDS: Final = 600.0
_KNOWN: Final = 4096
_LOOKUPS_AT_ONCE: Final = 3
_TURN_SECONDS: Final = 2.0
_NEVER: Final = float("inf")


class CredentialDoor:
    """Knows API keys, JWTs, the bootstrap key, and identities that services signed.

    Args:
      tokens: which JWTs are believed; None: none.
      bootstrap: the key of the installation; None: there is none.
      checked: counts by kind and outcome.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        verifier: Verifier,
        signer: Signer,
        keys: KeyStore,
        tokens: Tokens | None,
        bootstrap: Secret | None,
        checked: Counter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._signer = signer
        self._keys = keys
        self._tokens = tokens
        self._bootstrap = credentials.digest(bootstrap.reveal()) if bootstrap else None
        self._checked = checked
        self._clock = clock
        self._turns = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        self._believed: Believed[Caller] = Believed(
            seconds=_BELIEVED_SECONDS, outage_seconds=_OUTAGE_SECONDS, size=_KNOWN, clock=clock
        )

    async def admit(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        """Raises Unauthenticated, or Unavailable when that cannot be told at the moment."""
        token = metadata.get(IDENTITY_KEY)
        if token is not None and method != EXCHANGE:
            return self._verifier.verify(token, method=method)
        header = metadata.get("authorization")
        if header is None:
            raise credentials_missing()
        credential = credential_in(header)
        if credential is None:
            raise credentials_invalid("the header is not `Bearer …`", method=method)
        name = hashlib.sha256(credential.encode()).digest()
        # Whoever exchanges believes the answer for a while, so it is how things are now.
        ask = self._believed.renew if method == EXCHANGE else self._believed.get
        return await ask(name, lambda: self._check(credential, method))

    async def close(self) -> None:
        await self._believed.close()

    async def _check(self, credential: str, method: str) -> tuple[Caller, float]:
        kind, check = self._kind(credential)
        try:
            identity, allowed, ends = await check(credential)
        except Refused as refused:
            self._checked.labels(kind, "refused").inc()
            raise credentials_invalid(str(refused), method=method) from None
        except Unavailable:
            self._checked.labels(kind, "unavailable").inc()
            raise
        self._checked.labels(kind, "accepted").inc()
        return Caller(identity, allowed, self._signer.proof(identity, allowed)), ends

    def _kind(self, credential: str) -> tuple[str, Any]:
        digest = credentials.digest(credential)
        if self._bootstrap is not None and hmac.compare_digest(digest, self._bootstrap):
            return "bootstrap", self._by_bootstrap
        if credential.startswith("pk_"):
            return "api_key", self._by_api_key
        return "jwt", self._by_token

    async def _by_bootstrap(self, _: str) -> tuple[Identity, frozenset[str], float]:
        return BOOTSTRAP_USER, scopes.OF_BOOTSTRAP, _NEVER

    async def _by_api_key(self, credential: str) -> tuple[Identity, frozenset[str], float]:
        key_id = credentials.key_id_of(credential)
        if key_id is None:
            raise Refused("the key is malformed")
        found = await self._find(key_id)
        same = credentials.is_same(credential, found.secret_digest if found else None)
        if found is None or not same:
            raise Refused("the key is unknown, or its secret is another")
        if found.revoked:
            raise Refused("the key is revoked")
        if found.ends is not None and found.ends <= self._clock():
            raise Refused("the key has expired")
        if found.stale_use:
            # For people only; no call fails for it.
            with contextlib.suppress(PeregrineError):
                await self._keys.used(found.identity.tenant, key_id)
        ends = _NEVER if found.ends is None else found.ends
        return found.identity, scopes.expand(found.scopes.intersection(scopes.GRANTABLE)), ends

    async def _find(self, key_id: str) -> FoundKey | None:
        # A flood of guesses waits here, and not before the database that runs are written to.
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(
                "too many unknown keys are being looked up", reason="OVERLOADED", retry_after=1.0
            ) from None
        try:
            return await self._keys.find(key_id)
        finally:
            self._turns.release()

    async def _by_token(self, credential: str) -> tuple[Identity, frozenset[str], float]:
        if self._tokens is None:
            raise Refused("tokens are not accepted here")
        return await self._tokens.read(credential)
