"""The Redis of a test: emptied between tests, and entered through a fault proxy."""

from urllib.parse import parse_qs, unquote, urlsplit

import redis.asyncio


async def flush(url: str) -> None:
    """Remove everything from the one database that `url` names."""
    client = redis.asyncio.from_url(url, socket_timeout=5.0)
    try:
        await client.flushdb()
    finally:
        await client.aclose()


def target(url: str) -> str:
    """What a fault proxy takes as its target: the Unix socket, or "host:port"."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    return f"{parts.hostname}:{parts.port or 6379}"


def through(url: str, address: str) -> str:
    """The same database, entered through `address` ("host:port" of a fault proxy)."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
    else:
        database = parts.path.strip("/") or "0"
    return f"redis://{address}/{database}"
