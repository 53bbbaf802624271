"""The Anthropic Messages API, through its SDK. The one home of `anthropic`.

The SDK keeps what it is good at (credentials, headers, the base URL, and whole calls where speed
does not matter) and is spared what costs: for a streamed answer its URL and headers are taken once,
a request is the bytes that `requests.encode` made, and the answer is read as raw events. CPU for
one answer of 20 tokens in 25 events, ten messages and four tools, without any network (`httpx2`
with a transport in memory; Python 3.11, one shared core):

    messages.stream()                                   2.8 ms
    messages.create(stream=True)                        1.7 ms
    messages.with_streaming_response.create, own SSE    0.8 ms
    client.post(content=bytes), own SSE                 0.4 ms
    a prepared POST, own SSE                            0.2 ms   <- this module

The differences are the SDK's walk over every parameter and its model per event; nobody here reads
either. They are larger between other work than in a loop: before the provider was asked, the fourth
line took 2.2 ms of a run. The SDK's retries are off: the run's budget is spent in one place,
`calling`.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anthropic
import orjson

from peregrine.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PeregrineError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from peregrine.kit.settings import Secret
from peregrine.llm_gateway import sse
from peregrine.llm_gateway.transport import (
    ConnectTimeout,
    Opened,
    Poster,
    Response,
    TransportError,
)

SIMULATED_HEADER = "x-simulated"
# What the provider may answer beside a stream: an error, a count, a page of models.
_JSON = {"Content-Type": "application/json"}
# Waits that the provider asks for are believed up to this many seconds.
_MAX_RETRY_AFTER = 3600.0
# More than any error says; what is behind it is not read.
_MAX_ERROR_BYTES = 65536


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    display_name: str
    simulated: bool


class Provider:
    """Calls the provider with one pooled client, which whoever made it closes."""

    def __init__(self, *, api_key: Secret, base_url: str, client: Opened) -> None:
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key.reveal(),
            base_url=base_url,
            http_client=client.http,
            max_retries=0,
            timeout=client.http.timeout,  # deadlines are asyncio's here; see transport
            open_telemetry=False,
        )
        headers = self._client.default_headers
        self._messages = client.poster(
            str(self._client.base_url).rstrip("/") + "/v1/messages",
            {name: value for name, value in headers.items() if isinstance(value, str)},
        )

    def stream(self, content: bytes) -> "Stream":
        """A streamed answer, opened by `async with`. Leaving the block ends the request upstream.

        Raises:
          PeregrineError: one of the MODEL_… reasons of the contract, on entry or while reading.
        """
        return Stream(self._messages, content)

    async def count_tokens(self, content: bytes) -> int:
        """Raises PeregrineError: one of the MODEL_… reasons."""
        try:
            response = await self._client.post(
                "/v1/messages/count_tokens",
                content=content,
                cast_to=Response,
                options={"headers": _JSON},
            )
            return int(orjson.loads(response.content)["input_tokens"])
        except anthropic.APIError as error:
            raise explain(error) from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise _not_the_api("token count") from None

    async def list_models(self, *, limit: int, after: str) -> tuple[list[ModelInfo], str]:
        """A page of models and the name after which the next begins, empty at the end."""
        try:
            raw = await self._client.models.with_raw_response.list(
                limit=limit, after_id=after or anthropic.omit
            )
            simulated = SIMULATED_HEADER in raw.headers
            page = await raw.parse()
        except anthropic.APIError as error:
            raise explain(error) from error
        models = [
            ModelInfo(model.id, model.display_name or model.id, simulated) for model in page.data
        ]
        return models, (page.last_id or "") if page.has_more else ""


class Stream:
    """One answer. Use as an async context manager, then iterate `batches` once."""

    def __init__(self, messages: Poster, content: bytes) -> None:
        self._messages = messages
        self._content = content
        self._response: Response | None = None
        self.simulated = False
        self.connect_seconds = 0.0

    async def __aenter__(self) -> Self:
        try:
            response = await self._messages.post(self._content)
            if response.status_code >= 300:
                raise await _refused(response)
        except TransportError as error:
            raise _unreachable(type(error).__name__) from error
        self._response = response
        self.simulated = SIMULATED_HEADER in response.headers
        self.connect_seconds = response.extensions.get("connect_seconds", 0.0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._response is not None:
            await self._response.aclose()

    async def batches(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The provider's events; those that one read of the network completed come together."""
        if self._response is None:
            raise RuntimeError("the stream is not open")
        decoder = sse.Decoder()
        try:
            async with aclosing(self._response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    if events := decoder.feed(chunk):
                        yield events
        except TransportError as error:
            raise _unreachable(type(error).__name__) from error
        except sse.NotEvents as error:
            raise _not_the_api(str(error)) from None


def explain(error: anthropic.APIError) -> PeregrineError:
    """An error of the SDK as one of the contract."""
    if isinstance(error, anthropic.APITimeoutError) and not isinstance(
        error.__cause__, ConnectTimeout
    ):
        return DeadlineExceeded("the model was not reached in time", reason="MODEL_TIMEOUT")
    if not isinstance(error, anthropic.APIStatusError):
        cause = error.__cause__
        return _unreachable(type(cause).__name__ if cause else type(error).__name__)
    return _answered(error.status_code, error.body, error.response.headers)


async def _refused(response: Response) -> PeregrineError:
    """What a streamed call got instead of a stream."""
    try:
        said = b""
        async for chunk in response.aiter_bytes():
            said += chunk
            if len(said) > _MAX_ERROR_BYTES:
                break
        body = orjson.loads(said)
    except orjson.JSONDecodeError:
        body = None
    finally:
        await response.aclose()
    return _answered(response.status_code, body, response.headers)


def _answered(status: int, body: object, headers: Mapping[str, str]) -> PeregrineError:
    kind, message = _said(body)
    metadata = {"status": str(status), "type": kind}
    if request_id := headers.get("request-id"):
        metadata["request_id"] = request_id
    return by_status(
        status,
        message or f"the provider answered {status}",
        metadata=metadata,
        retry_after=_retry_after(headers),
    )


_STATUS_BY_KIND = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def explain_event(kind: str, message: str) -> PeregrineError:
    """An error event in the middle of an answer, whose status was already 200."""
    status = _STATUS_BY_KIND.get(kind, 500)
    return by_status(status, message or kind, metadata={"type": kind}, retry_after=None)


def by_status(
    status: int, message: str, *, metadata: Mapping[str, str], retry_after: float | None
) -> PeregrineError:
    """The error of the contract that an HTTP status of the provider means."""
    made: type[PeregrineError]
    match status:
        case 401:
            made, reason = Unauthenticated, "MODEL_KEY_REFUSED"
        case 402 | 403:
            made, reason = PermissionDenied, "MODEL_FORBIDDEN"
        case 404:
            made, reason = NotFound, "MODEL_NOT_FOUND"
        case 413:
            made, reason = InvalidArgument, "PROMPT_TOO_LONG"
        case 429:
            made, reason = ResourceExhausted, "MODEL_RATE_LIMITED"
            retry_after = 1.0 if retry_after is None else retry_after
        case 503 | 529:
            made, reason = Unavailable, "MODEL_OVERLOADED"
        case _ if status >= 500 or status in (408, 409):
            made, reason = Unavailable, "MODEL_UNREACHABLE"
        case _ if "prompt is too long" in message.lower():
            made, reason = InvalidArgument, "PROMPT_TOO_LONG"
        case _:
            made, reason = InvalidArgument, "MODEL_REQUEST_REFUSED"
    return made(message, reason=reason, metadata=metadata, retry_after=retry_after)


def _said(body: object) -> tuple[str, str]:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("type", "")), str(error.get("message", ""))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    # The provider sends seconds. The form with a date is not worth a clock.
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, _MAX_RETRY_AFTER) if seconds >= 0 else None


def _unreachable(what: str) -> Unavailable:
    return Unavailable(f"the model provider cannot be reached ({what})", reason="MODEL_UNREACHABLE")


def _not_the_api(what: str) -> Unavailable:
    return Unavailable(
        f"the provider's answer is not that of the Messages API: {what}",
        reason="MODEL_UNREACHABLE",
    )
