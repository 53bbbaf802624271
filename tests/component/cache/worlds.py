"""Where random lives of the cache take place: servers, replicas, callers, and their clocks."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peregrine.client import CacheClient, _entries, _invalidations
from peregrine.kit import postgres
from peregrine.local import migrations, servers
from peregrine.local.processes import Children
from peregrine.local.servers import PostgresServer, RedisServer
from tests.component.cache import conftest
from tests.component.cache.conftest import Cache, Clock
from tests.support.ports import free_port
from tests.support.proxy import FaultProxy, fault_proxy


class Times:
    """What `time` is to callers: their clocks jump with the service's, but never go back."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.wall = Clock()

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return self.wall()


class World:
    """The PostgreSQL of all lives; each has a database, a Redis and two replicas of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.loop = loop
        self.directory = directory
        self.lives = self.hits = self.near_hits = self.stale_hits = 0
        self.times = Times()
        self.postgres: PostgresServer

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @classmethod
    @asynccontextmanager
    async def opened(cls, directory: Path) -> "AsyncIterator[World]":
        world = cls(asyncio.get_running_loop(), directory)
        async with AsyncExitStack() as stack:
            children = await stack.enter_async_context(Children(grace=10.0))
            (directory / "postgres").mkdir()
            world.postgres = await stack.enter_async_context(
                servers.postgres(
                    children,
                    directory=directory / "postgres" / "pg",
                    log_path=directory / "postgres.log",
                    durable=False,
                )
            )
            await world.postgres.create_database("lives")
            await postgres.migrate(world.postgres.dsn("lives"), migrations.COMPONENTS)
            with pytest.MonkeyPatch.context() as patch:
                for module in (_entries, _invalidations):
                    patch.setattr(module, "time", world.times)
                yield world


class Half:
    """A replica, a near cache, and the connection between them, which may stall."""

    def __init__(self, dsn: str, redis: RedisServer, clock: Clock) -> None:
        self._dsn, self._redis, self._clock = dsn, redis, clock
        self._address = f"127.0.0.1:{free_port()}"
        self._running = AsyncExitStack()
        self._calling = AsyncExitStack()
        self._link: FaultProxy
        self.cache: Cache
        self.client: CacheClient
        self.cut = ""
        self.stalled = False

    async def begin(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self._running.aclose)
        self._link = await stack.enter_async_context(fault_proxy(self._address))
        stack.push_async_callback(self._calling.aclose)
        await self.start()
        await self.call()

    async def start(self) -> None:
        """The replica, anew."""
        # Else it would wait for a caller whose connection stalls.
        self._link.reset()
        await self._running.aclose()
        self.cache = await conftest.replica(
            self._running, self._dsn, self._redis, self._clock, listen=self._address
        )

    async def call(self) -> None:
        """The caller, anew."""
        await self._calling.aclose()
        self.client = await self._calling.enter_async_context(
            CacheClient(self._link.address, near_bytes=2**20, entry_timeout=2.0)
        )

    def part(self, store: str) -> None:
        self.cut = store
        getattr(self.cache, f"{store}_proxy").cut()

    def stall(self) -> None:
        self.stalled = True
        self._link.stall()

    def mend(self) -> None:
        self.cut, self.stalled = "", False
        self.cache.redis_proxy.resume()
        self.cache.postgres_proxy.resume()
        self._link.resume()
