"""Identity in tests: keys of a test's own, and the tokens that they sign.

`PEREGRINE_TEST_IDENTITY=on` makes `tests.support.stack` run everything with identity on.
"""

import functools
import os

from peregrine.kit import identity, keyring, scopes
from peregrine.kit.context import Identity
from peregrine.kit.settings import Secret

KEYS_TEXT = "test:" + "dGhlIHRlc3RzIGFyZSB0aGUgb25seSBvbmVzIHdobyBoYXZlIHRoaXM="
BOOTSTRAP = "bootstrap-for-tests-0123456789abcdef"
ADMIN = Identity("default", "admin")

AUTH = "PEREGRINE_AUTH_REQUIRED"
OFF = {AUTH: "false"}
ON = {AUTH: "true", "PEREGRINE_SECRET_IDENTITY_KEYS": KEYS_TEXT}

Metadata = tuple[tuple[str, str], ...]


def asked_for() -> bool:
    """Whether the suite is to run with identity on."""
    return os.environ.get("PEREGRINE_TEST_IDENTITY", "") in ("on", "1", "true")


def keys() -> keyring.Keys:
    return identity.keys(Secret(KEYS_TEXT))


@functools.cache
def signer() -> identity.Signer:
    return identity.Signer(keys())


def token(who: Identity, *granted: str) -> str:
    return signer().sign(who, scopes.expand(granted or (scopes.ADMIN,)))[0]


def signed(who: Identity, *granted: str) -> Metadata:
    """The metadata of a call between services on behalf of `who`; scope admin by default."""
    return ((identity.IDENTITY_KEY, token(who, *granted)),)


def bearer(credential: str) -> Metadata:
    """The metadata of a call from outside."""
    return (("authorization", f"Bearer {credential}"),)
