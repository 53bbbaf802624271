"""A listening socket and the connections it has accepted, each in a task that is owned here."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app

from peregrine.simulator.connection import Connection

log = structlog.get_logger(__name__)

App = Callable[
    [dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any
]

MAX_STREAMS: Final = 1_000
CLOSE_SECONDS: Final = 5.0
_UNLIMITED: Final = 2**31
_LARGEST_BODY: Final = 64 * 1024 * 1024
_ERRORS: Final = "peregrine.simulator"


class CannotListen(Exception):
    """The address is taken, not ours or malformed; says so in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    certificate: Path
    key: Path


@asynccontextmanager
async def listen(
    app: App, address: str, *, variable: str, tls: Tls | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` on `address` (`host:port`, port 0 is any free one) until the block ends.

    Yields host and port as bound. Raises `CannotListen`, which names `variable`. At the end open
    connections are closed without waiting for what they are doing.
    """
    host, port = _parsed(address, variable)
    config = _config(tls)
    context = WorkerContext(None)
    wrapped = wrap_app(app, _LARGEST_BODY, "asgi")  # type: ignore[arg-type]  # scopes are dicts here
    connections: dict[asyncio.Task[None], Connection] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(wrapped, config, context, reader, writer)
        task = asyncio.create_task(_run(connection))
        connections[task] = connection
        task.add_done_callback(connections.pop)

    try:
        secure = config.create_ssl_context()
        server = await asyncio.start_server(accept, host, port, ssl=secure, backlog=1024)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"cannot listen on {address} ({variable}): {reason}") from None
    try:
        bound = server.sockets[0].getsockname()
        yield bound[0], bound[1]
    finally:
        server.close()
        for connection in connections.values():
            connection.abort()
        tasks = list(connections)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with suppress(TimeoutError):  # a handshake in progress is not waited for
            await asyncio.wait_for(server.wait_closed(), CLOSE_SECONDS)


async def _run(connection: Connection) -> None:
    try:
        await connection.run()
    except Exception:
        log.exception("simulator_connection_failed")


def _config(tls: Tls | None) -> Config:
    config = Config()
    config.h2_max_concurrent_streams = MAX_STREAMS
    config.keep_alive_max_requests = _UNLIMITED
    config.h11_max_incomplete_size = 256 * 1024
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger(_ERRORS)
    if tls is not None:
        config.certfile = str(tls.certificate)
        config.keyfile = str(tls.key)
    return config


def _parsed(address: str, variable: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise CannotListen(f"{variable}: expected host:port, got {address!r}")
    return host.strip("[]"), int(port)
