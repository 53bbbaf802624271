"""read_file and sql_query: what they give, and what does not get out of their bounds."""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peregrine.kit import postgres
from peregrine.kit.postgres import Database
from peregrine.tools.builtin import read_file as files
from peregrine.tools.builtin.read_file import read_file
from peregrine.tools.builtin.sql_query import sql_query
from peregrine.tools.definition import Definition, Output, ToolContext, ToolFailure


def context(tenant: str = "acme", seconds: float = 30) -> ToolContext:
    return ToolContext(
        tenant=tenant,
        user="ada",
        call_id="c",
        agent_id="a",
        idempotency_key="",
        deadline=time.monotonic() + seconds,
        record=lambda name, value, labels: None,
    )


# ---- read_file ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "shared"
    (inside / "notes").mkdir(parents=True)
    (inside / "notes" / "plan.md").write_text("Grüße", encoding="utf-8")
    (inside / "image").write_bytes(b"\x89PNG\x00\xff")
    (inside / "large").write_bytes(b"x" * (files.MAX_BYTES + 1))
    (tmp_path / "secret").write_text("top secret")
    (tmp_path / "shared-too").mkdir()
    (tmp_path / "shared-too" / "file").write_text("top secret")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    (inside / "again").symlink_to("notes/plan.md")
    (inside / "loop").symlink_to("loop")
    os.mkfifo(inside / "pipe")
    return inside


def read(tool: Definition, path: str, who: ToolContext | None = None) -> Output:
    return tool.function({"path": path}, who or context())  # type: ignore[return-value] # not an async one


@pytest.mark.parametrize(
    "path", ["notes/plan.md", "./notes//plan.md", "notes/../notes/plan.md", "again"]
)
def test_a_file_is_read_by_any_path_that_stays_inside(folder: Path, path: str) -> None:
    assert read(read_file(folder, tenant="acme"), path).text == "Grüße"


def test_a_directory_is_listed(folder: Path) -> None:
    output = read(read_file(folder, tenant="acme"), ".")
    assert output.data is not None
    assert {"notes/", "image"} <= set(output.data["names"])


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "notes/../../secret",
        "../shared-too/file",
        "/etc/passwd",
        "out",
        "up/secret",
        "up/shared-too/file",
        "loop",
        "pipe",
        "nothing",
        "notes/plan.md/x",
        "\x00",
        "a" * 900,
        "~/x",
    ],
)
def test_nothing_outside_and_nothing_but_files_is_read(folder: Path, path: str) -> None:
    with pytest.raises(ToolFailure) as caught:
        read(read_file(folder, tenant="acme"), path)
    assert caught.value.reason == "FILE_NOT_FOUND"
    assert "secret" not in caught.value.message.replace(path, "")


def test_a_part_that_becomes_a_link_after_the_check_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = Path.resolve

    def swap(self: Path, strict: bool = False) -> Path:
        found = checked(self, strict)
        if self.name == "plan.md":
            (folder / "notes").rename(folder / "old")
            (folder / "notes").symlink_to(folder.parent / "shared-too")
            (folder.parent / "shared-too" / "plan.md").write_text("top secret")
        return found

    tool = read_file(folder, tenant="acme")
    monkeypatch.setattr(Path, "resolve", swap)
    with pytest.raises(ToolFailure):
        read(tool, "notes/plan.md")


def test_what_is_large_or_not_text_is_refused(folder: Path) -> None:
    tool = read_file(folder, tenant="acme")
    for path, reason in (("large", "FILE_TOO_LARGE"), ("image", "FILE_NOT_TEXT")):
        with pytest.raises(ToolFailure) as caught:
            read(tool, path)
        assert caught.value.reason == reason


def test_the_files_of_one_tenant_are_closed_to_others(folder: Path) -> None:
    with pytest.raises(ToolFailure) as caught:
        read(read_file(folder, tenant="acme"), "notes/plan.md", context("other"))
    assert caught.value.reason == "FILES_NOT_OPEN"


# ---- sql_query ----


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(postgres_dsn, size=2) as database:
        async with database.transaction(postgres.ALL_TENANTS) as conn:
            await conn.execute(
                "prepare",
                "CREATE TABLE people (id int, name text, paid numeric);"
                "INSERT INTO people SELECT n, 'n' || n, 9007199254740993.25 "
                "FROM generate_series(1, 500) n;"
                "CREATE SEQUENCE counter",
            )
        yield database


async def ask(database: Database, query: str, who: ToolContext | None = None) -> Output:
    tool = sql_query(database, tenant="acme")
    return await tool.function({"query": query}, who or context())  # type: ignore[misc,return-value] # an async one


async def test_rows_come_as_json_with_all_their_digits(database: Database) -> None:
    output = await ask(database, "SELECT id, name, paid FROM people WHERE id <= 2 ORDER BY id;")
    assert '"paid":9007199254740993.25' in output.text
    assert [row["name"] for row in json.loads(output.text)["rows"]] == ["n1", "n2"]
    assert output.data is not None and output.data["truncated"] is False


@pytest.mark.parametrize(
    "query",
    ["WITH t AS (SELECT 1 AS a) SELECT * FROM t", "VALUES (1)", "TABLE people", "SELECT 1 -- all"],
)
async def test_every_form_of_a_query_works(database: Database, query: str) -> None:
    assert json.loads((await ask(database, query)).text)["rows"]


async def test_two_hundred_rows_are_given_and_more_are_said_to_be_there(
    database: Database,
) -> None:
    shown = json.loads((await ask(database, "SELECT id FROM people ORDER BY id")).text)
    assert [row["id"] for row in shown["rows"]] == list(range(1, 201))
    assert shown["truncated"] is True


async def test_an_endless_row_is_left_out(database: Database) -> None:
    shown = json.loads((await ask(database, "SELECT repeat('x', 50000000) AS x")).text)
    assert shown["rows"] == ["(a row of more than 64 KiB is left out)"]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM people",
        "INSERT INTO people VALUES (1, 'x', 1)",
        "WITH gone AS (DELETE FROM people RETURNING *) SELECT * FROM gone",
        "DROP TABLE people",
        "SELECT 1; DROP TABLE people",
        "SELECT 1) AS q; DROP TABLE people; --",
        "SELECT 1) AS q) AS r; COMMIT; DROP TABLE people; --",
        "COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET TRANSACTION READ WRITE",
        "SET ROLE postgres",
        "SELECT * FROM people FOR UPDATE",
        "SELECT nextval('counter')",
        "COPY people TO PROGRAM 'id'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_create(0)",
        "SELECT $1",
        "EXPLAIN ANALYZE DELETE FROM people",
        "nonsense",
        "",
    ],
)
async def test_nothing_but_reading_is_done(database: Database, query: str) -> None:
    with pytest.raises(ToolFailure) as caught:
        await ask(database, query)
    assert caught.value.reason == "SQL_REFUSED"
    shown = json.loads((await ask(database, "SELECT count(*) AS n FROM people")).text)
    assert shown["rows"] == [{"n": 500}]


async def test_a_session_setting_does_not_outlive_its_call(database: Database) -> None:
    await ask(database, "SELECT set_config('application_name', 'taken over', false)")
    await ask(database, "SELECT pg_advisory_lock(42)")
    for _ in range(3):
        shown = await ask(database, "SELECT current_setting('application_name') AS name")
        assert "taken over" not in shown.text
    locks = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory'"
    assert json.loads((await ask(database, locks)).text)["rows"] == [{"n": 0}]


async def test_a_slow_query_ends_at_its_time(database: Database) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolFailure) as caught:
        await ask(database, "SELECT pg_sleep(30)", context(seconds=0.5))
    assert caught.value.reason == "SQL_TIMEOUT"
    assert time.monotonic() - begun < 25


async def test_the_database_of_one_tenant_is_closed_to_others(database: Database) -> None:
    with pytest.raises(ToolFailure) as caught:
        await ask(database, "SELECT 1", context("other"))
    assert caught.value.reason == "SQL_NOT_OPEN"


async def test_the_words_of_postgresql_help_to_mend_a_query(database: Database) -> None:
    with pytest.raises(ToolFailure) as caught:
        await ask(database, "SELECT nmae FROM people")
    assert "nmae" in caught.value.message
