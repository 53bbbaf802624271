"""Schema migrations: numbered SQL files in a package, applied in order, once, by whoever is first.

A component (`eventlog`, `memory`, …) keeps `NNNN_name.sql` files in a package of its own and its
tables in a PostgreSQL schema of its own. This module finds the files and judges what was applied;
`postgres.migrate` and `postgres.check_schema` talk to the database.

What is missing is applied one transaction a file, under one advisory lock, and recorded with the
checksum of its text: several processes may do it at once, and an applied file that was edited later
is refused instead of silently ignored. Services do not migrate; at start they check, and refuse to
run on an older schema. A newer one is fine: the next release's migrations run before its services.
"""

import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peregrine.kit.errors import StartRefused

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

# What every component stands on: the record of migrations, and what `Database.call` is made of.
FOUNDATION = """
CREATE TABLE IF NOT EXISTS peregrine_migrations (
    component text NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, version)
);

CREATE OR REPLACE FUNCTION peregrine_enter(
    INOUT tenant text, INOUT user_id text
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('peregrine.tenant', tenant, true),
            set_config('peregrine.user', user_id, true);
END $$;

CREATE OR REPLACE FUNCTION peregrine_accept(outcome text, head bigint, accepted text[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF outcome IS NULL OR outcome <> ALL (accepted) THEN
        RAISE EXCEPTION USING MESSAGE = outcome, DETAIL = coalesce(head::text, ''),
            ERRCODE = 'PX001';
    END IF;
END $$;
"""


class MigrationError(StartRefused):
    """The schema cannot be brought to, or is not at, what the program needs."""


class SchemaBehind(MigrationError):
    """Migrations are missing that somebody may be about to apply."""


@dataclass(frozen=True, slots=True)
class Migration:
    component: str
    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.component}/{self.version:04d}_{self.name}"


def find(component: str, package: str) -> list[Migration]:
    """The migrations in `package`, in order.

    Raises:
      MigrationError: a file name is not `NNNN_name.sql`, or versions are not 1, 2, 3 …
    """
    found = []
    for entry in importlib.resources.files(package).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(entry.name)
        if match is None:
            raise MigrationError(f"{component}: {entry.name} is not named NNNN_name.sql")
        sql = entry.read_text(encoding="utf-8")
        found.append(Migration(component, int(match[1]), match[2], sql))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{component}: migrations in {package} are not numbered 1, 2, 3, …")
    return found


def compare(migration: Migration, checksum: str) -> None:
    """Raises `MigrationError` when the file is not the one that was applied."""
    if checksum != migration.checksum:
        raise MigrationError(
            f"migration {migration} was changed after it had been applied: "
            "restore its text and put the change into a new migration"
        )


def check(component: str, wanted: Sequence[Migration], applied: Mapping[int, str]) -> None:
    """Raises `MigrationError` unless all of `wanted` is among the applied checksums by version."""
    if any(migration.version not in applied for migration in wanted):
        raise SchemaBehind(
            f"the {component} schema is at version {max(applied, default=0)} and "
            f"{wanted[-1].version} is needed: run `peregrine migrate`"
        )
    for migration in wanted:
        compare(migration, applied[migration.version])
