"""Credentials exchanged for identities that services believe.

Services other than the orchestrator know no credentials. Whoever calls them with one asks the
orchestrator once who it is, and shows the signed answer from then on. An answer is believed for 30
seconds, which is how long a revoked key still works here; while no orchestrator can be asked, for
as long as the identity lasts.
"""

import hashlib
import time
from typing import Final

from peregrine.client._identity import IdentityClient
from peregrine.kit.believed import Believed
from peregrine.kit.context import Identity

BELIEVED_SECONDS: Final = 30.0
_LIFE_SECONDS: Final = 300.0
_KEY: Final = "x-peregrine-identity"


class Exchange:
    """Credentials that were shown here, and who they are, at most `size` of them."""

    def __init__(self, client: IdentityClient, *, size: int = 4096) -> None:
        self._client = client
        self._believed: Believed[Exchanged] = Believed(
            seconds=BELIEVED_SECONDS, outage_seconds=_LIFE_SECONDS, size=size
        )

    async def identify(self, credential: str) -> "Exchanged":
        """Who shows it, and what proves that to services.

        Raises:
          Unauthenticated: CREDENTIALS_INVALID. Unavailable: nobody can be asked.
        """
        name = hashlib.sha256(credential.encode()).digest()
        return await self._believed.get(name, lambda: self._ask(credential))

    async def aclose(self) -> None:
        await self._believed.close()

    async def _ask(self, credential: str) -> "tuple[Exchanged, float]":
        answer = await self._client.exchange_credential(credential)
        ends = answer.expire_time.seconds if answer.identity_token else time.time() + _LIFE_SECONDS
        exchanged = Exchanged(
            exchange=self,
            credential=credential,
            identity=Identity(answer.for_tenant, answer.for_user),
            scopes=frozenset(answer.scopes),
            token=answer.identity_token,
        )
        return exchanged, ends


class Exchanged:
    """Proves an identity with the token that a credential was exchanged for."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        credential: str,
        identity: Identity,
        scopes: frozenset[str],
        token: str,
    ) -> None:
        self.identity = identity
        self.scopes = scopes
        self._exchange = exchange
        self._credential = credential
        self._metadata = (_KEY, token)

    def metadata(self) -> tuple[str, str]:
        return self._metadata

    async def renew(self) -> None:
        """Shows the credential again, unless that was just done."""
        newer = await self._exchange.identify(self._credential)
        self._metadata = newer.metadata()
