"""Loaders as a user would register them: a function, one that fails, and a query."""

from peregrine.cache.loaders import Loaded, Wanted, loader, query

loaded: list[bytes] = []


@loader("made")
async def made(wanted: Wanted) -> Loaded | None:
    key = wanted.address.key
    loaded.append(key)
    if key == b"broken":
        raise RuntimeError("this one never works")
    if key == b"nothing":
        return None
    return Loaded(b"value of " + key + wanted.source, ttl=600, tags=("made",))


asked = query("asked", "SELECT $1::text || '!' AS answer")
