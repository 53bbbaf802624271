"""A name server that loses the first questions, and gives 127.0.0.1 for every other."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_HEAD = 12
_ADDRESS = 1


class Names(asyncio.DatagramProtocol):
    """Whoever asks first from an address is not answered, however often it asks again from there,
    until it has asked from `lost` of them."""

    def __init__(self, lost: int) -> None:
        self._lost = lost
        self._ignored: set[tuple[str, int]] = set()
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # 3.11's transport of datagrams is no `DatagramTransport`.
        self._transport: Any = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, asker: tuple[str, int]) -> None:
        if asker in self._ignored:
            return
        if len(self._ignored) < self._lost:
            self._ignored.add(asker)
            return
        end = data.index(0, _HEAD) + 5
        kind = int.from_bytes(data[end - 4 : end - 2], "big")
        answers = b"\xc0\x0c" + struct.pack(">HHIHBBBB", 1, 1, 1, 4, 127, 0, 0, 1)
        given = answers if kind == _ADDRESS else b""
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if given else 0, 0, 0)
        self._transport.sendto(head + data[_HEAD:end] + given, asker)


@asynccontextmanager
async def name_server(*, lost: int) -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(
        lambda: Names(lost), local_addr=("127.0.0.1", 0)
    )
    try:
        yield names
    finally:
        transport.close()
