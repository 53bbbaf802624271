"""A cache service of its own, and a Redis and a PostgreSQL that can be taken from it.

Each store is a real server behind a fault proxy in this process. It can be stopped, frozen (every
process of it gets SIGSTOP), slow (the proxy holds each chunk back for longer than a call may take),
full (Redis at its memory limit without eviction; PostgreSQL where every transaction is read-only,
as on a full disk), and brought back having lost all it held.
"""

import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import psutil
from redis.asyncio import Redis

from peregrine.kit import postgres
from peregrine.local import health, migrations, places, plan, servers
from peregrine.local.processes import Children, until_ready
from peregrine.local.servers import PostgresServer, RedisServer
from tests.support.dsn import through
from tests.support.proxy import FaultProxy, fault_proxy

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_SLOW_SECONDS = 0.3


# What takes a store away, and what brings it back.
FAULTS = {
    "stopped": ("stopped", "started"),
    "frozen": ("frozen", "thawed"),
    "slow": ("slow", "fast"),
    "full": ("full", "roomy"),
    "restarted empty": ("lost", "started_empty"),
}


class RedisStore:
    """`levels`: the cache's tiers that need it. A method that takes it away, one that brings it
    back."""

    name = "Redis"
    levels = ("redis", "leases")

    def __init__(self, server: RedisServer, proxy: FaultProxy) -> None:
        self._server = server
        self._proxy = proxy
        self.url = f"redis://{proxy.address}/0"

    async def stopped(self) -> None:
        await self._server.stop()

    async def started(self) -> None:
        await self._server.restart()

    async def frozen(self) -> None:
        self._server.child.send(signal.SIGSTOP)

    async def thawed(self) -> None:
        self._server.child.send(signal.SIGCONT)

    async def slow(self) -> None:
        self._proxy.delay = _SLOW_SECONDS

    async def fast(self) -> None:
        self._proxy.delay = 0.0

    async def full(self) -> None:
        await self._configure("1")

    async def roomy(self) -> None:
        await self._configure("0")

    async def lost(self) -> None:
        await self._server.kill()

    async def started_empty(self) -> None:
        await self._server.restart(empty=True)

    async def _configure(self, most: str) -> None:
        client = Redis.from_url(self._server.url())
        try:
            await client.config_set("maxmemory", most)
        finally:
            await client.aclose()


class PostgresStore:
    name = "PostgreSQL"
    levels = ("postgres",)

    def __init__(self, directory: Path, children: Children, *, durable: bool) -> None:
        self._directory = directory
        self._durable = durable
        self._children = children
        self._running = contextlib.AsyncExitStack()
        self._server: PostgresServer
        self._proxy: FaultProxy
        self.dsn = ""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        try:
            await self.started()
            await postgres.migrate(self._server.dsn(), migrations.COMPONENTS)
            # What it is brought back with when it has lost everything.
            await self.stopped()
            shutil.copytree(self._data, self._spare)
            self._as_owned_as(self._data, self._spare)
            await self.started()
            async with fault_proxy(str(self._server.socket_path)) as self._proxy:
                self.dsn = through(self._server.dsn(), self._proxy.address)
                yield
        finally:
            await self._running.aclose()

    @property
    def _data(self) -> Path:
        return self._directory / "pg" / "data"

    @property
    def _spare(self) -> Path:
        return self._directory / "pg" / "spare"

    async def stopped(self) -> None:
        await self._running.aclose()

    async def started(self) -> None:
        self._server = await self._running.enter_async_context(
            servers.postgres(
                self._children,
                directory=self._directory / "pg",
                log_path=self._directory / "postgres.log",
                durable=self._durable,
            )
        )

    async def frozen(self) -> None:
        for each in self._processes():
            each.suspend()

    async def thawed(self) -> None:
        for each in self._processes():
            each.resume()

    async def slow(self) -> None:
        self._proxy.delay = _SLOW_SECONDS

    async def fast(self) -> None:
        self._proxy.delay = 0.0

    async def full(self) -> None:
        await self._configure("on")

    async def roomy(self) -> None:
        await self._configure("off")

    async def lost(self) -> None:
        await self.stopped()

    async def started_empty(self) -> None:
        shutil.rmtree(self._data)
        shutil.copytree(self._spare, self._data)
        self._as_owned_as(self._spare, self._data)
        await self.started()

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self._server.child.pid)
        return [first, *first.children(recursive=True)]

    def _as_owned_as(self, model: Path, tree: Path) -> None:
        """Copies made by root belong to whom PostgreSQL runs as."""
        owner = model.stat()
        for each in (tree, *tree.rglob("*")):
            shutil.chown(each, owner.st_uid, owner.st_gid)

    async def _configure(self, read_only: str) -> None:
        connection = await asyncpg.connect(self._server.superuser_dsn())
        try:
            # For sessions that are open as well as for new ones.
            await connection.execute(
                f"ALTER SYSTEM SET default_transaction_read_only = {read_only}"
            )
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()


class Replica:
    """A process of the cache service."""

    def __init__(self, service: plan.Service, http: httpx.AsyncClient) -> None:
        self.address = service.address
        self._http = http
        self._metrics = f"http://{plan.HOST}:{service.environ['PEREGRINE_METRICS_PORT']}/metrics"

    async def up(self, level: str) -> bool:
        """Whether that tier is asked: its breaker is closed."""
        text = (await self._http.get(self._metrics)).text
        found = re.search(rf'^peregrine_cache_tier_up{{level="{level}"}} (\S+)$', text, re.M)
        if found is None:
            raise RuntimeError(f"the cache says nothing of the tier {level!r}")
        return float(found[1]) == 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    redis: RedisStore
    postgres: PostgresStore
    replicas: list[Replica]


@contextlib.asynccontextmanager
async def opened(
    children: Children, directory: Path, *, replicas: int, durable: bool = True
) -> AsyncIterator[World]:
    """Both stores in a new `directory`, and so many replicas of the cache that serve."""
    directory.mkdir(mode=0o755)  # noqa: ASYNC240 - once, before anything runs
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            servers.redis(children, directory=directory / "redis", log_path=directory / "redis.log")
        )
        proxy = await stack.enter_async_context(fault_proxy(str(server.socket_path)))
        redis = RedisStore(server, proxy)
        postgres = PostgresStore(directory, children, durable=durable)
        await stack.enter_async_context(postgres.opened())
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0))
        found = []
        for number in range(replicas):
            service = _service(redis.url, postgres.dsn)
            child = children.spawn(
                "cache",
                service.command,
                env=service.environ,
                log_path=directory / f"cache-{number}.log",
            )
            stack.push_async_callback(child.stop, grace=_STOP_SECONDS)
            await until_ready(child, partial(health.answers, service), deadline=_START_SECONDS)
            found.append(Replica(service, http))
        yield World(redis=redis, postgres=postgres, replicas=found)


def _service(redis_url: str, postgres_dsn: str) -> plan.Service:
    port = plan.Port(number=places.free_port(), variable="")
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "PEREGRINE_LISTEN": f"{plan.HOST}:{port.number}",
        "PEREGRINE_METRICS_PORT": str(places.free_port()),
        "PEREGRINE_AUTH_REQUIRED": "false",
        "PEREGRINE_DRAIN_SECONDS": "1",
        "PEREGRINE_POSTGRES_DSN": postgres_dsn,
        "PEREGRINE_REDIS_URL": redis_url,
        "PYTHONPATH": plan.import_path({}),
    }
    return plan.Service(name="cache", ports=(port,), environ=environ)
