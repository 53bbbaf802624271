"""A process that asks the cache for one key, many times at once, and writes down when it computes.

    python -m tests.component.client.cache_caller TARGET CALLERS RECORD SECONDS

A line of RECORD is "started PID" or "done PID". Prints the distinct values it got.
"""

import asyncio
import os
import sys
from pathlib import Path

from peregrine.client import CacheClient, Identity
from tests.support.delays import take


async def main(target: str, callers: int, record: Path, seconds: float) -> None:
    def note(word: str) -> None:
        with record.open("a") as file:
            file.write(f"{word} {os.getpid()}\n")

    async def compute() -> bytes:
        note("started")
        await take(seconds)
        note("done")
        return b"value"

    identity = Identity("acme", "ada")
    async with CacheClient(target, identity=identity, entry_timeout=5.0) as cache:
        await cache.warm(30)
        sys.stdin.readline()  # all processes begin together
        key = cache.key("ns", b"k")
        found = await asyncio.gather(
            *(cache.get_or_compute(key, compute, ttl=600) for _ in range(callers))
        )
    sys.stdout.write(f"{sorted({each.value for each in found})} {len(found)}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])))
