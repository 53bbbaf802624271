"""An issuer of JWTs for a test: keys that it signs with, and a web server that shows them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example", "peregrine"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass
class Issuer:
    """Signs with the key of a kid; `document` is what it shows. `away` makes its server fail."""

    keys: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Any] | None = None
    away: bool = False
    asked: int = 0
    url: str = ""

    def document(self) -> dict[str, Any]:
        if self.shown is not None:
            return self.shown
        return {"keys": [public(kid, key) for kid, key in self.keys.items()]}

    def token(self, kid: str = "one", *, algorithm: str = "RS256", **changes: Any) -> str:
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "tenant": "acme",
            "scope": "openid run",
            "exp": int(time.time()) + 300,
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.keys[kid], algorithm, headers={"kid": kid})


def public(kid: str, key: Any) -> dict[str, Any]:
    match key:
        case rsa.RSAPrivateKey():
            shown = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            shown = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            shown = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**shown, "kid": kid, "use": "sig"}


def pem(key: rsa.RSAPrivateKey) -> bytes:
    """The public key as text: what a confused verifier would take for an HMAC secret."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def all_kinds() -> Issuer:
    return Issuer(
        keys={
            "one": rsa_key(),
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "ed": ed25519.Ed25519PrivateKey.generate(),
        }
    )


@asynccontextmanager
async def served(issuer: Issuer) -> AsyncIterator[Issuer]:
    """Shows the issuer's document by HTTP at `issuer.url`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        issuer.asked += 1
        body = json.dumps(issuer.document()).encode()
        status = b"503 away" if issuer.away else b"200 OK"
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        yield issuer
