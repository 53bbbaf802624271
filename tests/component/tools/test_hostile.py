"""What the outside can do to a tool: every one of these is a clear failed result, and the worker
goes on with the next call."""

import asyncio
import json
import resource
import sys

import pytest

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.postgres import Database
from peregrine.kit.settings import Secret
from tests.component.tools.conftest import text
from tests.component.tools.test_applied import Start, apply, execute, server, start, tool
from tests.component.tools.unruly import Unruly

__all__ = ["server", "start"]

FAILED, SUCCEEDED = tools_pb2.TOOL_STATUS_FAILED, tools_pb2.TOOL_STATUS_SUCCEEDED
ANSWERS = [
    ("cut", "CONNECTION_BROKEN", "broke off"),
    ("silent", "HTTP_TIMEOUT", "no whole answer"),
    ("drip", "HTTP_TIMEOUT", "no whole answer"),
    ("flood", "RESPONSE_TOO_LARGE", "larger than 5 MiB"),
    ("bomb", "RESPONSE_TOO_LARGE", "times its size|larger than"),
    ("hollow", "RESPONSE_TOO_LARGE", "larger than"),
    ("nested", "CONTENT_REFUSED", "nested too deeply"),
    ("image", "CONTENT_REFUSED", "only text and JSON"),
    ("status/500", "HTTP_STATUS", "500"),
    ("loop/1", "TOO_MANY_REDIRECTS", "redirects"),
]
# What only the time ends.
ENDLESS = ("silent", "drip")


async def test_a_misbehaving_server_is_a_failed_result_and_the_worker_lives(
    start: Start, server: Unruly, subtests: pytest.Subtests
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with start() as stub:
        for path, _, _ in ANSWERS:
            name = path.replace("/", "_")
            bound = {"nanos": 900_000_000} if path in ENDLESS else {"seconds": 60}
            await apply(stub, tool(f"{server.url}/{path}?q={{q}}", name, timeout=bound))
        await apply(stub, tool(f"{server.url}/echo?q={{q}}", "well"))
        # All at once: none is in the way of another.
        results = await asyncio.gather(
            *(execute(stub, path.replace("/", "_"), {"q": "x"}) for path, _, _ in ANSWERS),
            execute(stub, "well", {"q": "x"}),
        )
        for (path, reason, words), result in zip(ANSWERS, results, strict=False):
            with subtests.test(path=path):
                # A busy worker may notice the end of the whole before that of the request.
                late = path in ENDLESS and result.error.reason == "TOOL_TIMEOUT"
                assert result.status == FAILED
                assert late or result.error.reason == reason
                assert late or any(part in text(result) for part in words.split("|")), text(result)
                assert len(text(result)) < 3_000
                if path in ENDLESS:
                    assert result.execution_time.ToMilliseconds() < 30_000
        assert results[-1].status == SUCCEEDED
        assert (await execute(stub, "well", {"q": "y"})).status == SUCCEEDED
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100 * 2**20


INJECTIONS = [
    "'; DROP TABLE tools.documents; --",
    "SELECT 1; DROP TABLE tools.documents",
    "SELECT 1) AS q; DROP TABLE tools.documents; --",
    "DROP TABLE tools.documents",
    "WITH gone AS (DELETE FROM tools.documents RETURNING 1) SELECT * FROM gone",
    "COMMIT",
    "COPY tools.documents TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
]


async def test_a_query_that_would_do_more_than_read_is_a_failed_result(
    start: Start, migrated_dsn: str, subtests: pytest.Subtests
) -> None:
    async with start(sql_dsn=Secret(migrated_dsn)) as stub:
        for query in INJECTIONS:
            with subtests.test(query=query):
                result = await execute(stub, "sql_query", {"query": query})
                assert (result.status, result.error.reason) == (FAILED, "SQL_REFUSED")
        result = await execute(stub, "sql_query", {"query": "SELECT 6 * 7 AS answer"})
        assert json.loads(result.structured_content.utf8)["rows"] == [{"answer": 42}]
    async with await Database.connect(migrated_dsn) as database:
        async with database.transaction("acme") as conn:
            there = await conn.fetchval("there", "SELECT to_regclass('tools.documents')::text")
    assert there == "tools.documents"


async def test_an_injection_in_an_argument_is_text_and_nothing_else(
    start: Start, server: Unruly
) -> None:
    words = "'; DROP TABLE users; --/../../?x=1#y\r\nX-Evil: 1"
    async with start() as stub:
        await apply(stub, tool(f"{server.url}/echo/{{q}}"))
        result = await execute(stub, "ask", {"q": words})
        assert result.status == SUCCEEDED
        _, target, headers, _ = server.requests[-1]
        assert target.startswith("/echo/") and target.count("/") == 2 and "?" not in target
        assert "x-evil" not in headers
