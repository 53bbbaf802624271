"""A bare HTTP/2 client, for what the SDK's transport does not do: RST_STREAM.

(httpcore2 2.16 forgets a stream whose response is closed, without telling the server.)
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.errors
import h2.events
import orjson


class Http2(asyncio.Protocol):
    """One connection; `data`, `ended` and `resets` are kept by stream."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.data: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(2**24)
        self._flush()

    def connection_lost(self, problem: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = int(event.error_code)
        self._flush()

    def post(self, body: Mapping[str, Any], *, end: bool = True) -> int:
        """Ask `/v1/messages`; returns the stream's id. Without `end` the body stays open."""
        stream_id = self._h2.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": "simulator",
            ":path": "/v1/messages",
            "x-api-key": "any",
            "anthropic-version": "2023-06-01",
        }
        self._h2.send_headers(stream_id, list(headers.items()))
        self._h2.send_data(stream_id, orjson.dumps(body), end_stream=end)
        self._flush()
        return stream_id

    def reset(self, stream_id: int) -> None:
        self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def close(self) -> None:
        self._transport.close()

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())


@asynccontextmanager
async def connected(base_url: str) -> AsyncIterator[Http2]:
    place = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Http2, place.hostname, place.port)
    try:
        yield connection
    finally:
        connection.close()
