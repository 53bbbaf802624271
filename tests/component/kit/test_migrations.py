"""Migrations: in order, once, whoever is first; edited files and old schemas are refused."""

import asyncio
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from peregrine.kit.errors import StartRefused
from peregrine.kit.migrations import MigrationError
from peregrine.kit.postgres import ALL_TENANTS, Database, UnsafeRole, check_schema, migrate

Package = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Makes (or makes anew) an importable package of migration files."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"migrations_{uuid.uuid4().hex}"

    def make(**files: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.sql"):
            old.unlink()
        for file, sql in files.items():
            (folder / f"{file.removeprefix('_')}.sql").write_text(sql)
        sys.modules.pop(name, None)
        return name

    return make


FIRST = "CREATE SCHEMA box; CREATE TABLE box.things (id int); INSERT INTO box.things VALUES (1)"
SECOND = "ALTER TABLE box.things ADD COLUMN name text"


async def test_files_are_applied_in_order_and_only_once(
    postgres_dsn: str, package: Package
) -> None:
    name = package(_0002_names=SECOND, _0001_box=FIRST)
    assert await migrate(postgres_dsn, [("box", name)]) == ["box/0001_box", "box/0002_names"]
    assert await migrate(postgres_dsn, [("box", name)]) == []
    later = package(
        _0001_box=FIRST, _0002_names=SECOND, _0003_more="CREATE TABLE box.more (id int)"
    )
    assert await migrate(postgres_dsn, [("box", later)]) == ["box/0003_more"]
    async with await Database.connect(postgres_dsn, size=1) as database:
        async with database.transaction(ALL_TENANTS) as conn:
            assert await conn.fetchval("n", "SELECT count(*) FROM box.things") == 1


async def test_several_processes_may_migrate_at_once(postgres_dsn: str, package: Package) -> None:
    name = package(_0001_box=FIRST, _0002_names=SECOND)
    results = await asyncio.gather(*(migrate(postgres_dsn, [("box", name)]) for _ in range(4)))
    assert sorted(step for result in results for step in result) == [
        "box/0001_box",
        "box/0002_names",
    ]


async def test_a_migration_that_fails_leaves_nothing_and_is_named(
    postgres_dsn: str, package: Package
) -> None:
    name = package(_0001_box=FIRST, _0002_bad="CREATE TABLE box.half (id int); SELEKT 1")
    with pytest.raises(MigrationError, match=r"box/0002_bad failed: syntax error"):
        await migrate(postgres_dsn, [("box", name)])
    async with await Database.connect(postgres_dsn, size=1) as database:
        async with database.transaction(ALL_TENANTS) as conn:
            assert await conn.fetchval("half", "SELECT to_regclass('box.half')") is None
    repaired = package(_0001_box=FIRST, _0002_bad=SECOND)
    assert await migrate(postgres_dsn, [("box", repaired)]) == ["box/0002_bad"]


async def test_an_applied_file_that_was_edited_is_refused(
    postgres_dsn: str, package: Package
) -> None:
    await migrate(postgres_dsn, [("box", package(_0001_box=FIRST))])
    name = package(_0001_box=FIRST + " ")
    with pytest.raises(MigrationError, match="box/0001_box was changed after"):
        await migrate(postgres_dsn, [("box", name)])
    async with await Database.connect(postgres_dsn, size=1) as database:
        with pytest.raises(MigrationError, match="put the change into a new migration"):
            await check_schema(database, "box", name)


async def test_a_service_refuses_an_older_schema_and_takes_a_newer_one(
    postgres_dsn: str, package: Package
) -> None:
    name = package(_0001_box=FIRST, _0002_names=SECOND)
    async with await Database.connect(postgres_dsn, size=1) as database:
        with pytest.raises(StartRefused, match=r"at version 0 and 2 is needed: run `peregrine mig"):
            await check_schema(database, "box", name)
        await migrate(postgres_dsn, [("box", package(_0001_box=FIRST))])
        with pytest.raises(StartRefused, match="at version 1 and 2 is needed"):
            await check_schema(database, "box", package(_0001_box=FIRST, _0002_names=SECOND))
        await migrate(postgres_dsn, [("box", name)])
        await check_schema(database, "box", name)
        await check_schema(database, "box", package(_0001_box=FIRST))


async def test_two_components_do_not_see_each_others_versions(
    postgres_dsn: str, package: Package
) -> None:
    name = package(_0001_box="CREATE TABLE IF NOT EXISTS t (id int)")
    assert await migrate(postgres_dsn, [("one", name), ("two", name)]) == [
        "one/0001_box",
        "two/0001_box",
    ]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"_0001_a": "", "_0003_c": ""}, "not numbered 1, 2, 3"),
        ({"_0001_a": "", "_0001_b": ""}, "not numbered 1, 2, 3"),
        ({"_1_a": ""}, "not named NNNN_name.sql"),
    ],
)
async def test_misnumbered_files_are_refused_before_anything_is_applied(
    files: dict[str, str], says: str, package: Package
) -> None:
    with pytest.raises(MigrationError, match=says):
        await migrate("postgresql://nobody@127.0.0.1:1/x", [("box", package(**files))])


async def test_a_superuser_does_not_migrate(superuser_dsn: str, package: Package) -> None:
    with pytest.raises(UnsafeRole):
        await migrate(superuser_dsn, [("box", package(_0001_box=FIRST))])
