"""The one home of asyncpg: transactions that belong to a tenant, each statement by name.

A transaction opens in ONE round trip: `BEGIN` and the tenant and user that row-level security reads
(`SET LOCAL`, so nothing survives the transaction) travel as one simple query. It commits in one
more. Returning a connection to the pool costs none: the usual reset query is off, because a
transaction here leaves no session state behind. What is on everybody's way (a turn, the end of a
run, a batch of log entries) is a function in the database, and `Database.call` is the whole
transaction in ONE round trip: a server process that has slept takes a millisecond to answer.

Row-level security is void for a superuser, so `Database.connect` refuses such a role.

Policies read `current_setting('peregrine.tenant', true)`; `ALL_TENANTS` sets it to '*', for the few
statements that look after rows of everybody (lease renewal, take-over, log batches, expiry).
`NO_TENANT` sees no tenant's rows: for what happens before anybody is known.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from prometheus_client import CollectorRegistry, Histogram

from peregrine.kit import context, migrations
from peregrine.kit.errors import DeadlineExceeded, Internal, StartRefused, Unavailable
from peregrine.kit.migrations import Migration, MigrationError
from peregrine.kit.settings import Secret

# What callers may catch without importing asyncpg themselves.
Record = asyncpg.Record
UniqueViolation = asyncpg.UniqueViolationError
ForeignKeyViolation = asyncpg.ForeignKeyViolationError
CheckViolation = asyncpg.CheckViolationError
SerializationFailure = asyncpg.SerializationError
DeadlockDetected = asyncpg.DeadlockDetectedError
InsufficientPrivilege = asyncpg.InsufficientPrivilegeError
DatabaseError = asyncpg.PostgresError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.@-]{0,62}")
_LOST: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The server has said goodbye to a connection that lay idle, and its end is not seen yet.
    asyncpg.InternalClientError,
    OSError,
)
_DRIVER: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
_UNCLEAN: tuple[type[Exception], ...] = (TimeoutError, *_DRIVER)
_ROLLBACK_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_MIGRATION_SECONDS = 600.0
_STATEMENT_SECONDS = 30.0  # for `call`, whose limit is the caller's; a transaction sets its own
_REFUSED = "PX001"  # the SQLSTATE of `peregrine_accept`
_MIGRATION_LOCK = "SELECT pg_advisory_xact_lock(1885696613)"  # any number; one for all components
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Refused(Exception):
    """A function answered with an outcome that its caller does not accept; nothing was kept."""

    def __init__(self, outcome: str, head: int | None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.head = head


class UnsafeRole(StartRefused):
    """The role of the DSN is above row-level security."""


class AllTenants:
    """The type of `ALL_TENANTS`; there is one instance."""

    def __repr__(self) -> str:
        return "ALL_TENANTS"


class NoTenant:
    """The type of `NO_TENANT`; there is one instance."""

    def __repr__(self) -> str:
        return "NO_TENANT"


ALL_TENANTS: Final = AllTenants()
NO_TENANT: Final = NoTenant()


class Connection:
    """A connection inside its transaction.

    Each statement has a short constant name, the label of its timing. Every method raises
    `Unavailable` (POSTGRES_UNAVAILABLE) when the connection is lost; violations pass as they are.
    SQL without arguments may hold several statements.
    """

    __slots__ = ("_database", "_raw")

    def __init__(self, raw: Any, database: "Database") -> None:
        self._raw = raw
        self._database = database

    async def fetch(self, name: str, sql: str, *args: Any) -> list[Record]:
        rows: list[Record] = await self._timed(name, self._raw.fetch, sql, *args)
        return rows

    async def fetchrow(self, name: str, sql: str, *args: Any) -> Record | None:
        row: Record | None = await self._timed(name, self._raw.fetchrow, sql, *args)
        return row

    async def fetchval(self, name: str, sql: str, *args: Any) -> Any:
        return await self._timed(name, self._raw.fetchval, sql, *args)

    async def execute(self, name: str, sql: str, *args: Any) -> str:
        """Returns the command tag, such as `UPDATE 1`."""
        tag: str = await self._timed(name, self._raw.execute, sql, *args)
        return tag

    async def executemany(self, name: str, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        await self._timed(name, self._raw.executemany, sql, rows)

    async def _timed(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return await method(*args)
        except _DRIVER as error:
            _raise_if_lost(error, self._raw)
            raise
        finally:
            self._database.observe(name, time.perf_counter() - started)


class Database:
    """A pool of connections under a plain role. Made by `connect`, ended by `close`."""

    def __init__(self, pool: Any, registry: CollectorRegistry | None) -> None:
        self._pool = pool
        self._seconds = Histogram(
            "peregrine_db_query_seconds",
            "Time of a database statement, as the caller sees it, by statement name",
            ["statement"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._children: dict[str, Histogram] = {}
        self._calls: dict[tuple[str, int, bool], str] = {}
        self._cleanups: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(
        cls,
        dsn: Secret | str,
        *,
        size: int = 8,
        registry: CollectorRegistry | None = None,
        application_name: str = "peregrine",
        timeout: float = _CONNECT_SECONDS,
        idle_in_transaction: float = 5.0,
    ) -> "Database":
        """Connects and checks the role.

        Args:
          size: most connections of this pool; two are opened at once, the rest on demand.
          idle_in_transaction: seconds after which the server ends a transaction whose process
            fell silent, so that a frozen process cannot hold its row locks for long.

        Raises:
          UnsafeRole: the role is a superuser or has BYPASSRLS.
          StartRefused: the DSN is malformed, or the server refuses these credentials.
          Unavailable: the server cannot be reached (POSTGRES_UNAVAILABLE).
        """
        try:
            async with asyncio.timeout(timeout):
                pool = await asyncpg.create_pool(
                    dsn.reveal() if isinstance(dsn, Secret) else dsn,
                    min_size=min(2, size),
                    max_size=size,
                    max_inactive_connection_lifetime=0,
                    reset=_leave_as_is,
                    server_settings={
                        "application_name": application_name,
                        "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction),
                        "statement_timeout": _milliseconds(_STATEMENT_SECONDS),
                        "jit": "off",
                    },
                )
        except (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
        ) as error:
            raise StartRefused(f"PostgreSQL refuses the given DSN: {error}") from None
        except (ValueError, asyncpg.InterfaceError):
            raise StartRefused(
                "the PostgreSQL DSN is malformed: postgresql://role@host/database is expected"
            ) from None
        except TimeoutError:
            raise _unavailable(f"PostgreSQL did not answer within {timeout:g} s") from None
        except (asyncpg.PostgresError, OSError) as error:
            raise _unavailable("PostgreSQL cannot be reached") from error
        database = cls(pool, registry)
        try:
            await database._refuse_unsafe_role()
        except BaseException:
            pool.terminate()
            raise
        return database

    async def close(self, timeout: float = 5.0) -> None:
        """Waits for transactions under way, then closes; cuts what is left after `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                while self._cleanups:
                    await asyncio.wait(self._cleanups)
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def observe(self, statement: str, seconds: float) -> None:
        child = self._children.get(statement)
        if child is None:
            child = self._children[statement] = self._seconds.labels(statement)
        child.observe(seconds)

    @asynccontextmanager
    async def transaction(
        self,
        tenant: str | AllTenants | NoTenant,
        *,
        user: str | None = None,
        timeout: float = 5.0,
    ) -> AsyncIterator[Connection]:
        """A transaction that sees the rows of `tenant` only; commits unless the block raises.

        Args:
          user: whom policies by user see; by default the user of the current call, if its tenant
            is this one, else nobody.
          timeout: seconds for everything from waiting for a connection to the commit; never more
            than is left of the call's deadline.

        Raises:
          Unavailable: POSTGRES_UNAVAILABLE, or POSTGRES_TIMEOUT after `timeout`.
          DeadlineExceeded: the deadline of the call came first.
          Internal: TRANSACTION_FAILED, when a failed statement was swallowed inside the block.
        """
        limit = _limit(timeout)
        opening = _opening(tenant, user, limit)
        async with self._connection(limit, timeout) as raw:
            await self._simple("begin", raw, opening)
            yield Connection(raw, self)
            await self._commit(raw)

    async def call(
        self,
        name: str,
        function: str,
        *args: Any,
        tenant: str | AllTenants,
        user: str | None = None,
        accept: Sequence[str] = (),
        ready: Callable[[], Awaitable[None]] | None = None,
        timeout: float = 5.0,
    ) -> list[Record]:
        """A function of the database as a transaction of its own, in one round trip.

        Args:
          function: its name with the schema. It gets tenant and user before `args`; they are set
            for row-level security, for this transaction, before it begins.
          tenant, user, timeout: as for `transaction`.
          accept: what its column `outcome` may say, where it has one, beside a number `head`.
          ready: returns when it may be committed: something else was done while the function ran.
            Costs two round trips more; what it raises is raised, and nothing is kept.

        Raises:
          Refused: another outcome; nothing was kept.
          Unavailable, DeadlineExceeded: as `transaction`; it may have been done.
        """
        limit = _limit(timeout)
        key = (function, len(args), bool(accept))
        sql = self._calls.get(key)
        if sql is None:
            sql = self._calls[key] = _calling(*key)
        values = (_checked(tenant), _checked_user(tenant, user), *args)
        if accept:
            values = (*values, list(accept))
        async with self._connection(limit, timeout) as raw:
            if ready is not None:
                await self._simple("begin", raw, "BEGIN")
            started = time.perf_counter()
            try:
                rows: list[Record] = await raw.fetch(sql, *values)
            except _DRIVER as error:
                if isinstance(error, asyncpg.PostgresError) and error.sqlstate == _REFUSED:
                    head = error.detail
                    raise Refused(error.args[0], int(head) if head else None) from None
                _raise_if_lost(error, raw)
                raise
            self.observe(name, time.perf_counter() - started)
            if ready is not None:
                await ready()
                await self._commit(raw)
        return rows

    @asynccontextmanager
    async def _connection(self, limit: float, timeout: float) -> AsyncIterator[Any]:
        """A connection for at most `limit` seconds; one that was left unclean is rolled back."""
        try:
            async with asyncio.timeout(limit) as scope:
                raw = await self._acquire()
                try:
                    yield raw
                except asyncio.CancelledError:
                    self._abandon(raw)  # in the background: who is cancelled or late does not wait
                    raise
                except BaseException:
                    await asyncio.shield(self._abandon(raw))
                    raise
                self._in_background(self._give_back(raw))
        except TimeoutError:
            if not scope.expired():
                raise
            if limit < timeout:
                raise DeadlineExceeded(
                    "the deadline passed in the database", reason="DEADLINE_EXCEEDED"
                ) from None
            raise _unavailable(
                f"PostgreSQL took longer than {timeout:g} s", reason="POSTGRES_TIMEOUT"
            ) from None

    async def _acquire(self) -> Any:
        started = time.perf_counter()
        try:
            return await self._pool.acquire()
        except _DRIVER as error:
            _raise_if_lost(error, None)
            raise
        finally:
            self.observe("acquire", time.perf_counter() - started)

    async def _simple(self, name: str, raw: Any, sql: str) -> str:
        started = time.perf_counter()
        try:
            tag: str = await raw.execute(sql)
        except _DRIVER as error:
            _raise_if_lost(error, raw)
            raise
        self.observe(name, time.perf_counter() - started)
        return tag

    async def _commit(self, raw: Any) -> None:
        # A transaction that failed inside answers a COMMIT with ROLLBACK, silently.
        if await self._simple("commit", raw, "COMMIT") != "COMMIT":
            raise Internal("a statement failed, so nothing was kept", reason="TRANSACTION_FAILED")

    def _abandon(self, raw: Any) -> asyncio.Task[None]:
        """Rolls back and returns the connection, in a task that `close` waits for."""
        return self._in_background(self._roll_back(raw))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return task

    async def _give_back(self, raw: Any) -> None:
        with contextlib.suppress(*_DRIVER):  # it is closed then, and the pool makes another
            await self._pool.release(raw)

    async def _roll_back(self, raw: Any) -> None:
        try:
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                if not _closed(raw):
                    await raw.execute("ROLLBACK")
                await self._pool.release(raw)
        except _UNCLEAN:
            # Whatever state it is in, nobody gets this connection again.
            with contextlib.suppress(*_DRIVER):
                raw.terminate()
                await self._pool.release(raw)

    async def _refuse_unsafe_role(self) -> None:
        async with self.transaction(ALL_TENANTS) as conn:
            role = await conn.fetchrow(
                "role_check",
                "SELECT rolname, rolsuper FROM pg_roles WHERE rolname IN (current_user, "
                "session_user) AND (rolsuper OR rolbypassrls) LIMIT 1",
            )
        if role is not None:
            power = "is a superuser" if role["rolsuper"] else "has BYPASSRLS"
            raise UnsafeRole(
                f"the PostgreSQL role {role['rolname']!r} {power}, which voids row-level security: "
                "connect with a plain role (CREATE ROLE … LOGIN NOSUPERUSER NOBYPASSRLS)"
            )


async def migrate(dsn: Secret | str, components: Sequence[tuple[str, str]]) -> list[str]:
    """Applies what is missing of each (component, package); returns what was applied.

    Raises:
      MigrationError: a statement failed (its transaction left nothing), or an applied file changed.
      StartRefused, Unavailable: as `Database.connect`.
    """
    wanted = [each for name, package in components for each in migrations.find(name, package)]
    database = await Database.connect(
        dsn, size=1, application_name="peregrine-migrate", idle_in_transaction=60.0
    )
    async with database:
        async with database.transaction(ALL_TENANTS, timeout=_MIGRATION_SECONDS) as conn:
            await conn.execute("migrations_lock", _MIGRATION_LOCK)
            await conn.execute("migrations_table", migrations.FOUNDATION)
        return [str(each) for each in wanted if await _apply(database, each)]


async def check_schema(database: Database, component: str, package: str) -> None:
    """Makes sure that every migration of `component` is applied, unchanged.

    Raises:
      MigrationError: it is behind; the message says to run `peregrine migrate`.
    """
    async with database.transaction(ALL_TENANTS) as conn:
        rows = []
        if await conn.fetchval(
            "migrations_table_exists", "SELECT to_regclass('peregrine_migrations') IS NOT NULL"
        ):
            rows = await conn.fetch(
                "migrations_applied",
                "SELECT version, checksum FROM peregrine_migrations WHERE component = $1",
                component,
            )
    applied = {row["version"]: row["checksum"] for row in rows}
    migrations.check(component, migrations.find(component, package), applied)


async def _apply(database: Database, migration: Migration) -> bool:
    async with database.transaction(ALL_TENANTS, timeout=_MIGRATION_SECONDS) as conn:
        await conn.execute("migrations_lock", _MIGRATION_LOCK)
        checksum = await conn.fetchval(
            "migration_checksum",
            "SELECT checksum FROM peregrine_migrations WHERE component = $1 AND version = $2",
            migration.component,
            migration.version,
        )
        if checksum is not None:
            migrations.compare(migration, checksum)
            return False
        try:
            await conn.execute("migration", migration.sql)
        except DatabaseError as error:
            raise MigrationError(f"migration {migration} failed: {error}") from error
        await conn.execute(
            "migration_record",
            "INSERT INTO peregrine_migrations (component, version, name, checksum) "
            "VALUES ($1, $2, $3, $4)",
            migration.component,
            migration.version,
            migration.name,
            migration.checksum,
        )
    return True


def _limit(timeout: float) -> float:
    left = context.deadline_remaining()
    return timeout if left is None else min(timeout, left)


def _opening(tenant: str | AllTenants | NoTenant, user: str | None, limit: float) -> str:
    return (
        f"BEGIN; SET LOCAL peregrine.tenant = '{_checked(tenant)}'; "
        f"SET LOCAL peregrine.\"user\" = '{_checked_user(tenant, user)}'; "
        f"SET LOCAL statement_timeout = {_milliseconds(limit + 0.25)}"
    )


def _calling(function: str, count: int, outcome: bool) -> str:
    # The function takes its first arguments from `peregrine_enter`, so it cannot run before it.
    values = "".join(f", ${number}" for number in range(3, 3 + count))
    accepted = f", peregrine_accept(f.outcome, f.head, ${3 + count})" if outcome else ""
    return (
        f"SELECT f.*{accepted} FROM peregrine_enter($1, $2) AS e"  # noqa: S608 - constants only
        f" CROSS JOIN LATERAL {function}(e.tenant, e.user_id{values}) AS f"
    )


def _checked_user(tenant: str | AllTenants | NoTenant, user: str | None) -> str:
    if user is None:
        call = context.current()
        known = call.identity if call is not None else None
        user = known.user if known is not None and known.tenant == tenant else ""
    return _checked(user) if user else ""


def _checked(name: str | AllTenants | NoTenant) -> str:
    # The pattern admits no quote and no backslash, so the value can stand in the statement.
    if name is ALL_TENANTS:
        return "*"
    if name is NO_TENANT:
        return ""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is not a name of a tenant or user")
    return name


def _milliseconds(seconds: float) -> str:
    return str(max(int(seconds * 1000), 1))


async def _leave_as_is(_: Any) -> None:
    """Replaces asyncpg's reset query: only SET LOCAL is used, so there is nothing to reset."""


def _raise_if_lost(error: Exception, raw: Any) -> None:
    if isinstance(error, asyncpg.QueryCanceledError):
        raise _unavailable(
            "PostgreSQL ended a slow statement", reason="POSTGRES_TIMEOUT"
        ) from error
    if isinstance(error, _LOST) or (isinstance(error, asyncpg.InterfaceError) and _closed(raw)):
        raise _unavailable("the connection to PostgreSQL is lost") from error


def _closed(raw: Any) -> bool:
    try:
        return raw is None or bool(raw.is_closed())
    except asyncpg.InterfaceError:
        return True  # asyncpg takes a dead connection away from whoever holds it


def _unavailable(message: str, *, reason: str = "POSTGRES_UNAVAILABLE") -> Unavailable:
    return Unavailable(message, reason=reason, retry_after=1.0)
