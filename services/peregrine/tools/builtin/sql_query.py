"""The tool `sql_query`: one read-only query on a database of its own.

Reading only is held three times over. The role of the DSN should have no more than SELECT, which is
for whoever makes it; the transaction is READ ONLY; and the query runs as a subquery, where only a
query can stand: no SET, no COMMIT, no WITH that changes rows. It is prepared, so that there is one
statement and no second one behind a semicolon. The transaction is always rolled back, so that not
even a session setting outlives the call, and advisory locks are let go.

At most 200 rows come back, each of at most 64 KiB, as JSON that PostgreSQL itself writes: numbers
keep all their digits.
"""

import json
import re

import orjson

from peregrine.kit.errors import DeadlineExceeded, Unavailable
from peregrine.kit.postgres import Database, DatabaseError
from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Definition,
    Effect,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    tool,
)

MAX_ROWS = 200

_MAX_ROW_BYTES = 64 * 1024
_MAX_TEXT = 512 * 1024
_SECONDS = 5.0
_CANCELLED = "57014"
_PARAMETER = re.compile(r"\$[0-9]")
_QUERY = (
    "SELECT CASE WHEN octet_length(r) <= {bytes} THEN r END AS r "
    "FROM (SELECT row_to_json(q)::text AS r FROM (\n{query}\n) AS q LIMIT {rows}) AS all_rows"
)


class _Done(Exception):
    """Ends the transaction, so that nothing of it is kept."""

    def __init__(self, rows: list[str | None]) -> None:
        self.rows = rows


def sql_query(database: Database, *, tenant: str) -> Definition:
    """The tool, on `database`, for `tenant`, to whom it belongs."""

    @tool(
        name="sql_query",
        description=(
            "Runs one read-only SQL query (PostgreSQL: SELECT, WITH … SELECT, VALUES) and gives at "
            f"most {MAX_ROWS} rows as JSON. Ask information_schema.columns first if you do not "
            "know the tables. Aggregate in SQL instead of fetching many rows."
        ),
        parameters={
            "query": {
                "type": "string",
                "description": "one query, for example: SELECT country, count(*) FROM users GROUP "
                "BY country",
                "minLength": 1,
                "maxLength": 20_000,
            }
        },
        effect=Effect.READ,
        change=ChangeClass.LIVE,
        scope=Scope.USER,
    )
    async def query(arguments: Arguments, context: ToolContext) -> Output:
        if context.tenant != tenant:
            raise ToolFailure("There is no database for you here.", reason="SQL_NOT_OPEN")
        if _PARAMETER.search(arguments["query"]):
            raise ToolFailure("The query has a parameter; write the value.", reason="SQL_REFUSED")
        sql = _QUERY.format(
            bytes=_MAX_ROW_BYTES,
            query=arguments["query"].strip().rstrip(";").replace("\x00", " "),
            rows=MAX_ROWS + 1,
        )
        return _output(await _rows(database, sql, context))

    return query


async def _rows(database: Database, sql: str, context: ToolContext) -> list[str | None]:
    seconds = min(_SECONDS, context.remaining())
    limits = (
        f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {max(int(seconds * 1e3), 1)}"
    )
    try:
        async with database.transaction(
            context.tenant, user=context.user, timeout=seconds + 1.0
        ) as conn:
            await conn.execute("sql_tool_limits", limits)
            rows = await conn.fetch("sql_tool_query", sql)
            await conn.execute("sql_tool_unlock", "SELECT pg_advisory_unlock_all()")
            raise _Done([row["r"] for row in rows])
    except _Done as done:
        return done.rows
    except DatabaseError as error:
        if getattr(error, "sqlstate", "") == _CANCELLED:
            raise _too_slow() from None
        # The words of PostgreSQL are what lets a model mend its query.
        raise ToolFailure(f"PostgreSQL refuses the query: {error}", reason="SQL_REFUSED") from None
    except DeadlineExceeded:
        raise _too_slow() from None
    except Unavailable as error:
        if error.reason == "POSTGRES_TIMEOUT":
            raise _too_slow() from None
        raise ToolFailure(
            "The database cannot be reached at the moment.", reason="SQL_UNAVAILABLE"
        ) from None


def _too_slow() -> ToolFailure:
    return ToolFailure(
        f"The query took longer than {_SECONDS:g} s; ask for less.", reason="SQL_TIMEOUT"
    )


def _output(found: list[str | None]) -> Output:
    rows: list[str] = []
    room = _MAX_TEXT
    for row in found[:MAX_ROWS]:
        text = row if row is not None else '"(a row of more than 64 KiB is left out)"'
        room -= len(text)
        if room < 0:
            break
        rows.append(text)
    truncated = len(rows) < len(found)
    text = f'{{"rows":[{",".join(rows)}],"truncated":{json.dumps(truncated)}}}'
    data = {"rows": [orjson.loads(row) for row in rows], "truncated": truncated}
    return Output(text, data)
