"""A real owner process, killed or frozen at moments of its own choosing."""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from peregrine.kit.eventlog import Entry
from tests.component.eventlog.conftest import TENANT, Cluster

ROOT = Path(__file__).parents[3]


class Victim:
    def __init__(self, process: asyncio.subprocess.Process, log_id: UUID) -> None:
        self.process = process
        self.log_id = log_id

    @classmethod
    async def start(
        cls, cluster: Cluster, reached: str = "visible", *, lease: float = 0.6
    ) -> "Victim":
        log_id = uuid4()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.component.eventlog.owner_process"),
            *(cluster.dsn, cluster.redis_url, str(log_id), reached, str(lease)),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'services'}:{ROOT}"},
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, log_id)

    async def says(self) -> list[str]:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().split()

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


def check(entries: list[Entry], seen: int) -> None:
    """Gapless, in order of epochs, with all that was seen, ending as the new owner ended it."""
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert len(entries) > seen
    assert [entry.payload for entry in entries[:-1]] == [
        b"victim %d" % entry.sequence for entry in entries[:-1]
    ]
    assert [entry.epoch for entry in entries] == [1] * (len(entries) - 1) + [2]
    assert entries[-1].payload == b"end"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("reached", "lease", "seed"),
    [*(("visible", 0.6, seed) for seed in range(4)), *(("sent", 1.6, seed) for seed in range(3))],
)
async def test_a_killed_owner_loses_nothing_that_was_seen(
    cluster: Cluster, reached: str, lease: float, seed: int
) -> None:
    victim = await Victim.start(cluster, reached, lease=lease)
    other = await cluster.process()
    try:
        for _ in range(random.Random(seed).randrange(1, 200)):
            word, number = await victim.says()
            assert word == reached
        victim.process.kill()
        recovered = await other.take_over(victim.log_id)
        assert not recovered.truncated
        await recovered.writer.finish(b"end")
        check(await other.read(recovered.writer), int(number))
    finally:
        await victim.end()


@pytest.mark.fault
async def test_a_frozen_owner_writes_nothing_when_it_wakes(cluster: Cluster) -> None:
    victim = await Victim.start(cluster)
    other = await cluster.process()
    try:
        for _ in range(50):
            assert (await victim.says())[0] == "visible"
        victim.process.send_signal(signal.SIGSTOP)
        recovered = await other.take_over(victim.log_id)
        assert not recovered.truncated
        taken = len(recovered.entries)
        victim.process.send_signal(signal.SIGCONT)
        while (said := await victim.says())[0] == "visible":
            # What it says now was accepted before it froze; nothing else can be.
            assert int(said[1]) <= taken
        assert said == ["refused", "LOG_FENCED"]
        await recovered.writer.finish(b"end")
        whole = await other.read(recovered.writer)
        check(whole, taken)
        assert len(whole) == taken + 1
        async with other.db.transaction(TENANT) as conn:
            stored = await conn.fetchval("t", "SELECT max(sequence) FROM eventlog.entries")
        assert stored in (taken + 1, None)
    finally:
        await victim.end()
