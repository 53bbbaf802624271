"""Identities and tokens that nobody must believe, each wrong in one way."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from peregrine.kit import identity
from peregrine.kit.context import Identity
from peregrine.kit.settings import Secret
from tests.support import identity as ours

_KEY = ours.keys().signing[1]


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], key: bytes, digest: str) -> str:
    """A token under HMAC, also where a library would refuse to make it."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.new(key, signed.encode(), digest).digest())}"


def claims(who: Identity, **changes: Any) -> dict[str, Any]:
    whole = {
        "aud": "peregrine",
        "tenant": who.tenant,
        "sub": who.user,
        "scope": "admin",
        "exp": int(time.time()) + 300,
    } | changes
    return {name: value for name, value in whole.items() if value is not None}


def identities(who: Identity) -> dict[str, str]:
    """Forged identities between services."""
    good = ours.token(who)
    head, body, signature = good.split(".")
    header = {"alg": "HS256", "typ": "JWT", "kid": "test"}
    other = identity.keys(Secret("test:" + base64.b64encode(bytes(range(32))).decode()))
    stranger = identity.keys(Secret("another:" + base64.b64encode(_KEY).decode()))
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    altered = json.loads(base64.urlsafe_b64decode(body + "=="))

    def made(**changes: Any) -> str:
        return by_hand(header, claims(who, **changes), _KEY, "sha256")

    return {
        "empty": "",
        "no token": "let me in",
        "another key": identity.Signer(other).sign(who, frozenset({"admin"}))[0],
        "an unknown kid": identity.Signer(stranger).sign(who, frozenset({"admin"}))[0],
        "no kid": by_hand({"alg": "HS256"}, claims(who), _KEY, "sha256"),
        "a claim altered": f"{head}.{part(altered | {'sub': 'mallory'})}.{signature}",
        "a scope altered": f"{head}.{part(altered | {'scope': 'bootstrap'})}.{signature}",
        "no signature": f"{head}.{body}.",
        "alg none": f"{part({'alg': 'none', 'kid': 'test'})}.{body}.",
        "alg None": f"{part({'alg': 'None', 'kid': 'test'})}.{body}.",
        "alg none, signed": f"{part({'alg': 'none', 'kid': 'test'})}.{body}.{signature}",
        "HS512": by_hand(header | {"alg": "HS512"}, claims(who), _KEY, "sha512"),
        "RS256": jwt.encode(claims(who), pair, "RS256", headers={"kid": "test"}),
        "expired": made(exp=int(time.time()) - 31),
        "no end": made(exp=None),
        "an end that is none": made(exp="tomorrow"),
        "another audience": made(aud="somebody"),
        "no audience": made(aud=None),
        "no tenant": made(tenant=None),
        "all tenants": made(tenant="*"),
        "a tenant that is none": made(tenant="a' OR 'b"),
        "a tenant that is no text": made(tenant={"a": 1}),
        "no user": made(sub=None),
        "too long": made(padding="x" * 5000),
    }


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
