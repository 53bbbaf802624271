"""Getting or computing: once for all who ask, here and in other processes, also when one dies."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.client import CacheClient, CacheKey, Identity
from peregrine.kit import context
from peregrine.kit.errors import NotFound
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy

ADA, BOB = Identity("acme", "ada"), Identity("acme", "bob")


@pytest.fixture
async def cache(stack: AsyncExitStack, proxy: FaultProxy) -> CacheClient:
    return await client(stack, proxy)


async def client(
    stack: AsyncExitStack, proxy: FaultProxy, *, identity: Identity | None = ADA, near: int = 0
) -> CacheClient:
    return await stack.enter_async_context(
        CacheClient(proxy.address, identity=identity, near_bytes=near, entry_timeout=2.0)
    )


class Source:
    """What is computed, and how often it was."""

    def __init__(self) -> None:
        self.value = b"value"
        self.calls = 0
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self) -> bytes:
        self.calls += 1
        value = self.value
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return value


async def test_of_many_who_miss_at_once_one_computes_for_all(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    clients = [await client(stack, proxy) for _ in range(3)]
    source = Source()
    found = await asyncio.gather(
        *(
            each.get_or_compute(each.key("ns", b"k"), source, ttl=60)
            for each in clients
            for _ in range(40)
        )
    )
    assert {each.value for each in found} == {b"value"} and source.calls == 1
    assert sum(each.tier == pb.TIER_NONE for each in found) == 40  # those of one client


async def test_users_and_tenants_compute_for_themselves(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    one = await client(stack, proxy, identity=None)

    async def own(who: Identity) -> bytes:
        async def compute() -> bytes:
            assert context.identity() == who
            return str(who).encode()

        with context.with_identity(who):
            return (await one.get_or_compute(one.key("ns", b"k"), compute, ttl=60)).value

    everyone = [ADA, BOB, Identity("umbrella", "ada")]
    for _ in range(2):
        found = await asyncio.gather(*(own(who) for who in everyone))
        assert found == [str(who).encode() for who in everyone]


async def test_what_computing_raises_is_raised_to_all_and_not_kept(cache: CacheClient) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.error = NotFound("no such thing", reason="THING_NOT_FOUND")
    found = await asyncio.gather(
        *(cache.get_or_compute(key, source, ttl=60) for _ in range(5)), return_exceptions=True
    )
    assert all(each is source.error for each in found) and source.calls == 1
    source.error = None
    assert (await cache.get_or_compute(key, source, ttl=60)).value == b"value"
    assert source.calls == 2


async def test_who_leaves_does_not_take_the_value_from_the_others(cache: CacheClient) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.open.clear()
    tasks = [asyncio.create_task(cache.get_or_compute(key, source, ttl=60)) for _ in range(3)]
    await eventually(lambda: source.calls == 1)
    tasks[0].cancel()
    source.open.set()
    assert [(await task).value for task in tasks[1:]] == [b"value"] * 2
    assert tasks[0].cancelled() and source.calls == 1


async def test_when_all_have_left_it_is_cancelled_and_the_next_one_need_not_wait(
    stack: AsyncExitStack, proxy: FaultProxy, cache: CacheClient
) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.open.clear()
    task = asyncio.create_task(cache.get_or_compute(key, source, ttl=60))
    await eventually(lambda: source.calls == 1)
    task.cancel()
    await asyncio.wait([task])
    source.open.set()
    other = await client(stack, proxy)
    async with asyncio.timeout(4.5):  # a lease that nobody gave back would take five
        await other.get_or_compute(other.key("ns", b"k"), source, ttl=60)
    assert source.calls == 2


async def test_the_deadline_of_who_came_first_is_not_that_of_all(cache: CacheClient) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.open.clear()

    async def hurried() -> bytes:
        with context.bind(timeout=1.5):
            async with asyncio.timeout(1.5):
                return (await cache.get_or_compute(key, source, ttl=60)).value

    first = asyncio.create_task(hurried())
    await eventually(lambda: source.calls == 1)
    patient = asyncio.create_task(cache.get_or_compute(key, source, ttl=60))
    with pytest.raises(TimeoutError):
        await first
    source.open.set()
    assert (await patient).value == b"value" and source.calls == 1


async def test_what_was_made_untrue_while_it_was_computed_is_computed_again(
    cache: CacheClient,
) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.open.clear()
    task = asyncio.create_task(cache.get_or_compute(key, source, ttl=60, tags=["t"]))
    await eventually(lambda: source.calls == 1)
    source.value = b"new"
    await cache.invalidate(tag="t")
    source.open.set()
    assert (await task).value == b"value"  # it was asked for before
    assert (await cache.get_or_compute(key, source, ttl=60)).value == b"new"


async def policy(cache: CacheClient, **seconds: int) -> None:
    given = pb.Policy(namespace="ns")
    for name, value in seconds.items():
        getattr(given, name).FromSeconds(value)
    await cache.apply_policy(given)


async def ago(cache: CacheClient, key: CacheKey, value: bytes, seconds: float) -> None:
    """Stores a value that was true some seconds ago."""
    born = asyncio.get_running_loop().time() - seconds
    assert await cache.set(key, value, ttl=100, born=born) == ""


async def test_a_stale_value_is_given_while_it_is_renewed_behind(cache: CacheClient) -> None:
    source, key = Source(), cache.key("ns", b"k")
    await ago(cache, key, b"old", 50)
    await policy(cache, ttl=10, stale_while_revalidate=600)
    source.open.clear()
    for _ in range(3):
        found = await cache.get_or_compute(key, source)
        assert (found.value, found.stale) == (b"old", True) and found.age >= 50
    await eventually(lambda: source.calls == 1)
    source.open.set()

    async def renewed() -> bool:
        found = await cache.get_or_compute(key, source)
        return (found.value, found.stale) == (b"value", False)

    await eventually(renewed)
    assert source.calls == 1


async def test_a_stale_value_is_better_than_an_error_where_the_policy_says_so(
    cache: CacheClient,
) -> None:
    source, key = Source(), cache.key("ns", b"k")
    source.error = NotFound("away", reason="SOURCE_AWAY")
    await ago(cache, key, b"old", 50)
    await policy(cache, ttl=10, stale_if_error=600)
    found = await cache.get_or_compute(key, source)
    assert (found.value, found.stale) == (b"old", True) and source.calls == 1
    await policy(cache, ttl=10)
    with pytest.raises(NotFound):
        await cache.get_or_compute(key, source)


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_without_the_service_each_computes_and_goes_on(
    cache: CacheClient, proxy: FaultProxy, how: str
) -> None:
    source, key = Source(), cache.key("ns", b"k")
    getattr(proxy, how)()
    async with asyncio.timeout(60):
        for _ in range(6):
            assert (await cache.get_or_compute(key, source, ttl=60)).value == b"value"
    assert source.calls == 6


async def test_hits_near_and_far_misses_and_the_rate_are_counted(
    stack: AsyncExitStack, proxy: FaultProxy
) -> None:
    near = await client(stack, proxy, near=2**20)
    key, source = near.key("ns", b"k"), Source()
    await near.get_or_compute(key, source, ttl=600)

    async def live() -> bool:
        await near.get_or_compute(key, source, ttl=600)
        return near.near(key) is not None

    await eventually(live)
    for _ in range(100):
        await near.get(key)
    (stats,) = await near.get_stats("ns")
    assert stats.near_hits >= 101 and stats.misses == 1 and source.calls == 1
    assert stats.total == stats.near_hits + stats.redis_hits + stats.postgres_hits + 1
    assert stats.hit_rate == pytest.approx(1 - 1 / stats.total) and stats.bytes > 0
    assert await near.get_stats("other") == []


class Callers:
    """Processes that ask for the same key."""

    def __init__(self, record: Path) -> None:
        self.record = record
        self.processes: list[Process] = []

    async def start(self, target: str, *, count: int, callers: int, seconds: float) -> None:
        arguments = ["-m", "tests.component.client.cache_caller", target, str(callers)]
        for _ in range(count):
            self.processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, *arguments, str(self.record), str(seconds)),
                    stdin=PIPE,
                    stdout=PIPE,
                )
            )

    def go(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")

    def lines(self, word: str) -> list[int]:
        text = self.record.read_text() if self.record.exists() else ""
        return [int(line.split()[1]) for line in text.splitlines() if line.startswith(word)]

    async def results(self) -> list[bytes]:
        found = []
        for process in self.processes:
            out, _ = await process.communicate()
            if process.returncode == 0:
                found.append(out.strip())
        return found


@pytest.fixture
async def callers(tmp_path: Path) -> AsyncIterator[Callable[[], Callers]]:
    made = Callers(tmp_path / "record")
    yield lambda: made
    for process in made.processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_500_misses_over_4_processes_compute_once(
    proxy: FaultProxy, callers: Callable[[], Callers]
) -> None:
    some = callers()
    await some.start(proxy.address, count=4, callers=125, seconds=0.5)
    some.go()
    assert await some.results() == [b"[b'value'] 125"] * 4
    assert len(some.lines("started")) == len(some.lines("done")) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_when_the_holder_dies_or_freezes_one_other_computes(
    proxy: FaultProxy, callers: Callable[[], Callers], how: signal.Signals
) -> None:
    some = callers()
    await some.start(proxy.address, count=3, callers=20, seconds=3.0)
    some.go()
    (holder,) = await eventually(lambda: some.lines("started"), timeout=30)
    os.kill(holder, how)
    rest = [each for each in some.processes if each.pid != holder]
    outputs = [(await each.communicate())[0].strip() for each in rest]
    assert outputs == [b"[b'value'] 20"] * 2
    assert len(some.lines("started")) == 2 and holder not in some.lines("done")
