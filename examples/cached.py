"""`@cached` at work: a slow bank that is asked no more often than it has to be.

With `make run` in another terminal:

    .venv/bin/python examples/cached.py

or with the host:port of another cache behind it. Each line says how often the bank was asked since
the line before.
"""
# ruff: noqa: T201 - a program that is there to be read and run prints

import asyncio
import sys

from peregrine.client import CacheClient, Identity, cached
from peregrine.kit import context

# It may take its time here: what it does not answer soon enough is a miss, and the bank is asked.
cache = CacheClient(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50054", entry_timeout=2.0)
bank: list[str] = []  # what it was asked


# What a currency costs is the same for everybody, so all users of a tenant share it.
@cached(cache, namespace="example", ttl=60, tags=["rate:{code}"], shared=True)
async def rate(code: str) -> float | None:
    """What one euro costs; None when there is no such currency."""
    bank.append(code)
    await asyncio.sleep(0.1)
    return {"CHF": 0.94, "USD": 1.08}.get(code)


# An account is its user's: not shared, and so never mixed.
@cached(cache, namespace="example", ttl=60)
async def account() -> str:
    who = context.identity()
    bank.append(f"account of {who.user}")
    return f"{who.tenant}/{who.user}"


# Not async: threads call it, and the event loop waits for `holidays.in_thread(...)`.
@cached(cache, namespace="example", ttl=60, shared=True)
def holidays(country: str) -> list[str]:
    bank.append(country)
    return ["1 January", "1 August"] if country == "CH" else ["1 January"]


async def main() -> None:
    ada, bob = Identity("acme", "ada"), Identity("acme", "bob")
    elsewhere = Identity("umbrella", "ada")

    for who in (ada, elsewhere):
        # For whom the work is. A service has it from the call that it serves.
        with context.with_identity(who):
            await cache.invalidate(namespace="example")  # what the last run left

    with context.with_identity(ada):
        show("one call", await rate("CHF"))
        show("the same", await rate(code="CHF"))
        show("fifty at once", len(await asyncio.gather(*(rate("USD") for _ in range(50)))))
        show("None is a result", await rate("XYZ"))
        show("and is kept, too", await rate("XYZ"))

        await cache.invalidate(tag="rate:CHF")
        show("after its tag was struck", await rate("CHF"))
        show("the others stand", await rate("USD"))
        await rate.forget("USD")
        show("until forgotten", await rate("USD"))

        show("from a thread", await asyncio.to_thread(holidays, "CH"))
        show("from the loop", await holidays.in_thread("CH"))
        show("her own", await account())
    with context.with_identity(bob):
        show("his own", await account())
        show("what both share", await rate("CHF"))
    with context.with_identity(elsewhere):
        show("another tenant's own", await account())
        show("and its own of all", await rate("CHF"))
    with context.with_identity(ada):
        show("still hers", await account())


def show(what: str, found: object) -> None:
    print(f"{what:26}{found!s:28}{', '.join(bank) or 'nobody asked'}")
    bank.clear()


async def run() -> None:
    async with cache:
        await main()


if __name__ == "__main__":
    asyncio.run(run())
