"""Who may come in, wired: the settings of credentials, and the door that they make."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import Counter

from peregrine.kit import identity
from peregrine.kit.address import stays_here
from peregrine.kit.context import Door, Identity, OpenDoor, Proof
from peregrine.kit.identity import Signer, Verifier
from peregrine.kit.postgres import Database
from peregrine.kit.scopes import OF_RUN
from peregrine.kit.settings import InnerSettings, Problem, Secret, setting
from peregrine.orchestrator.door import CredentialDoor
from peregrine.orchestrator.jwks import KeySet
from peregrine.orchestrator.keys import KeyStore
from peregrine.orchestrator.tokens import ASYMMETRIC, Tokens

_MIN_BOOTSTRAP = 32


def _algorithms(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not ASYMMETRIC.issuperset(names):
        raise ValueError(f"is not a list of {', '.join(sorted(ASYMMETRIC))}")
    return names


@dataclass(frozen=True, kw_only=True)
class AccessSettings(InnerSettings):
    bootstrap_api_key: Secret | None = setting(
        "PEREGRINE_SECRET_BOOTSTRAP_API_KEY",
        reference="BOOTSTRAP_API_KEY",
        default=None,
        help="the first credential of an installation, 32 visible characters or more: admin of the "
        "tenant 'default', and may make keys of any tenant. A file "
        "/etc/peregrine/secrets/BOOTSTRAP_API_KEY comes first",
    )
    jwt_issuer: str = setting(
        "PEREGRINE_JWT_ISSUER",
        default="",
        help="the `iss` of the JWTs that are believed, exactly; empty: none are",
    )
    jwt_audience: str = setting(
        "PEREGRINE_JWT_AUDIENCE",
        default="",
        help="the `aud` that a JWT must be for; needed with an issuer",
    )
    jwt_jwks: str = setting(
        "PEREGRINE_JWT_JWKS",
        default="",
        help="where the issuer's public keys are: a path, or an https URL; needed with an issuer",
    )
    jwt_algorithms: tuple[str, ...] = setting(
        "PEREGRINE_JWT_ALGORITHMS",
        default=("RS256", "ES256", "EdDSA"),
        parse=_algorithms,
        help="signature algorithms that are believed, comma separated; asymmetric ones only",
    )
    jwt_tenant_claim: str = setting(
        "PEREGRINE_JWT_TENANT_CLAIM",
        default="tenant",
        help="the claim of a JWT that names the tenant; `sub` names the user, `scope` what he may",
    )

    def problems(self) -> Sequence[Problem]:
        return (*super().problems(), *self._of_bootstrap(), *self._of_tokens())

    def _of_bootstrap(self) -> Sequence[Problem]:
        key = self.bootstrap_api_key.reveal() if self.bootstrap_api_key is not None else None
        if key is None or (
            len(key) >= _MIN_BOOTSTRAP and key.isascii() and key.isprintable() and " " not in key
        ):
            return ()
        wrong = f"is not {_MIN_BOOTSTRAP} or more visible ASCII characters"
        return (
            Problem("PEREGRINE_SECRET_BOOTSTRAP_API_KEY", wrong, "make one: openssl rand -hex 32"),
        )

    def _of_tokens(self) -> Sequence[Problem]:
        found = []
        given = {
            "PEREGRINE_JWT_AUDIENCE": self.jwt_audience,
            "PEREGRINE_JWT_JWKS": self.jwt_jwks,
        }
        for variable, value in given.items():
            if self.jwt_issuer and not value:
                found.append(Problem(variable, "is not set", "set it, as PEREGRINE_JWT_ISSUER is"))
            if value and not self.jwt_issuer:
                wrong = f"is not set, but {variable} is"
                found.append(Problem("PEREGRINE_JWT_ISSUER", wrong, "set both or neither"))
        url = urlsplit(self.jwt_jwks)
        if url.scheme == "http" and not stays_here(url.netloc):
            remedy = "use https: whoever changes these keys on their way could be anybody"
            found.append(Problem("PEREGRINE_JWT_JWKS", "is http to another machine", remedy))
        return found


class Access:
    """The door, and what proves for whom a run is."""

    def __init__(self, door: Door, signer: Signer | None) -> None:
        self.door = door
        self.signer = signer

    def of_run(self, identity: Identity) -> Proof | None:
        """Proves that a run acts for `identity`, whoever owns it now and however long it takes."""
        return None if self.signer is None else self.signer.proof(identity, OF_RUN)


@asynccontextmanager
async def access(
    settings: AccessSettings, *, database: Database, checked: Counter, unreadable: Counter
) -> AsyncIterator[Access]:
    """Opens the door.

    `checked` counts by kind and outcome, `unreadable` readings of the issuer's keys that failed.
    """
    if not settings.auth_required:
        yield Access(OpenDoor(), None)
        return
    keys = identity.keys_of(settings)
    signer = Signer(keys)
    async with contextlib.AsyncExitStack() as stack:
        tokens = None
        if settings.jwt_issuer:
            key_set = KeySet(settings.jwt_jwks, failures=unreadable)
            stack.push_async_callback(key_set.close)
            tokens = Tokens(
                keys=key_set,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                algorithms=settings.jwt_algorithms,
                tenant_claim=settings.jwt_tenant_claim,
            )
        door = CredentialDoor(
            verifier=Verifier(keys),
            signer=signer,
            keys=KeyStore(database),
            tokens=tokens,
            bootstrap=settings.bootstrap_api_key,
            checked=checked,
        )
        stack.push_async_callback(door.close)
        yield Access(door, signer)
