"""The live side: Redis. Per log a head (epoch, next position) and the newest entries.

Appends go over one connection that nobody else uses, in pipelines. The append script is loaded
under a name of this process's own (a comment in it differs), so a Redis that restarted does not
know it and answers NOSCRIPT: whatever state it came up with, empty or old, nothing is appended to
it before the epochs were verified anew. Everything here is best effort with a bound of a second:
the caller goes on with PostgreSQL.
"""

import asyncio
import importlib.resources
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from peregrine.kit.eventlog.entry import Address, Entry, decode_all
from peregrine.kit.redis import Redis, RedisError

T = TypeVar("T")

TIMEOUT = 1.0
LIVE_SECONDS = 3600
ENDED_SECONDS = 60
KEEP = 2000
RELEASED = b"peregrine:log:released"

FENCED, NOT_CONTINUOUS, STALE_OPEN = -1, -2, -3

# What "Redis is away" looks like; a wrong reply to a script is one too: nothing can be said then.
AWAY: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError, ValueError)


def _script(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def keys(address: Address) -> tuple[bytes, bytes, bytes]:
    """Head, tail and channel of a log; the braces keep them in one slot of a Redis cluster."""
    name = f"peregrine:log:{{{address.tenant}/{address.log_id}}}"
    return f"{name}:head".encode(), f"{name}:tail".encode(), name.encode()


@dataclass(frozen=True, slots=True)
class Taken:
    """What a new owner found: `intact` when it surely holds all that any reader may have seen."""

    entries: Sequence[Entry]
    intact: bool


def new_connection(redis: Redis) -> Any:
    """A connection outside the pool, for one task (the pool's are for whoever comes).

    Without a socket timeout, as the callers here bound each exchange themselves.
    """
    pool: Any = redis.connection_pool
    return pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": None})


async def bounded(call: Awaitable[T]) -> T:
    """Awaits a call on the shared pool, at most `TIMEOUT` seconds."""
    async with asyncio.timeout(TIMEOUT):
        return await call


class Append(NamedTuple):
    """One call of the append script; `packed_keys` as `pack_keys` made them."""

    packed_keys: bytes
    epoch: int
    first: int
    serial: int
    durable: int
    frames: Sequence[bytes]


def pack_keys(address: Address) -> bytes:
    head, tail, _ = keys(address)
    return _packed(head) + _packed(tail)


def _packed(argument: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


class Link:
    """One connection to one run of a Redis server, with the append script loaded."""

    def __init__(self, connection: Any, sha: bytes, instance: str) -> None:
        self._connection = connection
        self._sha = sha
        self.instance = instance

    @classmethod
    async def open(cls, redis: Redis, name: str) -> "Link":
        """Connects, loads the script, and learns which run of the server it is (its run_id)."""
        connection = new_connection(redis)
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()
                await connection.send_command("INFO", "server", check_health=False)
                instance = _instance(await connection.read_response())
                script = (
                    f"-- {name}\nlocal INSTANCE = '{instance}'\n"
                    f"local LIVE_SECONDS, ENDED_SECONDS, KEEP = "
                    f"{LIVE_SECONDS}, {ENDED_SECONDS}, {KEEP}\n{_script('append.lua')}"
                )
                await connection.send_command("SCRIPT", "LOAD", script, check_health=False)
                sha = await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return cls(connection, sha, instance)

    async def append(self, appends: Sequence[Append], sent: Callable[[], None]) -> list[Any]:
        """One round trip. A result is the number of the script, or the error of that append.

        Args:
          sent: called when all of it was written to the connection.
        """
        connection = self._connection
        packed = b"".join([self._pack(append) for append in appends])
        replies: list[Any] = []
        async with asyncio.timeout(TIMEOUT):
            await connection.send_packed_command(packed, check_health=False)
            sent()
            for _ in appends:
                try:
                    # The bound is the one above, for all of them together.
                    replies.append(await connection.read_response(timeout=float("inf")))
                except RedisError as error:
                    if not connection.is_connected:
                        raise
                    replies.append(error)
        return replies

    def _pack(self, append: Append) -> bytes:
        # By hand, because redis-py's general packing costs more than all the rest of an append.
        frames = append.frames
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n2\r\n%b%b%b%b%b%b" % (
            len(frames) + 9,
            self._sha,
            append.packed_keys,
            _packed(b"%d" % append.epoch),
            _packed(b"%d" % append.first),
            _packed(b"%d" % append.serial),
            _packed(b"%d" % append.durable),
            b"".join([_packed(frame) for frame in frames]),
        )

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)


class Tail:
    """Reads, takes and hints, over the shared pool."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._take = redis.register_script(_script("take.lua"))
        self._read = redis.register_script(_script("read.lua"))

    async def open_link(self, owner: str) -> Link:
        return await Link.open(self.redis, f"{owner} {secrets.token_hex(8)}")

    async def take(self, address: Address, epoch: int, durable: int) -> Taken | None:
        """Fences the tail under the new epoch. None when a higher epoch did already.

        Raises: one of `AWAY`.
        """
        head, tail, _ = keys(address)
        status, *rest = await bounded(
            self._take(keys=[head, tail], args=[epoch, durable, LIVE_SECONDS])
        )
        if status == FENCED:
            return None
        instance = _instance(await bounded(self.redis.info("server")))
        written_under, *frames = rest
        return Taken(
            decode_all(frames), written_under != b"" and written_under.decode() == instance
        )

    async def read(self, address: Address, after: int, limit: int) -> list[Entry]:
        """The entries that follow `after` without a gap, [] when the tail does not have them.

        Raises: one of `AWAY`.
        """
        head, tail, _ = keys(address)
        return decode_all(await bounded(self._read(keys=[head, tail], args=[after, limit])))

    async def announce_release(self) -> None:
        await bounded(self.redis.publish(RELEASED, b""))


def _instance(info: Any) -> str:
    if isinstance(info, dict):
        return str(info.get("run_id", ""))
    for line in bytes(info).splitlines():
        name, _, value = line.partition(b":")
        if name == b"run_id":
            return value.decode()
    return ""
