"""The ledger of changes: what makes a WRITE that is asked for twice happen once.

A row is written before the effect and ended with its outcome after it, before anybody is told. Who
asks again with the same key finds one of these:

- it has ended: the first outcome, whatever that was;
- it is under way on a worker that lives: wait for it;
- it is under way on a worker that does not say any more that it lives: nobody knows whether it
  happened. In doubt; only a tool that may be run again is.

A worker says so every second, in one statement for all it executes, and is believed for three. An
outcome that comes late (from a worker that was frozen, or cut off from PostgreSQL) is still
recorded, and answers the next one who asks.

Rows are kept for a day.
"""

import asyncio
import enum
import random
import uuid
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError
from peregrine.kit.postgres import ALL_TENANTS, Database, Record

MAX_KEY = 200

_RENEW_SECONDS = 1.0
_TIMEOUT = 2.0
_SWEEP_SECONDS = 600.0
_ROWS_AT_ONCE = 1_000
# Outcomes that PostgreSQL has not taken yet.
_MAX_UNWRITTEN = 1_000
BEGIN = """
INSERT INTO tools.effects AS e (tenant, user_id, key, digest, owner, alive_until)
VALUES ($1, $2, $3, $4, $5, now() + interval '3 seconds')
ON CONFLICT (tenant, user_id, key) DO UPDATE
    SET owner = EXCLUDED.owner, alive_until = EXCLUDED.alive_until
    WHERE $6 AND e.result IS NULL AND e.alive_until < now() AND e.digest = EXCLUDED.digest
RETURNING true
"""
READ = (
    "SELECT digest, result, alive_until < now() AS lost FROM tools.effects "
    "WHERE tenant = $1 AND user_id = $2 AND key = $3"
)
END = (
    "UPDATE tools.effects SET result = $5 "
    "WHERE tenant = $1 AND user_id = $2 AND key = $3 AND owner = $4 AND result IS NULL"
)
FORGET = (
    "DELETE FROM tools.effects "
    "WHERE tenant = $1 AND user_id = $2 AND key = $3 AND owner = $4 AND result IS NULL"
)
RENEW = (
    "UPDATE tools.effects SET alive_until = now() + interval '3 seconds' "
    "WHERE owner = $1 AND result IS NULL"
)
SWEEP = """
DELETE FROM tools.effects WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM tools.effects WHERE create_time < now() - interval '24 hours'
    ORDER BY create_time LIMIT $1 FOR UPDATE SKIP LOCKED))
"""

log = structlog.get_logger(__name__)


class Found(enum.Enum):
    """What the ledger says to a call that wants to begin."""

    BEGUN = "begun"
    ENDED = "ended"
    UNDER_WAY = "under way"
    IN_DOUBT = "in doubt"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class Entry:
    """`result`: of an effect that has ended."""

    found: Found
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Effect:
    """One change that somebody asked for. `repeatable`: it may be run again when in doubt."""

    who: Identity
    key: str
    digest: bytes
    repeatable: bool = field(default=False, compare=False)


class Ledger:
    """The rows, and what this worker executes of them. `run` keeps it alive; made in a loop.

    `failures` counts what could not be written behind an answer. Methods raise what
    `Database.transaction` raises.
    """

    def __init__(self, *, database: Database, failures: Counter) -> None:
        self._database = database
        self._owner = uuid.uuid4()
        self._under_way: set[Effect] = set()
        self._unwritten: dict[Effect, bytes | None] = {}
        self._writing = asyncio.Lock()
        self._failures = failures

    async def begin(self, effect: Effect) -> Entry:
        """Writes that the effect begins, unless there is an entry of it already."""
        if effect in self._unwritten:
            late = self._unwritten[effect]
            if late is not None:
                return Entry(Found.ENDED, late)
            await self._write_late()
        try:
            begun, row = await self._begin(effect)
        except BaseException:
            # It may have been written all the same, and nothing is done under it.
            self._later(effect, None)
            raise
        if begun:
            self._under_way.add(effect)
            return Entry(Found.BEGUN)
        if row is None:
            return Entry(Found.UNDER_WAY)  # forgotten between the two statements: ask again
        if row["digest"] != effect.digest:
            return Entry(Found.REUSED)
        if row["result"] is not None:
            return Entry(Found.ENDED, row["result"])
        # One of our own is not lost, however long PostgreSQL was away.
        lost = row["lost"] and effect not in self._under_way
        return Entry(Found.IN_DOUBT if lost else Found.UNDER_WAY)

    async def _begin(self, effect: Effect) -> tuple[bool, Record | None]:
        tenant = effect.who.tenant
        where = (tenant, effect.who.user, effect.key)
        async with self._database.transaction(tenant, timeout=_TIMEOUT) as conn:
            begun = await conn.fetchval(
                "tools_effect_begin", BEGIN, *where, effect.digest, self._owner, effect.repeatable
            )
            if begun:
                return True, None
            return False, await conn.fetchrow("tools_effect_read", READ, *where)

    async def look(self, who: Identity, key: str) -> Entry | None:
        """What there is under a key, whatever it was used for: ENDED, UNDER_WAY or IN_DOUBT."""
        async with self._database.transaction(who.tenant, timeout=_TIMEOUT) as conn:
            row = await conn.fetchrow("tools_effect_read", READ, who.tenant, who.user, key)
        if row is None:
            return None
        if row["result"] is not None:
            return Entry(Found.ENDED, row["result"])
        return Entry(Found.IN_DOUBT if row["lost"] else Found.UNDER_WAY)

    async def end(self, effect: Effect, result: bytes | None) -> None:
        """Records the outcome; None when nothing was done, and the key may be used again.

        Does not raise: what PostgreSQL does not take now is written later, while this worker lives.
        """
        self._under_way.discard(effect)
        try:
            await self._write(effect, result)
        except PeregrineError as error:
            self._failures.inc()
            log.warning("effect_not_recorded", reason=error.reason)
            self._later(effect, result)

    async def run(self) -> None:
        """Says every second that this worker lives, and forgets what is old. Until cancelled."""
        until_sweep = random.uniform(0, _SWEEP_SECONDS)
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            until_sweep -= _RENEW_SECONDS
            try:
                await self.renew()
                if until_sweep <= 0:
                    until_sweep = _SWEEP_SECONDS
                    await self.sweep()
            except PeregrineError as error:
                self._failures.inc()
                log.warning("ledger_not_written", reason=error.reason)
            except Exception as error:
                # The top of a background task: the next time may go better.
                self._failures.inc()
                log.error("ledger_not_written", error=type(error).__name__, exc_info=error)

    async def renew(self) -> None:
        """Says that this worker lives, if it executes anything, and writes what is unwritten."""
        if self._under_way or self._unwritten:
            async with self._database.transaction(ALL_TENANTS, timeout=_TIMEOUT) as conn:
                await conn.execute("tools_effect_renew", RENEW, self._owner)
        await self._write_late()

    async def sweep(self) -> int:
        """Forgets what is older than a day; returns how much."""
        total, deleted = 0, _ROWS_AT_ONCE
        while deleted == _ROWS_AT_ONCE:
            async with self._database.transaction(ALL_TENANTS) as conn:
                tag = await conn.execute("tools_effect_sweep", SWEEP, _ROWS_AT_ONCE)
            deleted = int(tag.rpartition(" ")[2])
            total += deleted
        return total

    def _later(self, effect: Effect, result: bytes | None) -> None:
        if len(self._unwritten) < _MAX_UNWRITTEN:
            self._unwritten[effect] = result

    async def _write_late(self) -> None:
        async with self._writing:
            for effect, result in list(self._unwritten.items()):
                await self._write(effect, result)
                del self._unwritten[effect]

    async def _write(self, effect: Effect, result: bytes | None) -> None:
        tenant = effect.who.tenant
        where = (tenant, effect.who.user, effect.key, self._owner)
        # The call that caused it may be over before this is.
        with context.bind(detach=True):
            async with self._database.transaction(tenant, timeout=_TIMEOUT) as conn:
                if result is None:
                    await conn.execute("tools_effect_forget", FORGET, *where)
                else:
                    await conn.execute("tools_effect_end", END, *where, result)
