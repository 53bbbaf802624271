"""Every reason that an error may carry is explained to whoever gets it."""

import ast

from tests.contract import reasons
from tests.contract.repository import PROTOS, ROOT, module, product

# The simulator's errors are the provider's; the command line and `make run` talk to people.
WITHOUT = {"simulator", "cli", "local"}
PAGE = ROOT / "docs" / "errors.md"
CODES = {
    "ALREADY_EXISTS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
}


def test_every_reason_is_explained_at_its_call_or_in_the_page_of_errors() -> None:
    contract = "".join(path.read_text() for path in sorted(PROTOS.rglob("*.proto")))
    explained = reasons.explained(contract) | reasons.explained(PAGE.read_text())
    given = reasons.given(one for one in product() if one.unit not in WITHOUT)
    assert {reason: where for reason, where in given.items() if reason not in explained} == {}


def test_the_page_of_errors_explains_nothing_that_is_not_there() -> None:
    words = {
        word
        for one in product()
        for node in ast.walk(one.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for word in reasons.explained(node.value)
    }
    assert sorted(reasons.explained(PAGE.read_text()) - words - CODES) == []


def test_a_reason_is_found_however_it_is_given() -> None:
    source = """
raise NotFound("gone", reason="THING_GONE")
def __init__(self, *, reason: str = "THING_FAILED"): ...
error = Unavailable("x", reason="THING_SLOW" if slow else "THING_AWAY")
"""
    found = reasons.given([module("peregrine.tools.a", source)])
    assert found.keys() == {"THING_GONE", "THING_FAILED", "THING_SLOW", "THING_AWAY"}
