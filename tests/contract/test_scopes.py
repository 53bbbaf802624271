"""Every method of the contract says which scope it needs; looking needs no more than `read`."""

from pathlib import Path

import pytest

from peregrine.kit import scopes
from tests.contract.proto_rules import READS
from tests.contract.protos import Contract, compiled
from tests.contract.repository import PROTOS


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return compiled(PROTOS, Path(tmp_path_factory.mktemp("contract")))


def test_every_method_has_a_line_and_no_line_is_of_a_method_that_is_not_there(
    contract: Contract,
) -> None:
    declared = {f"/{rpc.service}/{rpc.name}" for rpc in contract.rpcs()}
    assert sorted(scopes.NEEDED) == sorted(declared)


def test_a_method_stands_in_one_line_only() -> None:
    lines = [
        f"/{service}/{method}"
        for service, by_scope in scopes._BY_SERVICE.items()
        for methods in by_scope.values()
        for method in methods
    ]
    assert len(lines) == len(set(lines)) == len(scopes.NEEDED)
    assert set(scopes.NEEDED.values()) <= {scopes.ANY, *scopes.GRANTABLE}


def test_what_changes_something_is_not_open_to_who_may_only_look(contract: Contract) -> None:
    """ExchangeCredential changes nothing; keys are listed to admins only."""
    for rpc in contract.rpcs():
        needed = scopes.NEEDED[f"/{rpc.service}/{rpc.name}"]
        if not rpc.name.startswith(READS) and rpc.name != "ExchangeCredential":
            assert needed in (scopes.RUN, scopes.ADMIN), rpc.short
        if rpc.name.startswith(("Apply", "Create", "Revoke")) or rpc.name == "ListApiKeys":
            assert needed == scopes.ADMIN, rpc.short


def test_what_is_forgotten_is_closed() -> None:
    assert scopes.NEEDED.get("/peregrine.api.new.v1.NewService/New", scopes.ADMIN) == scopes.ADMIN
