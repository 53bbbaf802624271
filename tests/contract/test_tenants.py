"""Only a few modules look across tenants; every table with a tenant is kept apart by PostgreSQL."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.contract.repository import SERVICES, Module, module, product

# Work of a process rather than of a caller.
ACROSS_TENANTS = {
    "peregrine.kit.postgres": "defines it; migrations",
    "peregrine.kit.eventlog.store": "renewal, take-over, batches and expiry of logs",
    "peregrine.orchestrator.store": "runs taken over, cancel requests for the runs of this process",
    "peregrine.memory.store": "expiry of request ids",
    "peregrine.tools.applied": "a worker follows the tools of everybody",
    "peregrine.tools.ledger": "a worker says that it lives; expiry of changes",
    "peregrine.cache.postgres_tier": "expiry of entries; the breaker's probe; room that they take",
    "peregrine.cache.feed_store": "a replica follows the invalidations and policies of everybody",
    "peregrine.cache.frequencies": "a replica counts keys for everybody, and warms by the counts",
}


def users_of(modules: Iterable[Module], name: str) -> set[str]:
    return {
        one.name
        for one in modules
        for node in ast.walk(one.tree)
        if (isinstance(node, ast.Name) and node.id == name)
        or (isinstance(node, ast.Attribute) and node.attr == name)
        or (isinstance(node, ast.alias) and node.name == name)
    }


def test_only_the_listed_modules_look_across_tenants() -> None:
    assert users_of(product(), "ALL_TENANTS") == ACROSS_TENANTS.keys()


def test_a_module_that_looks_across_tenants_is_found() -> None:
    for source in (
        "from peregrine.kit.postgres import ALL_TENANTS as everyone",
        "async def f(db): db.transaction(postgres.ALL_TENANTS)",
    ):
        assert users_of([module("peregrine.memory.store", source)], "ALL_TENANTS")


def unprotected_tables(sql: str) -> Iterator[str]:
    """Tables that a migration creates without forcing row-level security under a policy."""
    sql = re.sub(r"--[^\n]*", "", sql)
    for match in re.finditer(r"\bCREATE TABLE (?:IF NOT EXISTS )?([\w.]+)", sql, re.IGNORECASE):
        table = re.escape(match[1])
        for needed in (
            rf"ALTER TABLE {table}\s[^;]*\bENABLE ROW LEVEL SECURITY\b",
            rf"ALTER TABLE {table}\s[^;]*\bFORCE ROW LEVEL SECURITY\b",
            rf"CREATE POLICY \w+ ON {table}\b",
        ):
            if not re.search(needed, sql, re.IGNORECASE):
                yield f"{match[1]}: no {needed}"


MIGRATIONS = sorted(SERVICES.rglob("migrations/*.sql"))


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: str(path.relative_to(SERVICES)))
def test_every_table_forces_row_level_security(path: Path) -> None:
    assert list(unprotected_tables(path.read_text())) == []


@pytest.mark.parametrize(
    "missing",
    ["ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY", "CREATE POLICY mine ON a.b"],
)
def test_an_unprotected_table_is_found(missing: str) -> None:
    sql = """
    CREATE TABLE a.b (tenant text);
    ALTER TABLE a.b ENABLE ROW LEVEL SECURITY;
    ALTER TABLE a.b FORCE ROW LEVEL SECURITY;
    CREATE POLICY mine ON a.b USING (tenant = current_setting('peregrine.tenant', true));
    """
    assert list(unprotected_tables(sql)) == []
    assert list(unprotected_tables(sql.replace(missing, "")))
