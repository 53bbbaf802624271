"""How soon nobody serves what was made untrue: several hundred invalidations under load, each from
the return of `Invalidate` until no process serves the old value, neither from its near cache nor
from the replica that it asks. Three processes read, through two replicas."""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
from tests.support import broken_stores

from benchmarks.cache_reader import NAMESPACE, OLD
from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row, percentile, spread
from benchmarks.stack import REPOSITORY
from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as rpc
from peregrine.api.common.v1 import common_pb2

_READERS = 3
_BATCHES = 20
_KEYS = 20
_PAUSE_SECONDS = 0.01
_SECONDS = 5.0


async def feed(lab: Lab) -> AsyncIterator[Row]:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(
            broken_stores.opened(lab.children, lab.directory / "feed", replicas=2)
        )
        addresses = [each.address for each in world.replicas]
        stubs = []
        for address in addresses:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            stubs.append(rpc.CacheServiceStub(channel))
        readers = [
            await stack.enter_async_context(_reader(addresses[number % len(addresses)]))
            for number in range(_READERS)
        ]
        lags: list[float] = []
        for batch in range(_BATCHES):
            lags += await _batch(batch, stubs, readers)
    yield Row(
        name=f"cache: feed lag until none of {_READERS} processes serves the old value, p99",
        value=percentile(lags, 99) * 1e3,
        unit="ms",
        bound=Bound(at_most=100.0),
        detail={"lag_s": spread(lags)},
    )


async def _batch(
    number: int,
    stubs: Sequence[Any],
    readers: Sequence[asyncio.subprocess.Process],
) -> list[float]:
    chance = random.Random(number)
    names = [f"key-{number}-{each}" for each in range(_KEYS)]
    for name in names:
        value = pb.SetRequest(key=_key(name), value=OLD, tags=[f"tag-{name}"])
        value.ttl.FromSeconds(600)
        await chance.choice(stubs).Set(value, timeout=_SECONDS)
    for each in readers:
        _stdin(each).write(" ".join(names).encode() + b"\n")
    for each in readers:
        await _line(each)
    returned = {}
    for name in names:
        request = pb.InvalidateRequest(tag=f"tag-{name}")
        if chance.random() < 0.5:
            request = pb.InvalidateRequest(key=_key(name))
        await chance.choice(stubs).Invalidate(request, timeout=_SECONDS)
        returned[name] = time.monotonic()
        await asyncio.sleep(_PAUSE_SECONDS * chance.uniform(0.5, 1.5))
    last = [json.loads(await _line(each)) for each in readers]
    if not all(served[name] for served in last for name in names):
        raise RuntimeError("a reader never had the value")
    return [
        max(max(served[name] for served in last) - moment, 0.0) for name, moment in returned.items()
    ]


def _key(name: str) -> pb.Key:
    return pb.Key(namespace=NAMESPACE, key=name.encode(), scope=common_pb2.SCOPE_TENANT)


def _stdin(reader: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    if reader.stdin is None:
        raise RuntimeError("the reader has no standard input")
    return reader.stdin


async def _line(reader: asyncio.subprocess.Process) -> bytes:
    if reader.stdout is None:
        raise RuntimeError("the reader has no standard output")
    async with asyncio.timeout(4 * _SECONDS):
        line = await reader.stdout.readline()
    if not line:
        raise RuntimeError("the reader ended")
    return line


@asynccontextmanager
async def _reader(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.cache_reader",
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
