"""A process that reads through a near cache as fast as a busy worker does, and notes for how long
it was given an old value. `python -m benchmarks.cache_reader ADDRESS`.

Each line on its standard input names keys: these are read, again and again, until each was
gone for good. It says `ready` when it has read all of them once, and at the end, as one line of
JSON, when it was given each one's old value last (`time.monotonic()` is one clock for all processes
of a machine). Then it waits for the next line.
"""

import asyncio
import json
import random
import sys
import time

from peregrine.client import CacheClient, Identity

NAMESPACE = "bench"
OLD = b"old"
_PAUSE_SECONDS = 0.001
# A value that a later look could bring back would not be gone.
_LOOKS_AFTER = 5
_BESIDE = 200


async def _read(client: CacheClient, names: list[str]) -> dict[str, float]:
    keys = {name: client.key(NAMESPACE, name.encode(), shared=True) for name in names}
    served = dict.fromkeys(names, 0.0)
    left = dict.fromkeys(names, _LOOKS_AFTER)
    for key in keys.values():
        await client.get(key)
    print("ready", flush=True)
    while left:
        for name in list(left):
            cached = client.near(keys[name])
            if cached is None:
                cached = (await client.far(keys[name])).cached
            if cached is not None and cached.value == OLD:
                served[name] = time.monotonic()
                left[name] = _LOOKS_AFTER
            elif left[name] > 1:
                left[name] -= 1
            else:
                del left[name]
        await asyncio.sleep(_PAUSE_SECONDS)
    return served


async def _load(client: CacheClient) -> None:
    """What the process reads besides: hits near and far, and misses."""
    chance = random.Random(1)
    while True:
        name = f"beside {chance.randrange(_BESIDE)}".encode()
        key = client.key(NAMESPACE, name, shared=True)
        if await client.get(key) is None:
            await client.set(key, b"x" * 500, ttl=60)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _main(address: str) -> None:
    async with CacheClient(
        address, identity=Identity("local", "local"), entry_timeout=5.0
    ) as client:
        loading = asyncio.create_task(_load(client))
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            served = await _read(client, line.split())
            print(json.dumps(served), flush=True)
        loading.cancel()
        await asyncio.wait([loading])


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
