"""What knowing who calls costs each call: verifying an identity that was seen before, and showing
one that was minted before. The smallest of many rounds: whatever else runs here only adds to it."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row
from peregrine.kit import identity, scopes
from peregrine.kit.context import Identity
from peregrine.kit.settings import Secret

_ROUNDS = 30
_CALLS = 2000
_BOUND = 5.0


async def identities(_: Lab) -> AsyncIterator[Row]:
    text = base64.b64encode(secrets.token_bytes(32)).decode()
    keys = identity.keys(Secret(f"bench:{text}"))
    signer, who = identity.Signer(keys), Identity("acme", "ada")
    door = identity.SignedDoor(identity.Verifier(keys))
    proof = signer.proof(who, scopes.OF_RUN)
    metadata = dict([proof.metadata()])

    async def admit() -> None:
        await door.admit("/a.B/C", metadata)

    async def show() -> None:
        proof.metadata()

    async def verify_anew() -> None:
        identity.Verifier(keys).verify(metadata[identity.IDENTITY_KEY])

    yield Row(
        name="identity: a token seen before, verified",
        value=await _smallest(admit, _CALLS),
        unit="µs",
        bound=Bound(at_most=_BOUND),
    )
    yield Row(
        name="identity: a token minted before, shown",
        value=await _smallest(show, _CALLS),
        unit="µs",
        bound=Bound(at_most=_BOUND),
    )
    yield Row(
        name="identity: a token seen for the first time, verified",
        value=await _smallest(verify_anew, 50),
        unit="µs",
    )


async def _smallest(work: Callable[[], Awaitable[None]], calls: int) -> float:
    """Microseconds a call."""
    rounds = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        for _ in range(calls):
            await work()
        rounds.append((time.perf_counter() - begun) / calls * 1e6)
        await asyncio.sleep(0)
    return min(rounds)
