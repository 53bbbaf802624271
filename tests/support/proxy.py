"""A TCP proxy that stands between a client and a server to cut, stall and delay their connections.

async with fault_proxy("127.0.0.1:6379") as proxy:   # or a Unix socket path
    connect(f"redis://{proxy.address}")
    proxy.stall()      # bytes stop, connections stay
    proxy.resume()
    proxy.cut()        # connections are reset, new ones refused (closed at once)
    proxy.resume()
    proxy.delay = 0.2  # seconds added to each chunk, both ways
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

_CHUNK = 65_536


class FaultProxy:
    """See the module. `connections` is the number of client connections open now."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._sessions: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.delay = 0.0

    @property
    def connections(self) -> int:
        return len(self._sessions)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stall(self) -> None:
        """Let no byte pass until `resume`; connections stay open, new ones are accepted."""
        self._flowing.clear()

    def cut(self) -> None:
        """Reset every connection, and every new one, until `resume`."""
        self._refusing = True
        for session in self._sessions:
            session.cancel()

    def reset(self) -> None:
        """Reset every connection that is open now; new ones pass."""
        self.cut()
        self._refusing = False

    def resume(self) -> None:
        """End `stall` and `cut`."""
        self._refusing = False
        self._flowing.set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        # Also for a connection that was accepted already and is about to come to `_accept`.
        self.cut()
        while self._sessions:
            await asyncio.wait(self._sessions)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        session = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(lambda session: self._ended(session, writer))

    def _ended(self, session: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self._sessions.discard(session)
        if session.cancelled():
            # It may not even have begun.
            _reset(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        orderly = False
        try:
            upstream_reader, upstream = await self._connect()
            ends.append(upstream)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pump(reader, upstream))
                both_ways.create_task(self._pump(upstream_reader, writer))
            orderly = True
        except* OSError:
            pass  # either side broke: the other one learns of it below
        finally:
            for end in ends:
                if orderly:
                    end.close()
                else:
                    _reset(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flowing.wait()
            writer.write(chunk)
            await writer.drain()
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("/"):
            return await asyncio.open_unix_connection(self._target)
        host, _, port = self._target.rpartition(":")
        return await asyncio.open_connection(host, int(port))


@contextlib.asynccontextmanager
async def fault_proxy(target: str) -> AsyncIterator[FaultProxy]:
    """A proxy to `target`: "host:port", or the path of a Unix socket."""
    proxy = FaultProxy(target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        # No lingering: the peer sees a reset, not an orderly end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
