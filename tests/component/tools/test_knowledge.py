"""knowledge_search on PostgreSQL: what it finds, and how the documents get there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.postgres import Database
from peregrine.tools.documents import parse, read_folder
from peregrine.tools.knowledge import Filled, Knowledge
from tests.component.tools.conftest import Worker, text

DOCUMENTS = Path(__file__).parents[3] / "examples" / "docs"


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(migrated_dsn, size=4) as database:
        yield database


@pytest.fixture
def knowledge(database: Database) -> Knowledge:
    return Knowledge(database)


QUESTIONS = [
    ("refunds", "refunds.md", "refund"),
    ("what do our docs say about refunds?", "refunds.md", "refund"),
    ("how long does a refund take to arrive", "refunds.md", "5 business days"),
    ("API rate limit per second", "api-limits.md", "10 requests per second"),
    ("forgot my password", "account.md", "Forgot password"),
    ("express shipping cost", "shipping.md", "12.90 EUR"),
    ("boot resoling price", "warranty-and-repair.md", "69 EUR"),
    ("student discount", "plans-and-billing.md", "50 %"),
]


async def test_a_question_finds_the_passage_that_answers_it(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for query, source, words in QUESTIONS:
        with subtests.test(query=repr(query)[:60]):
            result = await worker.execute("knowledge_search", {"query": query})
            assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
            found = orjson.loads(result.structured_content.utf8)["results"]
            assert 1 <= len(found) <= 3
            assert found[0]["source"] == source
            assert any(words.lower() in each["excerpt"].lower() for each in found)
            assert found[0]["excerpt"] in text(result) and source in text(result)
            assert set(found[0]) == {"title", "section", "source", "excerpt", "score"}


QUESTIONS_WITHOUT_ANSWER = [
    "zzxqy",
    "the of and",
    "?!",
    "'; DROP TABLE tools.passages; --",
    "a & | ! (",
    "\x00",
]


async def test_a_question_without_an_answer_is_answered_so(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for query in QUESTIONS_WITHOUT_ANSWER:
        with subtests.test(query=repr(query)[:60]):
            result = await worker.execute("knowledge_search", {"query": query})
            assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
            assert text(result)


async def test_filling_changes_only_what_changed(knowledge: Knowledge) -> None:
    first = [parse("a.md", "# A\nalpha"), parse("b.md", "# B\nbeta")]
    assert await knowledge.fill("acme", first) == Filled(stored=2, deleted=0, unchanged=0)
    assert await knowledge.fill("acme", first) == Filled(stored=0, deleted=0, unchanged=2)
    second = [parse("a.md", "# A\ngamma"), parse("c.md", "# C\ndelta")]
    assert await knowledge.fill("acme", second) == Filled(stored=2, deleted=1, unchanged=0)
    assert [each.source for each in await knowledge.search("acme", "gamma", limit=3)] == ["a.md"]
    for gone in ("alpha", "beta"):
        assert await knowledge.search("acme", gone, limit=3) == []


async def test_workers_that_start_together_store_each_document_once(
    knowledge: Knowledge, database: Database
) -> None:
    found = read_folder(DOCUMENTS)
    filled = await asyncio.gather(*(knowledge.fill("acme", found) for _ in range(4)))
    assert sum(each.stored for each in filled) == len(found) >= 6
    async with database.transaction("acme") as conn:
        stored = await conn.fetchval("count", "SELECT count(*) FROM tools.passages")
    assert stored == sum(len(each.passages) for each in found)


async def test_the_documents_of_another_tenant_are_not_found(
    knowledge: Knowledge, database: Database
) -> None:
    await knowledge.fill("acme", [parse("a.md", "# Secret\nthe launch is on Friday")])
    await knowledge.fill("umbrella", [parse("a.md", "# Other\nnothing of note")])
    assert len(await knowledge.search("acme", "launch", limit=3)) == 1
    assert await knowledge.search("umbrella", "launch friday", limit=3) == []
    async with database.transaction("umbrella") as conn:
        rows = await conn.fetch("all", "SELECT DISTINCT tenant FROM tools.passages")
        assert [row["tenant"] for row in rows] == ["umbrella"]
        rows = await conn.fetch("all", "SELECT DISTINCT tenant FROM tools.documents")
        assert [row["tenant"] for row in rows] == ["umbrella"]
