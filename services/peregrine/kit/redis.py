"""The one home of redis-py in the kit.

Redis only ever makes things faster here, so a Redis that is away must cost milliseconds: redis-py's
own retries are off, socket timeouts are short, and the pool waits for a free connection instead of
raising past its limit. Replies stay bytes, over RESP2 without the handshake extras, so that Redis
6.2 and Valkey look the same.

A caught `AWAY` means: Redis cannot be asked now, go on without it.
"""

import asyncio
from typing import Any

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.client import Pipeline, PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from peregrine.kit.settings import Secret

__all__ = [
    "AWAY",
    "NoScriptError",
    "Pipeline",
    "PubSub",
    "Redis",
    "RedisError",
    "ResponseError",
    "close",
    "connect",
]

AWAY: tuple[type[Exception], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    TryAgainError,
    OSError,
)


class _Sending:
    """What Python's versions make of a write that meets something else.

    3.12 and 3.13 answer one to a transport that has just been closed with an AttributeError from
    inside; it is a lost connection like any other. 3.11 can swallow a cancellation that comes as it
    ends (redis-py writes within `asyncio.wait_for`), and a task that follows something for ever
    would never end: it is cancelled after all.
    """

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        parent: Any = super()
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            await parent.send_packed_command(*args, **kwargs)
        except AttributeError as error:
            await parent.disconnect(nowait=True)
            raise RedisConnectionError("the connection is lost") from error
        if task is not None and task.cancelling() > cancelled:
            await parent.disconnect(nowait=True)
            raise asyncio.CancelledError


class _Tcp(_Sending, Connection):
    pass


class _Tls(_Sending, SSLConnection):
    pass


class _Unix(_Sending, UnixDomainSocketConnection):
    pass


_CONNECTIONS: dict[type, type] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def connect(url: str | Secret, *, max_connections: int = 8, timeout: float = 1.0) -> Redis:
    """A client over its own pool; connects at the first command.

    Args:
      url: redis://, rediss:// or unix://.
      max_connections: bound of the pool; a caller beyond it waits for `timeout`, then gets
        a `ConnectionError`.
      timeout: seconds for connecting, for each reply, and for a free connection.
    """
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url.reveal() if isinstance(url, Secret) else url,
        max_connections=max_connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        protocol=2,
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    pool.connection_class = _CONNECTIONS[pool.connection_class]
    return Redis.from_pool(pool)


async def close(client: Redis) -> None:
    """Closes the client and its pool."""
    await client.aclose()
