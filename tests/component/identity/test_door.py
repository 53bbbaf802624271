"""The door on a real database: keys made, believed for a while, revoked, expired; and JWTs."""

import datetime
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import CollectorRegistry, Counter

from peregrine.kit.background import Failures
from peregrine.kit.context import Identity
from peregrine.kit.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from peregrine.kit.identity import Signer, Verifier
from peregrine.kit.postgres import Database
from peregrine.kit.settings import Secret, SettingsError, load
from peregrine.orchestrator import credentials
from peregrine.orchestrator.access import AccessSettings
from peregrine.orchestrator.door import EXCHANGE, CredentialDoor
from peregrine.orchestrator.jwks import KeySet
from peregrine.orchestrator.keys import KeyStore
from peregrine.orchestrator.tokens import Tokens
from tests.component.identity.conftest import ADA, Whole
from tests.support.dsn import socket_path, through
from tests.support.identity import ADMIN, BOOTSTRAP, ON, bearer, keys, signed
from tests.support.jwks import AUDIENCE, ISSUER, Issuer, rsa_key
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.stack import new_key

FAILURES = Failures().of("jwks")
METHOD = "/peregrine.api.orchestrator.v1.OrchestratorService/GetRun"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def proxy(migrated_dsn: str) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(socket_path(migrated_dsn)) as proxy:
        yield proxy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def door(migrated_dsn: str, proxy: FaultProxy, clock: Clock) -> AsyncIterator[CredentialDoor]:
    async with await Database.connect(through(migrated_dsn, proxy.address), size=2) as database:
        door = CredentialDoor(
            verifier=Verifier(keys()),
            signer=Signer(keys()),
            keys=KeyStore(database),
            tokens=None,
            bootstrap=Secret(BOOTSTRAP),
            checked=Counter("checked", "x", ["kind", "outcome"], registry=CollectorRegistry()),
            clock=clock,
        )
        yield door
        await door.close()


async def admit(door: CredentialDoor, credential: str, method: str = METHOD) -> Identity:
    return (await door.admit(method, dict(bearer(credential)))).identity


async def test_a_key_is_who_it_was_made_for_and_the_bootstrap_key_is_the_admin(
    door: CredentialDoor, migrated_dsn: str
) -> None:
    assert await admit(door, await new_key(migrated_dsn, ADA)) == ADA
    assert await admit(door, BOOTSTRAP) == ADMIN
    caller = await door.admit(METHOD, dict(bearer(BOOTSTRAP)))
    assert caller.scopes == {"read", "run", "admin", "bootstrap"}
    assert caller.proof is not None
    inside = Verifier(keys()).verify(caller.proof.metadata()[1])
    assert (inside.identity, inside.scopes) == (ADMIN, caller.scopes)


async def test_a_revoked_key_works_for_ten_seconds_at_most_and_is_exchanged_no_more(
    door: CredentialDoor, migrated_dsn: str, clock: Clock
) -> None:
    key = await new_key(migrated_dsn, ADA)
    await admit(door, key)
    async with await Database.connect(migrated_dsn, size=1) as database:
        await KeyStore(database).revoke("acme", key.split("_")[1])
    clock.now += 9.9
    assert await admit(door, key) == ADA
    with pytest.raises(Unauthenticated):
        await admit(door, key, EXCHANGE)
    with pytest.raises(Unauthenticated):
        await admit(door, key)


async def test_a_key_ends_to_the_second_however_lately_it_was_believed(
    door: CredentialDoor, migrated_dsn: str, clock: Clock
) -> None:
    ends = datetime.datetime.fromtimestamp(clock.now + 5, datetime.UTC)
    key = await new_key(migrated_dsn, ADA, expire_time=ends)
    clock.now += 4.9
    assert await admit(door, key) == ADA
    clock.now += 0.1
    with pytest.raises(Unauthenticated):
        await admit(door, key)


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_while_the_database_is_away_who_was_known_stays_known(
    door: CredentialDoor, migrated_dsn: str, clock: Clock, proxy: FaultProxy, fault: str
) -> None:
    known, unknown = await new_key(migrated_dsn, ADA), await new_key(migrated_dsn, ADA)
    await admit(door, known)
    getattr(proxy, fault)()
    clock.now += 60
    assert await admit(door, known) == ADA
    assert await admit(door, known, EXCHANGE) == ADA
    with pytest.raises(Unavailable) as caught:
        await admit(door, unknown)
    assert caught.value.retry_after is not None
    assert await admit(door, BOOTSTRAP) == ADMIN
    clock.now += 600
    with pytest.raises(Unavailable):
        await admit(door, known)
    proxy.resume()


async def test_an_unknown_key_takes_the_path_of_a_known_one(
    door: CredentialDoor, migrated_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read and one comparison of whole digests in constant time, whatever is wrong."""
    compared: list[tuple[int, int]] = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(credentials, "hmac", SimpleNamespace(compare_digest=compare_digest))
    good = await new_key(migrated_dsn, ADA)
    wrong_secret = good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB")
    for key in ("pk_" + "0" * 16 + "_" + "0" * 43, wrong_secret, good):
        compared.clear()
        try:
            await admit(door, key)
        except Unauthenticated:
            assert key != good
        assert compared == [(32, 32)], key


def test_a_key_has_256_bits_and_nothing_of_it_can_be_told_from_what_is_kept() -> None:
    made = [credentials.written(*credentials.new_key()) for _ in range(200)]
    assert len(set(made)) == len({key[20:] for key in made}) == 200
    assert all(len(key.rpartition("_")[2]) == 43 for key in made)
    assert 62**43 > 2**256
    assert credentials.is_same(made[0], credentials.digest(made[0]))
    assert not credentials.is_same(made[1], credentials.digest(made[0]))
    assert not credentials.is_same(made[0], None)
    assert {credentials.key_id_of(key) for key in made} == {key.split("_")[1] for key in made}
    assert credentials.key_id_of("pk_short_" + "x" * 43) is None


async def test_the_life_of_a_key_over_grpc(whole: Whole) -> None:
    create, revoke = (
        whole.of("IdentityService/CreateApiKey"),
        whole.of("IdentityService/RevokeApiKey"),
    )
    admin = bearer(whole.keys["ada"])
    request = {"name": "ci", "scopes": ["read", "run"], "for_user": "bot", "request_id": "r1"}
    made = await create(admin, **request)
    assert made.credential.startswith(f"pk_{made.key.key_id}_")
    assert (made.key.for_tenant, made.key.for_user) == ("acme", "bot")
    assert list(made.key.scopes) == ["run"]
    assert not made.key.HasField("expire_time") and not made.key.HasField("last_used_time")

    again = await create(admin, **request)
    assert (again.key.key_id, again.credential) == (made.key.key_id, "")
    with pytest.raises(AlreadyExists) as reused:
        await create(admin, **(request | {"name": "other"}))
    assert reused.value.reason == "REQUEST_ID_REUSED"

    own = bearer(made.credential)
    assert await whole.of("OrchestratorService/ListRuns")(own)
    with pytest.raises(PermissionDenied) as refused:
        await create(own, **request)
    assert refused.value.reason == "SCOPE_MISSING"
    (listed,) = [
        key
        for key in (await whole.of("IdentityService/ListApiKeys")(admin)).keys
        if key.key_id == made.key.key_id
    ]
    assert listed.name == "ci" and listed.HasField("last_used_time")

    first = await revoke(admin, key_id=made.key.key_id)
    second = await revoke(admin, key_id=made.key.key_id)
    assert first.key.revoke_time == second.key.revoke_time
    with pytest.raises(Unauthenticated):
        await whole.of("IdentityService/ExchangeCredential")(own)
    for key_id in ("", "nothing", made.credential, "x" * 100, "a'b"):
        with pytest.raises(NotFound):
            await revoke(admin, key_id=key_id)


async def test_the_bootstrap_key_makes_keys_of_any_tenant(whole: Whole) -> None:
    create = whole.of("IdentityService/CreateApiKey")
    made = await create(
        bearer(BOOTSTRAP), name="first", scopes=["admin"], for_tenant="newcomers", for_user="eve"
    )
    exchanged = await whole.of("IdentityService/ExchangeCredential")(bearer(made.credential))
    assert (exchanged.for_tenant, exchanged.for_user) == ("newcomers", "eve")
    listed = await whole.of("IdentityService/ListApiKeys")(
        bearer(BOOTSTRAP), for_tenant="newcomers"
    )
    assert [key.key_id for key in listed.keys] == [made.key.key_id]
    gone = await whole.of("IdentityService/RevokeApiKey")(
        bearer(BOOTSTRAP), for_tenant="newcomers", key_id=made.key.key_id
    )
    assert gone.key.HasField("revoke_time")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"for_user": "Ada Lovelace"}, "for_user"),
        ({"for_user": "x" * 64}, "for_user"),
        ({"for_tenant": "*"}, "for_tenant"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"expire_time": Timestamp(seconds=1)}, "expire_time"),
        ({"expire_time": Timestamp(seconds=10**12)}, "expire_time"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_with_the_field(
    whole: Whole, fields: dict[str, Any], field: str
) -> None:
    create = whole.of("IdentityService/CreateApiKey")
    with pytest.raises(InvalidArgument) as caught:
        await create(bearer(BOOTSTRAP), **({"name": "x", "scopes": ["read"]} | fields))
    assert caught.value.reason == "KEY_INVALID"
    assert [name for name, _ in caught.value.violations] == [field]


async def test_keys_are_listed_in_pages(whole: Whole) -> None:
    create, listed = (
        whole.of("IdentityService/CreateApiKey"),
        whole.of("IdentityService/ListApiKeys"),
    )
    made = [
        (await create(signed(ADA), name=f"k{number}", scopes=["read"])).key.key_id
        for number in range(5)
    ]
    seen: list[str] = []
    token = ""
    while True:
        page = await listed(signed(ADA), page_size=2, page_token=token)
        seen += [key.key_id for key in page.keys]
        token = page.next_page_token
        if not token:
            break
    assert seen[:5] == made[::-1] and len(seen) == len(set(seen)) == 7
    for wrong in ({"page_token": "x"}, {"page_token": "MjAyNnxh"}, {"page_size": 201}):
        with pytest.raises(InvalidArgument):
            await listed(signed(ADA), **wrong)


async def test_a_jwt_opens_the_door_beside_keys(migrated_dsn: str, tmp_path: Path) -> None:
    issuer = Issuer(keys={"one": rsa_key()})
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.document()))
    async with await Database.connect(migrated_dsn, size=1) as database:
        door = CredentialDoor(
            verifier=Verifier(keys()),
            signer=Signer(keys()),
            keys=KeyStore(database),
            tokens=Tokens(
                keys=KeySet(str(path), failures=FAILURES),
                issuer=ISSUER,
                audience=AUDIENCE,
                algorithms=("RS256",),
                tenant_claim="org",
            ),
            bootstrap=None,
            checked=Counter("checked", "x", ["kind", "outcome"], registry=CollectorRegistry()),
        )
        assert await admit(door, issuer.token(org="acme")) == ADA
        for refused in (issuer.token(), issuer.token(org="acme", aud="x"), BOOTSTRAP, "x.y.z"):
            with pytest.raises(Unauthenticated):
                await admit(door, refused)
        await door.close()


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"PEREGRINE_SECRET_BOOTSTRAP_API_KEY": "short"}, "PEREGRINE_SECRET_BOOTSTRAP_API_KEY"),
        ({"PEREGRINE_SECRET_BOOTSTRAP_API_KEY": "a " * 20}, "PEREGRINE_SECRET_BOOTSTRAP_API_KEY"),
        ({"PEREGRINE_JWT_ISSUER": "https://i"}, "PEREGRINE_JWT_AUDIENCE"),
        ({"PEREGRINE_JWT_JWKS": "/x"}, "PEREGRINE_JWT_ISSUER"),
        ({"PEREGRINE_JWT_ALGORITHMS": "HS256"}, "PEREGRINE_JWT_ALGORITHMS"),
        ({"PEREGRINE_JWT_ALGORITHMS": "RS256,none"}, "PEREGRINE_JWT_ALGORITHMS"),
        ({"PEREGRINE_JWT_ALGORITHMS": ","}, "PEREGRINE_JWT_ALGORITHMS"),
        (
            {
                "PEREGRINE_JWT_ISSUER": "i",
                "PEREGRINE_JWT_AUDIENCE": "a",
                "PEREGRINE_JWT_JWKS": "http://issuer.example/jwks",
            },
            "PEREGRINE_JWT_JWKS",
        ),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(environ: dict[str, str], variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(AccessSettings, ON | environ)
    assert caught.value.problems[0].variable == variable
    assert "short" not in str(caught.value)
