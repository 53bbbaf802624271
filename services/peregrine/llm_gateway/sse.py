"""Server-sent events from bytes, as the Messages API writes them.

The decoder is fed what one read of the network gave and returns the events that are complete, so
events that arrived together stay together. Only `data` matters: the JSON in it names its own type.
"""

from typing import Any

import orjson

# A single event larger than this is not the Messages API.
MAX_EVENT_BYTES = 16 * 1024 * 1024


class NotEvents(Exception):
    """The body is not a stream of JSON events."""


class Decoder:
    """Turns chunks of a body, cut anywhere, into JSON objects in order."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """The events that `chunk` completed.

        Raises:
          NotEvents: an event is not a JSON object or never ends.
        """
        body = self._rest + chunk if self._rest else chunk
        if b"\r" in body:
            # A lone "\r" at the end waits for its "\n" in the next chunk.
            body = body.replace(b"\r\n", b"\n")
        *complete, self._rest = body.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise NotEvents(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        events = []
        for block in complete:
            data = _data(block)
            if not data:
                continue
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                raise NotEvents("an event is not JSON") from None
            if type(event) is not dict:
                raise NotEvents("an event is not a JSON object")
            events.append(event)
        return events


def _data(block: bytes) -> bytes:
    start = block.find(b"data:")
    if start > 0 and block[start - 1] != 10:
        start = -1
    if start >= 0 and block.find(b"\n", start) < 0:
        return block[start + 5 :]
    lines = (line[5:].removeprefix(b" ") for line in block.split(b"\n") if line[:5] == b"data:")
    return b"\n".join(lines)
