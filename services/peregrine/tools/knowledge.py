"""The passages in PostgreSQL: filled from a folder at start, searched by words.

Filling is idempotent. A document whose digest is stored is left alone, a changed one is replaced,
one that is gone from the folder is deleted; all in one transaction under a lock, so that workers
may start at the same time, and a search sees the old documents or the new ones.

Every filling that changes something gives all documents of the tenant the same new time, so the
latest time and the number of documents are a version of the whole that never comes again. Results
that were kept under another version are not found any more.

A search asks for passages that hold all the words; when there is none, for those that hold any. The
first are precise, the second forgive a question asked in other words than the documents use.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from peregrine.kit.postgres import Connection, Database
from peregrine.tools.documents import Document

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('peregrine.tools.knowledge/' || $1, 0))"
# ts_rank_cd values words near each other; 33 = 1 | 32: less for long passages, scaled to 0..1.
_SEARCH = """
SELECT p.source, d.title, p.heading, p.body, ts_rank_cd(p.lexemes, q, 33) AS score
FROM websearch_to_tsquery('english', $2) AS q
JOIN tools.passages p ON p.tenant = $1 AND p.lexemes @@ q
JOIN tools.documents d ON d.tenant = p.tenant AND d.source = p.source
ORDER BY score DESC, p.source, p.ordinal
LIMIT $3
"""
_INSERT_PASSAGES = """
INSERT INTO tools.passages (tenant, source, ordinal, heading, body)
SELECT $1, $2, n, heading, body
FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS p (heading, body, n)
"""
_VERSION = "SELECT count(*), max(update_time) FROM tools.documents WHERE tenant = $1"
_FILL_SECONDS = 60.0
# For how long a version is believed: so long an old result may outlive its documents.
_VERSION_SECONDS = 1.0
_MAX_VERSIONS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    source: str
    title: str
    heading: str
    body: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """How many documents a filling changed."""

    stored: int
    deleted: int
    unchanged: int


class Knowledge:
    """The documents of tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._versions: dict[str, tuple[float, str]] = {}

    async def fill(self, tenant: str, documents: Sequence[Document]) -> Filled:
        """Makes the documents of `tenant` these."""
        async with self._database.transaction(tenant, timeout=_FILL_SECONDS) as conn:
            await conn.execute("knowledge_lock", _LOCK, tenant)
            rows = await conn.fetch(
                "knowledge_digests",
                "SELECT source, digest FROM tools.documents WHERE tenant = $1",
                tenant,
            )
            stored = {row["source"]: row["digest"] for row in rows}
            new = [each for each in documents if stored.get(each.source) != each.digest]
            gone = stored.keys() - {each.source for each in documents}
            replaced = [*gone, *(each.source for each in new)]
            if replaced:
                await conn.execute(
                    "knowledge_delete",
                    "DELETE FROM tools.documents WHERE tenant = $1 AND source = ANY($2)",
                    tenant,
                    replaced,
                )
            for document in new:
                await _store(conn, tenant, document)
            if replaced or new:
                await conn.execute(
                    "knowledge_touch",
                    "UPDATE tools.documents SET update_time = clock_timestamp() WHERE tenant = $1",
                    tenant,
                )
        self._versions.pop(tenant, None)
        return Filled(stored=len(new), deleted=len(gone), unchanged=len(documents) - len(new))

    async def version(self, tenant: str) -> str:
        """Of the documents of `tenant`, as of the last second. Raises `Unavailable`."""
        known = self._versions.get(tenant)
        now = time.monotonic()
        if known is not None and now < known[0]:
            return known[1]
        async with self._database.transaction(tenant) as conn:
            row = await conn.fetchrow("knowledge_version", _VERSION, tenant)
        number, latest = row or (0, None)
        version = f"{number} {latest.isoformat() if latest else ''}"
        if len(self._versions) >= _MAX_VERSIONS:
            self._versions.clear()
        self._versions[tenant] = now + _VERSION_SECONDS, version
        return version

    async def search(self, tenant: str, query: str, *, limit: int) -> list[Found]:
        """The passages that fit best, best first."""
        query = query.replace("\x00", " ")
        async with self._database.transaction(tenant) as conn:
            rows = await conn.fetch("knowledge_search", _SEARCH, tenant, query, limit)
            if not rows:
                anything = " OR ".join(re.findall(r"\w+", query))
                rows = await conn.fetch("knowledge_search_any", _SEARCH, tenant, anything, limit)
        return [Found(**row) for row in rows]


async def _store(conn: Connection, tenant: str, document: Document) -> None:
    await conn.execute(
        "knowledge_store",
        "INSERT INTO tools.documents (tenant, source, title, digest) VALUES ($1, $2, $3, $4)",
        tenant,
        document.source,
        document.title,
        document.digest,
    )
    await conn.execute(
        "knowledge_store_passages",
        _INSERT_PASSAGES,
        tenant,
        document.source,
        [each.heading for each in document.passages],
        [each.body for each in document.passages],
    )
