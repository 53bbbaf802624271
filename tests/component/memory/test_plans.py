"""Hot statements read a constant number of rows by an index, however much there is."""

import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from peregrine.kit.postgres import Connection, Database
from peregrine.memory import store
from peregrine.memory.pages import read_conversation

_CONVERSATIONS, _MESSAGES = 3_000, 20_000
_BEGIN = (
    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM memory.begin_turn('acme', 'ada', "
    "'{conversation}', true, 'title', 'agent', NULL, '{request}', '\\x00', 'run', 1::smallint, "
    "'\\x00', 'text', 5, 11, 8000)"
)


@pytest.fixture
async def filled(database: Database) -> UUID:
    """A long conversation of a user with many, beside many of another user. Returns its id."""
    long = uuid4()
    for user in ("ada", "bob"):
        async with database.transaction("acme", user=user, timeout=60) as conn:
            await conn.execute(
                "fill",
                "INSERT INTO memory.conversations "
                "SELECT 'acme', $1, gen_random_uuid(), 't', 'a', 1, now(), "
                "now() - n * interval '1 second' FROM generate_series(1, $2::int) n",
                user,
                _CONVERSATIONS,
            )
            await conn.execute(
                "fill",
                "INSERT INTO memory.messages SELECT tenant, user_id, conversation_id, 1, 1, "
                "'x', 'x', 20, '' FROM memory.conversations WHERE user_id = $1",
                user,
            )
    async with database.transaction("acme", user="ada", timeout=60) as conn:
        await conn.execute(
            "fill",
            "INSERT INTO memory.conversations VALUES ('acme', 'ada', $1, 't', 'a', $2)",
            long,
            _MESSAGES,
        )
        await conn.execute(
            "fill",
            "INSERT INTO memory.messages SELECT 'acme', 'ada', $1, n, 1, 'x', 'x', 20, '' "
            "FROM generate_series(1, $2::int) n",
            long,
            _MESSAGES,
        )
    async with database.transaction("acme", timeout=60) as conn:
        await conn.execute("analyze", "ANALYZE memory.conversations")
        await conn.execute("analyze", "ANALYZE memory.messages")
    return long


async def explained(conn: Connection, sql: str, *args: Any) -> str:
    rows = await conn.fetch("explain", f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", *args)
    return "\n".join(row[0] for row in rows)


def most_rows(plan: str) -> int:
    """The most rows that a node of the plan gave or threw away."""
    counts = re.findall(r"actual rows=(\d+)|Rows Removed by Filter: (\d+)", plan)
    return max(int(given or removed) for given, removed in counts)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_lists_and_windows_use_an_index(database: Database, filled: UUID, mode: str) -> None:
    queries = [
        (store.NEWEST, ("acme", "ada", filled, _MESSAGES, 11, 8_000), 11, "messages_pkey"),
        (store.LIST_MESSAGES, ("acme", "ada", filled, 10_000, 51), 51, "messages_pkey"),
        (
            store.LIST_CONVERSATIONS,
            ("acme", "ada", *read_conversation(""), 51),
            51,
            "conversations_newest",
        ),
    ]
    async with database.transaction("acme", user="ada", timeout=60) as conn:
        await conn.execute("mode", f"SET LOCAL plan_cache_mode = {mode}")
        for sql, args, rows, index in queries:
            plan = await explained(conn, sql, *args)
            assert index in plan and "Seq Scan" not in plan, plan
            assert most_rows(plan) <= rows, plan


async def test_beginning_a_turn_touches_as_many_pages_in_a_long_conversation_as_in_a_short_one(
    database: Database, filled: UUID
) -> None:
    async def pages(conversation: UUID) -> int:
        touched = []
        # The sixth execution on, a function may run on generic plans.
        for _ in range(8):
            async with database.transaction("acme", user="ada") as conn:
                sql = _BEGIN.format(conversation=conversation, request=uuid4())
                plan = await conn.fetchval("explain", sql)
            node = re.search(
                r'"Shared Hit Blocks": (\d+).*?"Shared Read Blocks": (\d+)', plan, re.S
            )
            assert node is not None
            touched.append(int(node[1]) + int(node[2]))
        return max(touched[1:])

    short = await pages(uuid4())
    long = await pages(filled)
    assert long <= short + 20, (short, long)
