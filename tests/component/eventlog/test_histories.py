"""Random histories against a simple model: what was acknowledged is there, in order, once.

Three processes, each behind fault proxies of its own, hand one log around while connections break,
Redis forgets, and former owners go on appending as if nothing had happened. The model is a list:
what each owner was told is visible. A reader keeps a view, which may only grow at its end, or go
back to a position where a newer epoch begins.
"""

import asyncio
import os
import random
from contextlib import AsyncExitStack

import pytest

from peregrine.kit import redis
from peregrine.kit.errors import Aborted, Unavailable
from peregrine.kit.eventlog import Entry, EventLog, Writer
from peregrine.kit.eventlog import tail as tails
from tests.component.eventlog.conftest import TENANT, Cluster, Process
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.redis import target
from tests.support.redis import through as through_redis

SEEDS = range(int(os.environ.get("PEREGRINE_TEST_HISTORIES", "8")))
STEPS = 60


class View:
    """What one reader has, and whether it came lawfully."""

    def __init__(self, after: list[Entry]) -> None:
        self.entries = list(after)

    async def follow(self, log: EventLog, writer: Writer) -> None:
        start = self.entries[-1] if self.entries else None
        while not (self.entries and self.entries[-1].terminal):
            last = self.entries[-1] if self.entries else start
            try:
                async for batch in log.read(
                    tenant=TENANT,
                    log_id=writer.log_id,
                    after=last.sequence if last else 0,
                    after_epoch=last.epoch if last else None,
                ):
                    for entry in batch:
                        self.take(entry)
            except Unavailable:
                continue  # its connection broke: it comes back with what it has

    def take(self, entry: Entry) -> None:
        if entry.sequence <= len(self.entries):
            void = self.entries[entry.sequence - 1]
            assert entry.epoch > void.epoch, f"went back for {entry}, had {void}"
            del self.entries[entry.sequence - 1 :]
        assert entry.sequence == len(self.entries) + 1, "a gap"
        self.entries.append(entry)


class History:
    def __init__(
        self,
        rng: random.Random,
        processes: list[Process],
        proxies: list[tuple[FaultProxy, FaultProxy]],
        client: redis.Redis,
        direct: Process,
    ) -> None:
        self.rng = rng
        self.processes = processes
        self.proxies = proxies
        self.client = client
        self.direct = direct
        self.owner = 0
        self.writer: Writer
        self.former: list[Writer] = []
        self.acknowledged: list[bytes] = []
        self.views: list[View] = []

    async def start(self) -> None:
        self.writer = await self.processes[0].create()

    async def append(self) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            sequence = self.writer.append(self.payload(self.writer))
        if self.rng.random() < 0.6:
            wait = self.writer.durable if self.rng.random() < 0.2 else self.writer.visible
            async with asyncio.timeout(15):
                await wait(sequence)
            window = self.writer.window
            first = len(self.acknowledged) + 1
            self.acknowledged += [each.payload for each in window.slice(first, sequence)]

    def payload(self, writer: Writer) -> bytes:
        return b"epoch %d at %d" % (writer.epoch, writer.next_sequence)

    async def haunt(self) -> None:
        """Former owners append; whatever they think, it must not be read."""
        for writer in self.former:
            try:
                writer.append(b"haunted")
            except Aborted:
                continue

    async def take_over(self) -> None:
        self.former.append(self.writer)
        self.owner = self.rng.choice([n for n in range(3) if n != self.owner])
        process = self.processes[self.owner]

        async def recovered() -> object:
            async with self.direct.db.transaction(TENANT) as conn:
                await conn.execute(
                    "t", "UPDATE eventlog.logs SET lease_until = now() - interval '1 s'"
                )
            try:
                claims = await process.log.claim_expired(1)
                return claims and await process.log.recover(claims[0])
            except (Unavailable, Aborted):
                return None

        result = await eventually(recovered, timeout=20)
        self.writer = result.writer  # type: ignore[attr-defined]  # `eventually` returns what it got
        entries = [entry.payload for entry in result.entries]  # type: ignore[attr-defined]
        if len(entries) < len(self.acknowledged):
            assert result.truncated  # type: ignore[attr-defined]
            del self.acknowledged[len(entries) :]
        assert entries[: len(self.acknowledged)] == self.acknowledged
        self.acknowledged = entries

    async def forget(self) -> None:
        await self.client.flushdb()

    async def lose_head(self) -> None:
        await self.client.delete(tails.keys(self.writer.address)[self.rng.randrange(2)])

    async def cut_redis(self) -> None:
        self.proxies[self.rng.randrange(3)][0].reset()

    async def cut_postgres(self) -> None:
        self.proxies[self.rng.randrange(3)][1].reset()

    async def run(self, readers: asyncio.TaskGroup) -> None:
        actions = [
            *([self.append] * 12),
            *([self.haunt] * 4),
            *([self.take_over] * 2),
            self.forget,
            self.lose_head,
            *([self.cut_redis] * 2),
            *([self.cut_postgres] * 2),
        ]
        for step in range(STEPS):
            await self.rng.choice(actions)()
            if step % 8 == 0:
                view = View([])
                self.views.append(view)
                where = self.rng.choice(self.processes)
                readers.create_task(view.follow(where.log, self.writer))
        await self.writer.finish(b"end")
        self.acknowledged.append(b"end")


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_history(cluster: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        processes, proxies = [], []
        for _ in range(3):
            to_redis = await stack.enter_async_context(fault_proxy(target(cluster.redis_url)))
            to_postgres = await stack.enter_async_context(fault_proxy(socket_path(cluster.dsn)))
            proxies.append((to_redis, to_postgres))
            processes.append(
                await cluster.process(
                    dsn=through(cluster.dsn, to_postgres.address),
                    redis_url=through_redis(cluster.redis_url, to_redis.address),
                    lease_seconds=30.0,
                    flush_seconds=rng.choice([0.02, 0.25, 60.0]),
                )
            )
        client = redis.connect(cluster.redis_url)
        stack.push_async_callback(redis.close, client)
        direct = await cluster.process()
        history = History(rng, processes, proxies, client, direct)
        await history.start()
        async with asyncio.timeout(60), asyncio.TaskGroup() as readers:
            await history.run(readers)
        whole = await direct.read(history.writer)
        assert [entry.sequence for entry in whole] == list(range(1, len(whole) + 1))
        payloads = [entry.payload for entry in whole]
        assert payloads[-1] == b"end" and payloads.count(b"end") == 1
        assert payloads[:-1] == [
            b"epoch %d at %d" % (entry.epoch, entry.sequence) for entry in whole[:-1]
        ]
        assert payloads[: len(history.acknowledged) - 1] == history.acknowledged[:-1]
        for view in history.views:
            assert view.entries == whole
        for process in processes:
            await process.close()
