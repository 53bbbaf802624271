"""JWTs: which are believed and whose they are; keys that rotate, go away and come back."""

import json
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit.background import Failures
from peregrine.kit.context import Identity
from peregrine.kit.errors import Unavailable
from peregrine.orchestrator import jwks
from peregrine.orchestrator.jwks import KeySet
from peregrine.orchestrator.tokens import Refused, Tokens, user_of
from tests.component.identity import forgeries
from tests.support import stack
from tests.support.edge import edge, parse
from tests.support.eventually import eventually
from tests.support.jwks import AUDIENCE, ISSUER, Issuer, all_kinds, pem, public, rsa_key, served


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


FAILURES = Failures().of("jwks")


def tokens(keys: KeySet, **changes: Any) -> Tokens:
    given = {
        "keys": keys,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "algorithms": ("RS256", "ES256", "EdDSA"),
        "tenant_claim": "tenant",
    }
    return Tokens(**(given | changes))


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return all_kinds()


@pytest.fixture
def file(issuer: Issuer, tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.document()))
    return path


@pytest.mark.parametrize(("kid", "algorithm"), [("one", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")])
async def test_a_token_says_who_it_is_and_what_he_may(
    issuer: Issuer, file: Path, kid: str, algorithm: str
) -> None:
    token = issuer.token(kid, algorithm=algorithm)
    who, allowed, ends = await tokens(KeySet(str(file), failures=FAILURES)).read(token)
    assert who == Identity("acme", "ada")
    assert allowed == {"read", "run"}
    assert ends > time.time() + 300


def forged(issuer: Issuer) -> dict[str, str]:
    now = int(time.time())
    stranger = Issuer(keys={"one": rsa_key()})
    claims = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "scope": "admin",
        "exp": now + 300,
    }  # fmt: skip
    good = issuer.token()
    head, body, signature = good.split(".")
    key = pem(issuer.keys["one"])
    return {
        "signed by a stranger": stranger.token(),
        "an unknown kid": Issuer(keys={"two": rsa_key()}).token("two"),
        "another issuer": issuer.token(iss="https://evil.example"),
        "no issuer": issuer.token(iss=None),
        "another audience": issuer.token(aud="else"),
        "several audiences, not us": issuer.token(aud=["a", "b"]),
        "no audience": issuer.token(aud=None),
        "expired": issuer.token(exp=now - 31),
        "no end": issuer.token(exp=None),
        "not yet": issuer.token(nbf=now + 60),
        "of the future": issuer.token(iat=now + 60),
        "no subject": issuer.token(sub=None),
        "an empty subject": issuer.token(sub=""),
        "a subject of 256": issuer.token(sub="x" * 256),
        "no tenant": issuer.token(tenant=None),
        "all tenants": issuer.token(tenant="*"),
        "a tenant that is a list": issuer.token(tenant=["acme"]),
        "alg none": f"{forgeries.part({'alg': 'none', 'kid': 'one'})}.{body}.",
        "alg none, signed": f"{forgeries.part({'alg': 'none', 'kid': 'one'})}.{body}.{signature}",
        "alg nOnE": f"{forgeries.part({'alg': 'nOnE', 'kid': 'one'})}.{body}.",
        "HS256 under the public key": forgeries.by_hand(
            {"alg": "HS256", "kid": "one"}, claims, key, "sha256"
        ),
        "HS512 under the public key": forgeries.by_hand(
            {"alg": "HS512", "kid": "one"}, claims, key, "sha512"
        ),
        "RS512, which is not listed": issuer.token(algorithm="RS512"),
        "PS256 with the key of RS256": issuer.token(algorithm="PS256"),
        "the key of another algorithm": f"{forgeries.part({'alg': 'ES256', 'kid': 'one'})}."
        f"{body}.{signature}",
        "altered": f"{head}.{forgeries.part(claims)}.{signature}",
        "without signature": f"{head}.{body}.",
        "a kid that is no text": f"{forgeries.part({'alg': 'RS256', 'kid': 1})}.{body}.{signature}",
        "a key of its own": f"{forgeries.part({'alg': 'RS256', 'jwk': public('x', rsa_key())})}."
        f"{body}.{signature}",
        "critical extensions": f"{forgeries.part({'alg': 'RS256', 'kid': 'one', 'crit': ['x']})}."
        f"{body}.{signature}",
        "words": "let me in",
        "dots": "..",
        "nothing": "",
    }


async def test_what_is_forged_is_refused_for_its_reason(issuer: Issuer, file: Path) -> None:
    reader = tokens(KeySet(str(file), failures=FAILURES))
    await reader.read(issuer.token())
    for name, token in forged(issuer).items():
        with pytest.raises(Refused):
            pytest.fail(f"{name}: {await reader.read(token)}")


@pytest.mark.parametrize("algorithms", [("HS256",), ("none",), ("RS256", "HS512"), ("rs256",)])
def test_only_asymmetric_algorithms_can_be_configured(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="asymmetric"):
        tokens(KeySet("/nowhere", failures=FAILURES), algorithms=algorithms)


async def test_scopes_that_are_not_ours_are_nothing(issuer: Issuer, file: Path) -> None:
    reader = tokens(KeySet(str(file), failures=FAILURES))
    for scope, allowed in (
        ("openid profile", set()),
        ("read", {"read"}),
        (["admin", 7], {"read", "run", "admin"}),
        ("admin bootstrap", {"read", "run", "admin"}),
        (None, set()),
        (5, set()),
    ):
        assert (await reader.read(issuer.token(scope=scope)))[1] == allowed


def test_two_subjects_are_never_one_user() -> None:
    assert user_of("ada@acme.example") == "ada@acme.example"
    names = [
        user_of(subject)
        for subject in ("ada", "Ada", "ADA", "auth0|ada", "ada ", "ädä", "a" * 64, user_of("Ada"))
    ]
    assert len(set(names)) == len(names)
    for name in names:
        Identity("acme", name)


def test_keys_that_cannot_be_trusted_are_left_out(issuer: Issuer) -> None:
    shown = public("one", issuer.keys["one"])
    rest = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"},
        public("short", rsa_key(1024)),
        {**public("enc", issuer.keys["one"]), "use": "enc"},
        {**public("confused", issuer.keys["one"]), "alg": "HS256"},
        {"kty": "RSA", "kid": "broken"},
        {"kty": "what", "kid": "unknown"},
        "not a key",
    ]
    assert list(jwks.usable(json.dumps({"keys": [shown, *rest]}).encode())) == ["one"]
    for text in ("", "[]", "{}", '{"keys": {}}', '{"keys": []}', json.dumps({"keys": rest})):
        with pytest.raises(ValueError, match=r"."):
            jwks.usable(text.encode())


async def test_a_rotation_is_followed_at_once_and_guesses_are_not() -> None:
    clock = Clock()
    issuer = Issuer(keys={"one": rsa_key()})
    async with served(issuer):
        keys = KeySet(issuer.url, failures=FAILURES, monotonic=clock)
        reader = tokens(keys)
        await reader.read(issuer.token())
        assert issuer.asked == 1
        for _ in range(20):
            await reader.read(issuer.token())
        issuer.keys["two"] = rsa_key()
        clock.now += 11
        assert (await reader.read(issuer.token("two")))[0].user == "ada"
        assert issuer.asked == 2
        guess = Issuer(keys={f"guess-{number}": issuer.keys["one"] for number in range(50)})
        for kid in guess.keys:
            with pytest.raises(Refused):
                await reader.read(guess.token(kid))
        assert issuer.asked == 2, "not more than once in ten seconds"
        del issuer.keys["one"]
        old = Issuer(keys={"one": rsa_key()}).token()
        clock.now += 301
        await reader.read(issuer.token("two"))
        await eventually(lambda: issuer.asked == 3)
        await eventually(lambda: "one" not in (keys._keys or {}))
        with pytest.raises(Refused):
            await reader.read(old)
        await keys.close()


async def test_while_the_issuer_is_away_the_last_keys_serve() -> None:
    clock = Clock()
    issuer = Issuer(keys={"one": rsa_key()}, away=True)
    async with served(issuer):
        keys = KeySet(issuer.url, failures=FAILURES, monotonic=clock)
        reader = tokens(keys)
        with pytest.raises(Unavailable) as caught:
            await reader.read(issuer.token())
        assert caught.value.reason == "JWKS_UNAVAILABLE"
        assert caught.value.retry_after is not None
        issuer.away = False
        clock.now += 11
        await reader.read(issuer.token())
        for shown in (None, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA"}]}):
            issuer.away, issuer.shown = shown is None, shown
            asked = issuer.asked
            clock.now += 3600
            assert (await reader.read(issuer.token()))[0].user == "ada"
            await eventually(
                lambda asked=asked: issuer.asked == asked + 1 and keys._reading is None
            )
            assert (await reader.read(issuer.token()))[0].user == "ada"
        await keys.close()
    registry = CollectorRegistry()
    nobody = KeySet(issuer.url, failures=Failures(registry).of("jwks"))
    with pytest.raises(Unavailable):
        await tokens(nobody).read(issuer.token())
    counted = {"task": "jwks"}
    assert registry.get_sample_value("peregrine_background_failures_total", counted) == 1
    await nobody.close()


async def test_a_document_without_end_is_not_read() -> None:
    issuer = Issuer(keys={"one": rsa_key()})
    issuer.shown = issuer.document() | {"padding": "x" * 300_000}
    async with served(issuer):
        keys = KeySet(issuer.url, failures=FAILURES)
        with pytest.raises(Unavailable):
            await tokens(keys).read(issuer.token())
        await keys.close()


async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "jwks.json"
    issuer = Issuer(keys={"one": rsa_key()})
    path.write_text(json.dumps(issuer.document()))
    reader = tokens(KeySet(str(path), failures=FAILURES, monotonic=clock))
    await reader.read(issuer.token())
    issuer.keys["two"] = rsa_key()
    path.write_text(json.dumps(issuer.document()))
    clock.now += 11
    assert (await reader.read(issuer.token("two")))[0].user == "ada"


async def test_a_jwt_goes_all_the_way(migrated_dsn: str, redis_url: str) -> None:
    """From the edge to a run that is remembered, and to nobody else's."""
    issuer = Issuer(keys={"one": rsa_key()})
    async with AsyncExitStack() as open_:
        await open_.enter_async_context(served(issuer))
        settings = {
            "PEREGRINE_JWT_ISSUER": ISSUER,
            "PEREGRINE_JWT_AUDIENCE": AUDIENCE,
            "PEREGRINE_JWT_JWKS": issuer.url,
        }
        running = await open_.enter_async_context(
            stack.in_process(
                dsn=migrated_dsn, redis_url=redis_url, identity=True, environ=os.environ | settings
            )
        )
        server = await open_.enter_async_context(
            edge(
                orchestrator=running.first.address,
                memory=running.environ["PEREGRINE_MEMORY_TARGET"],
                PEREGRINE_AUTH_REQUIRED="true",
            )
        )
        http = await open_.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=20))

        def shows(**claims: Any) -> dict[str, str]:
            return {"Authorization": f"Bearer {issuer.token(**claims)}"}

        applied = await http.get("/v1/agents", headers=shows(tenant="local", scope="read"))
        assert [each["name"] for each in applied.json()["agents"]] == [stack.AGENT]
        body = {"agent": stack.AGENT, "message": "What is 25 * 17?"}
        looks = shows(tenant="local", sub="Auth0|Grace", scope="read")
        refused = await http.post("/v1/runs", json=body, headers=looks)
        assert (refused.status_code, refused.json()["reason"]) == (403, "SCOPE_MISSING")
        assert 'scope="run"' in refused.headers["WWW-Authenticate"]
        runs = shows(tenant="local", sub="Auth0|Grace", scope="openid run")
        answer = await http.post("/v1/chat/stream", json=body, headers=runs)
        assert parse(answer.content)[-1].data["run_finished"]["state"] == "RUN_STATE_SUCCEEDED"
        found = (await http.get("/v1/conversations", headers=looks)).json()["conversations"]
        assert len(found) == 1 and found[0]["version"] >= 2
        for other in (shows(tenant="local"), shows(tenant="other", sub="Auth0|Grace")):
            listed = (await http.get("/v1/conversations", headers=other)).json()
            assert listed["conversations"] == []
        late = await http.get("/v1/runs", headers=shows(exp=int(time.time()) - 60))
        assert late.status_code == 401
