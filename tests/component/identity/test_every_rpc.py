"""Every RPC of every service: who is not known gets nothing, who may not is told which scope."""

import datetime
from collections.abc import Iterator

import pytest

from peregrine.kit import scopes
from peregrine.kit.errors import PeregrineError, PermissionDenied, Unauthenticated
from tests.component.identity import forgeries
from tests.component.identity.conftest import ADA, Metadata, Method, Whole
from tests.support.identity import bearer, signed
from tests.support.stack import new_key

_LESS = {scopes.RUN: scopes.READ, scopes.ADMIN: scopes.RUN}


async def refusal(method: Method, metadata: Metadata) -> PeregrineError:
    try:
        answer = await method(metadata)
    except PeregrineError as error:
        return error
    pytest.fail(f"{method.path} answered {answer!r}")


async def test_no_rpc_answers_a_call_without_an_identity(whole: Whole) -> None:
    assert len(whole.methods) >= 50
    unsigned = (("peregrine-tenant", "acme"), ("peregrine-user", "ada"))
    for method in whole.methods.values():
        for metadata in ((), unsigned, (("x-peregrine-user", "ada"), ("cookie", "user=ada"))):
            error = await refusal(method, metadata)
            assert isinstance(error, Unauthenticated), method.path
            assert error.reason == "CREDENTIALS_MISSING"


async def test_no_rpc_believes_a_forged_identity(whole: Whole) -> None:
    """What is wrong with it is not told: all of these answers are the same."""
    answers = set()
    for name, token in forgeries.identities(ADA).items():
        for method in whole.methods.values():
            error = await refusal(method, (("x-peregrine-identity", token),))
            assert isinstance(error, Unauthenticated), (method.path, name)
            if not method.path.endswith("/ExchangeCredential"):  # it takes credentials only
                answers.add((error.reason, error.message))
    assert len(answers) == 1
    assert answers.pop()[0] == "CREDENTIALS_INVALID"


async def test_every_rpc_needs_its_scope_and_is_open_with_it(whole: Whole) -> None:
    for path, method in whole.methods.items():
        needed = scopes.NEEDED[path]
        if needed == scopes.ANY:
            continue
        if needed in _LESS:
            error = await refusal(method, signed(ADA, _LESS[needed]))
            assert isinstance(error, PermissionDenied), path
            assert (error.reason, error.metadata) == ("SCOPE_MISSING", {"scope": needed})
            assert needed in error.message
        try:
            await method(signed(ADA, needed))
        except PeregrineError as answered:
            # Whatever it says to an empty request, it is not about who asks.
            assert not isinstance(answered, Unauthenticated | PermissionDenied), (path, answered)


def bad_credentials(whole: Whole, made: dict[str, str]) -> Iterator[tuple[str, Metadata]]:
    good = whole.keys["ada"]
    other = good[:-1] + ("A" if good[-1] != "A" else "B")
    for name, credential in {
        "an unknown key": "pk_" + "0" * 16 + "_" + "0" * 43,
        "another secret": other,
        "somebody else's secret": good[:20] + whole.keys["bob"][20:],
        "a malformed key": good + "0",
        "half a key": good[:30],
        "only the id": good.split("_")[1],
        "a bootstrap key that is none": "bootstrap-for-tests-0123456789abcdeF",
        "no key at all": "let-me-in",
        "a JWT, where none are believed": "eyJhbGciOiJub25lIn0.e30.",
        "an identity, which is no credential": signed(ADA)[0][1],
        **made,
    }.items():
        yield name, bearer(credential)
    yield "another scheme", (("authorization", f"Basic {good}"),)
    yield "no scheme", (("authorization", good),)
    yield "two keys", (("authorization", f"Bearer {good}, Bearer {good}"),)


async def test_the_door_knows_no_bad_credential_from_another(whole: Whole) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    expired = await new_key(whole.dsn, ADA, expire_time=past)
    revoked = await new_key(whole.dsn, ADA)
    revoke = whole.of("IdentityService/RevokeApiKey")
    await revoke(signed(ADA), key_id=revoked.split("_")[1])
    made = {"an expired key": expired, "a revoked key": revoked}
    door = [path for path in whole.methods if ".orchestrator." in path or ".identity." in path]
    assert len(door) >= 15
    answers = set()
    for name, metadata in bad_credentials(whole, made):
        for path in door:
            error = await refusal(whole.methods[path], metadata)
            assert isinstance(error, Unauthenticated), (path, name)
            answers.add((error.reason, error.message))
    assert len(answers) == 1
    assert answers.pop()[0] == "CREDENTIALS_INVALID"


async def test_services_behind_the_door_take_no_credentials(whole: Whole) -> None:
    for path, method in whole.methods.items():
        if ".orchestrator." in path or ".identity." in path:
            continue
        error = await refusal(method, bearer(whole.keys["ada"]))
        assert isinstance(error, Unauthenticated) and error.reason == "CREDENTIALS_MISSING", path


async def test_an_identity_is_exchanged_for_no_other(whole: Whole) -> None:
    """Else one that leaks could be renewed for ever."""
    exchange = whole.of("IdentityService/ExchangeCredential")
    error = await refusal(exchange, signed(ADA))
    assert error.reason == "CREDENTIALS_MISSING"
    answer = await exchange(bearer(whole.keys["ada"]))
    assert (answer.for_tenant, answer.for_user) == ("acme", "ada")
    listed = whole.of("MemoryService/ListConversations")
    await listed((("x-peregrine-identity", answer.identity_token),))


async def test_the_bootstrap_scope_is_nobody_elses(whole: Whole) -> None:
    """Neither a key that asks for it nor an admin's reaches into another tenant."""
    create = whole.of("IdentityService/CreateApiKey")
    with pytest.raises(PeregrineError, match="scopes is not one or more"):
        await create(signed(ADA), name="x", scopes=["bootstrap"])
    for name in ("CreateApiKey", "ListApiKeys", "RevokeApiKey"):
        fields = {"name": "x", "scopes": ["read"]} if name == "CreateApiKey" else {}
        with pytest.raises(PermissionDenied) as refused:
            await whole.of(f"IdentityService/{name}")(
                bearer(whole.keys["ada"]), for_tenant="umbrella", **fields
            )
        assert refused.value.reason == "TENANT_NOT_ALLOWED"
    planted = await new_key(whole.dsn, ADA, "admin", "bootstrap")
    exchanged = await whole.of("IdentityService/ExchangeCredential")(bearer(planted))
    assert list(exchanged.scopes) == ["admin", "read", "run"]
