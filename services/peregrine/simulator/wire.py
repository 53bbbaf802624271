"""The wire format of the Messages API: server-sent events, messages, errors.

Events are bytes as soon as they are made: what a stream sends per token is one `orjson.dumps` of
the token between two constant halves, because the simulator shares its machine with what it
measures. Field order and null fields follow the real API.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

Json = dict[str, Any]

ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class ApiError(Exception):
    """An error as the API answers it: an HTTP status and a typed body.

    `retry_after` is in seconds and becomes the header of that name.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or ERROR_TYPES.get(status, "api_error")
        self.retry_after = retry_after

    def body(self, request_id: str) -> bytes:
        return orjson.dumps(
            {
                "type": "error",
                "error": {"type": self.type, "message": self.message},
                "request_id": request_id,
            }
        )

    def event(self, request_id: str) -> bytes:
        """The error as an event in the middle of a stream that has already answered 200."""
        return b"event: error\ndata: " + self.body(request_id) + b"\n\n"


def invalid(message: str) -> ApiError:
    return ApiError(400, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request cost; the three input figures add up to the whole prompt."""

    input_tokens: int
    cache_creation_5m: int = 0
    cache_creation_1h: int = 0
    cache_read_input_tokens: int = 0

    @property
    def cache_creation_input_tokens(self) -> int:
        return self.cache_creation_5m + self.cache_creation_1h

    @property
    def uncached_tokens(self) -> int:
        """The prompt tokens that have to be read, whether or not they are written to the cache."""
        return self.input_tokens + self.cache_creation_input_tokens

    def start(self, output_tokens: int, overrides: Mapping[str, Any]) -> Json:
        """`usage` of a message, as in `message_start` and in a whole message."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_creation_5m,
                "ephemeral_1h_input_tokens": self.cache_creation_1h,
            },
            "output_tokens": output_tokens,
            "service_tier": "standard",
            **overrides,
        }

    def delta(self, output_tokens: int, overrides: Mapping[str, Any]) -> Json:
        """Cumulative `usage` of `message_delta`."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_creation_input_tokens,
            "cache_read_input_tokens": self.cache_read_input_tokens,
            "output_tokens": output_tokens,
            **overrides,
        }


def message(
    *,
    id: str,
    model: str,
    content: list[Json],
    stop_reason: str | None,
    stop_sequence: str | None,
    usage: Json,
) -> Json:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage,
    }


def event(name: str, data: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **data}))


PING: Final = event("ping", {})
MESSAGE_STOP: Final = event("message_stop", {})


def message_start(whole: Json) -> bytes:
    return event("message_start", {"message": whole})


def block_start(index: int, block: Json) -> bytes:
    return event("content_block_start", {"index": index, "content_block": block})


def block_stop(index: int) -> bytes:
    return event("content_block_stop", {"index": index})


def message_delta(stop_reason: str, stop_sequence: str | None, usage: Json) -> bytes:
    delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
    return event("message_delta", {"delta": delta, "usage": usage})


class Deltas:
    """Makes the deltas of one block; all of them but the piece of text is made once."""

    def __init__(self, index: int, type: str, field: str) -> None:
        self._head = (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (index, type.encode(), field.encode())
        )

    def __call__(self, piece: str) -> bytes:
        return self._head + orjson.dumps(piece) + b"}}\n\n"
