"""Emptying a Redis database between tests."""

import redis.asyncio


async def flush(url: str) -> None:
    """Remove everything from the one database that `url` names."""
    client = redis.asyncio.from_url(url, socket_timeout=5.0)
    try:
        await client.flushdb()
    finally:
        await client.aclose()
