"""Identities that services sign: minted, verified, remembered, rotated; scopes; bearer headers."""

import base64
import itertools
from collections.abc import Mapping

import jwt
import pytest

from peregrine.kit import bearer, context, identity, keyring, scopes
from peregrine.kit.context import Identity
from peregrine.kit.errors import Unauthenticated
from peregrine.kit.identity import LIFE_SECONDS, Signer, Verifier
from peregrine.kit.settings import InnerSettings, Secret, SettingsError, load
from tests.component.identity import forgeries
from tests.support.identity import KEYS_TEXT, keys, token

ADA = Identity("acme", "ada")
RUN = scopes.expand({"run"})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def line(kid: str, byte: int, length: int = 32) -> str:
    return f"{kid}:{base64.b64encode(bytes([byte]) * length).decode()}"


def of(*lines: str) -> keyring.Keys:
    return identity.keys(Secret("\n".join(lines)))


def test_what_is_signed_is_verified_with_all_that_it_says() -> None:
    caller = Verifier(keys()).verify(token(ADA, "run"))
    assert (caller.identity, caller.scopes) == (ADA, frozenset({"read", "run"}))
    assert caller.proof is not None
    assert caller.proof.metadata() == ("x-peregrine-identity", token(ADA, "run"))


@pytest.mark.parametrize(("name", "forged"), forgeries.identities(ADA).items())
def test_what_is_forged_is_not(name: str, forged: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Verifier(keys()).verify(forged)
    assert caught.value.reason == "CREDENTIALS_INVALID"
    assert forged == "" or forged not in str(caught.value)


def test_an_identity_ends_also_when_it_was_verified_before() -> None:
    clock = Clock()
    signed, ends = Signer(keys(), clock=clock).sign(ADA, RUN)
    verifier = Verifier(keys(), clock=clock)
    assert ends == clock.now + LIFE_SECONDS
    assert verifier.verify(signed).identity == ADA
    clock.now = ends + identity.LEEWAY_SECONDS - 1
    assert verifier.verify(signed).identity == ADA
    clock.now += 1
    with pytest.raises(Unauthenticated):
        verifier.verify(signed)
    with pytest.raises(Unauthenticated):
        Verifier(keys(), clock=clock).verify(signed)


def test_a_token_is_used_again_for_a_minute_and_has_four_left_whenever_it_is_given() -> None:
    clock = Clock()
    signer = Signer(keys(), clock=clock)
    proof = signer.proof(ADA, RUN)
    first = proof.metadata()
    clock.now += identity.RENEW_SECONDS - 1
    assert proof.metadata() == first == signer.proof(ADA, RUN).metadata()
    assert signer.sign(ADA, RUN)[1] - clock.now > 240
    clock.now += 1
    assert proof.metadata() != first
    assert signer.sign(ADA, RUN)[1] - clock.now > 240
    assert signer.proof(Identity("acme", "bob"), RUN).metadata() != proof.metadata()
    assert signer.proof(ADA, scopes.expand({"admin"})).metadata() != proof.metadata()


def test_keys_are_rotated_without_refusing_anybody() -> None:
    old, new = line("old", 1), line("new", 2)
    steps = [of(old), of(old, new), of(new, old), of(new)]
    for before, after in itertools.pairwise(steps):
        # Processes of two neighbouring steps live at the same time.
        for signs, verifies in ((before, after), (after, before)):
            signed, _ = Signer(signs).sign(ADA, RUN)
            assert Verifier(verifies).verify(signed).identity == ADA
    signed, _ = Signer(of(old)).sign(ADA, RUN)
    with pytest.raises(Unauthenticated):
        Verifier(of(new)).verify(signed)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "holds no key"),
        ("\n  \n", "holds no key"),
        ("k1", "line 1 is not kid:base64"),
        ("k1:%%%", "line 1 is not kid:base64"),
        (line("k 1", 1), "line 1 is not kid:base64"),
        (line("k1", 1, 31), "fewer than 32 bytes"),
        (f"{line('k1', 1)}\n{line('k1', 2)}", "line 2 has a kid that was there before"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_without_showing_them(text: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match="PEREGRINE_SECRET_IDENTITY_KEYS") as caught:
        identity.keys(Secret(text))
    assert wrong in str(caught.value)
    assert "AQEB" not in str(caught.value)


def test_keys_may_be_url_safe_and_unpadded_and_do_not_show() -> None:
    raw = bytes(range(200, 240))
    text = f"k:{base64.urlsafe_b64encode(raw).decode().rstrip('=')}\n"
    assert identity.keys(Secret(text)).signing == ("k", raw)
    assert repr(of(line("a", 1), line("b", 2))) == "Keys(a, b)"


@pytest.mark.parametrize(
    ("environ", "fine"),
    [
        ({}, False),
        ({"PEREGRINE_AUTH_REQUIRED": "false"}, True),
        ({"PEREGRINE_SECRET_IDENTITY_KEYS": KEYS_TEXT}, True),
    ],
)
def test_identity_is_on_and_wants_keys_unless_it_is_switched_off(
    environ: Mapping[str, str], fine: bool
) -> None:
    if fine:
        load(InnerSettings, environ)
        return
    with pytest.raises(SettingsError, match="PEREGRINE_SECRET_IDENTITY_KEYS: is not set") as caught:
        load(InnerSettings, environ)
    assert len(str(caught.value).splitlines()) == 1


async def test_whoever_acts_for_somebody_proves_it_however_long_it_takes() -> None:
    clock = Clock()
    signer, verifier = Signer(keys(), clock=clock), Verifier(keys(), clock=clock)
    with signer.acting_as(Identity("default", "operator"), {"admin"}):
        for _ in range(3):
            sent = dict(context.outgoing(context.current()))
            caller = verifier.verify(sent["x-peregrine-identity"])
            assert caller.identity == Identity("default", "operator")
            assert "admin" in caller.scopes
            assert "peregrine-tenant" not in sent
            clock.now += 3600
    assert context.current() is None


def test_memory_is_bounded_whatever_comes() -> None:
    clock = Clock()
    signer, verifier = Signer(keys(), clock=clock), Verifier(keys(), clock=clock)
    for number in range(9000):
        verifier.verify(signer.sign(Identity("acme", f"u{number}"), RUN)[0])
    assert len(verifier._known) <= 8192
    assert len(signer._recent) <= 8192


def test_scopes_include_one_another_and_words_that_are_none_are_nothing() -> None:
    assert scopes.expand(["admin"]) == {"read", "run", "admin"}
    assert scopes.expand(["run", "openid"]) == {"read", "run"}
    assert scopes.expand([]) == frozenset()
    for granted in ([], ["read"], ["run"], ["admin"], ["admin", "bootstrap"]):
        assert scopes.least(scopes.expand(granted)) == tuple(granted)


@pytest.mark.parametrize(
    ("header", "credential"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc.def-_=", "abc.def-_="),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer a b", None),
        ("Bearer a\n", None),
        ("Bearer ä", None),
        ("Bearer " + "x" * 8193, None),
        ("Basic abc", None),
        ("", None),
        (None, None),
        (b"Bearer abc", None),
    ],
)
def test_a_credential_is_what_follows_bearer(header: object, credential: str | None) -> None:
    assert bearer.credential_in(header) == credential


def test_the_library_is_not_asked_which_algorithm_to_use() -> None:
    """A token under the right key and another algorithm is refused for its algorithm."""
    kid, key = keys().signing
    other = jwt.encode(forgeries.claims(ADA), key * 2, "HS512", headers={"kid": kid})
    with pytest.raises(Unauthenticated):
        Verifier(keys()).verify(other)
