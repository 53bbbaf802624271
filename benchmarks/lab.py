"""What the measurements share: each part is opened when the first one asks, all are closed at the
end, newest first."""

import contextlib
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from benchmarks import stack
from benchmarks.echo import Echo
from benchmarks.stack import REPOSITORY, Peregrine
from peregrine.kit import postgres
from peregrine.local import migrations, places, servers
from peregrine.local.plan import Stores
from peregrine.local.processes import Children


class Lab:
    """Use it as an async context manager; everything it started ends with it."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._echo: Echo | None = None
        self._stores: Stores | None = None
        self._peregrine: Peregrine | None = None

    async def __aenter__(self) -> Self:
        # On the disk where `make run` keeps its state: what a commit costs is the disk's.
        parent = REPOSITORY / "build"
        parent.mkdir(exist_ok=True)
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=parent))
        )
        self.directory.chmod(0o755)
        self.children = await self._stack.enter_async_context(Children(grace=10.0))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def echo(self) -> Echo:
        """The bare echo, its server a process of its own."""
        if self._echo is None:
            port = places.free_port()
            self.children.spawn(
                "echo",
                [sys.executable, "-m", "benchmarks.echo", str(port)],
                cwd=REPOSITORY,
                log_path=self.directory / "echo.log",
            )
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            echo = Echo(await self._stack.enter_async_context(channel))
            await echo.warm()
            self._echo = echo
        return self._echo

    async def stores(self) -> Stores:
        """PostgreSQL (durable) and Redis, embedded, with the tables of every component."""
        if self._stores is None:
            database = await self._stack.enter_async_context(
                servers.postgres(
                    self.children,
                    directory=self.directory / "pg",
                    log_path=self.directory / "postgres.log",
                )
            )
            redis = await self._stack.enter_async_context(
                servers.redis(
                    self.children,
                    directory=self.directory / "redis",
                    log_path=self.directory / "redis.log",
                )
            )
            await postgres.migrate(database.dsn(), migrations.COMPONENTS)
            self._stores = Stores(
                postgres_dsn=database.dsn(), redis_url=redis.url(0), cache_redis_url=redis.url(1)
            )
        return self._stores

    async def peregrine(self) -> Peregrine:
        """All services, serving."""
        if self._peregrine is None:
            stores = await self.stores()
            self._peregrine = await self._stack.enter_async_context(
                stack.running(self.children, stores=stores, directory=self.directory)
            )
        return self._peregrine
