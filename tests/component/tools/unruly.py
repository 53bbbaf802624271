"""An HTTP server on loopback that misbehaves on purpose, a path for each way.

It speaks raw sockets, because no HTTP library would send what it sends, and counts what it sees.
"""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK = b"x" * 65_536
_TEXT = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "


class Unruly:
    """`requests` are (method, target, headers in lower case, body), in the order of arrival."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.sent = 0
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failures_left = 0
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._tasks[task]
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((method, target, headers, body))
        path = target.partition("?")[0]
        if method == "HEAD":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return True
        match path.strip("/").split("/"):
            case ["echo", *_]:
                seen = {"method": method, "target": target, "body": body.decode(), **headers}
                return self._whole(writer, 200, json.dumps(seen).encode(), "application/json")
            case ["hello"]:
                return self._whole(
                    writer, 200, "Grüße".encode("latin-1"), "text/plain; charset=latin-1"
                )
            case ["packed"]:
                return self._whole(
                    writer, 200, gzip.compress(b"hello " * 40), extra="Content-Encoding: gzip"
                )
            case ["cookie"]:
                return self._whole(
                    writer, 200, b"ok", extra="Set-Cookie: session=of-another; Path=/"
                )
            case ["image"]:
                return self._whole(writer, 200, b"\x89PNG", "image/png")
            case ["nul"]:
                return self._whole(writer, 200, b"a\x00b")
            case ["status", code]:
                return self._whole(writer, int(code), b"no such thing, says the server")
            case ["flaky"] if self.failures_left > 0:
                self.failures_left -= 1
                return self._whole(writer, 503, b"later")
            case ["flaky"]:
                return self._whole(writer, 200, b"now")
            case ["cut"]:
                writer.write(_TEXT + b"100\r\n\r\nhalf")
                await writer.drain()
                return False
            case ["silent"]:
                await reader.read(1)  # until the other side gives up
                return False
            case ["drip"]:
                writer.write(_TEXT + b"1000\r\n\r\n")
                gone = asyncio.ensure_future(reader.read(1))  # until the other side gives up
                try:
                    while not gone.done():
                        writer.write(b"x")
                        await writer.drain()
                        await asyncio.wait([gone], timeout=0.05)
                finally:
                    gone.cancel()
                return False
            case ["flood"]:
                writer.write(_TEXT + b"1073741824\r\n\r\n")
                while not writer.is_closing() and self.sent < 2**30:
                    writer.write(CHUNK)
                    await writer.drain()
                    self.sent += len(CHUNK)
                return False
            case ["bomb"]:
                packer = zlib.compressobj(9, wbits=31)
                packed = (
                    b"".join(packer.compress(b"\0" * 2**20) for _ in range(64)) + packer.flush()
                )
                return self._whole(writer, 200, packed, extra="Content-Encoding: gzip")
            case ["nested"]:
                nested = b"[" * 100_000 + b"]" * 100_000
                return self._whole(writer, 200, nested, "application/json")
            case ["trailing"]:
                packed = gzip.compress(b"hello") + b"\0" * 2**20
                return self._whole(writer, 200, packed, extra="Content-Encoding: gzip")
            case ["hollow"]:
                # Packed blocks without content, for ever.
                packer = zlib.compressobj(wbits=31)
                empty = packer.flush(zlib.Z_FULL_FLUSH)
                packed = empty + b"\x00\x00\x00\xff\xff" * 2_000_000
                return self._whole(writer, 200, packed, extra="Content-Encoding: gzip")
            case ["half"]:
                packed = gzip.compress(bytes(range(256)) * 40)[:-20]
                return self._whole(writer, 200, packed, extra="Content-Encoding: gzip")
            case ["brotli"]:
                return self._whole(writer, 200, b"x", extra="Content-Encoding: br")
            case ["loop", count]:
                return self._onward(writer, f"/loop/{int(count) + 1}")
            case ["to"]:
                return self._onward(writer, target.partition("?")[2])
        return self._whole(writer, 404, b"nothing here")

    def _onward(self, writer: asyncio.StreamWriter, location: str) -> bool:
        return self._whole(writer, 302, b"", extra=f"Location: {location}")

    def _whole(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        kind: str = "text/plain",
        extra: str = "X-Unruly: yes",
    ) -> bool:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        whole = f"{head}{extra}\r\n\r\n".encode() + body
        writer.write(whole)
        return True

    async def stop(self) -> None:
        for writer in self._tasks.values():
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


@asynccontextmanager
async def unruly() -> AsyncIterator[Unruly]:
    server = Unruly()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await server.stop()
        await listening.wait_closed()
