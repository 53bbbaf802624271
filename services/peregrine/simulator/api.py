"""The public port: the Messages API itself.

One `MessagesApi` is an ASGI application. It authenticates, parses, asks the scripts (then the small
talker) what to say, asks the latency model and the prefix cache when, and plays the timeline:
everything that is due goes out in one piece, so a stream that is late catches up without paying
per token.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
import structlog

from peregrine.simulator import latency as latencies
from peregrine.simulator import models, prefix_cache, request, talker, timeline, wire
from peregrine.simulator.exchange import ClientClosed, Exchange, Headers
from peregrine.simulator.latency import Latency
from peregrine.simulator.prefix_cache import PrefixCache
from peregrine.simulator.record import Record, Records
from peregrine.simulator.request import MessagesRequest
from peregrine.simulator.script import Scripts
from peregrine.simulator.timeline import Frame, Outcome, Performance
from peregrine.simulator.turn import Turn
from peregrine.simulator.wire import ApiError

log = structlog.get_logger(__name__)

_LARGEST_PIECE: Final = 32 * 1024
_STREAM_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


@dataclass(slots=True, kw_only=True)
class State:
    """What the two ports share: the API plays it, the control port changes and reads it."""

    ids: str
    """Prefix of every id that is made up; differs between processes without a seed."""
    seed: int
    latency: Latency
    cache: PrefixCache
    records: Records
    scripts: Scripts = field(default_factory=Scripts)


class MessagesApi:
    def __init__(
        self,
        *,
        state: State,
        models: tuple[str, ...],
        api_key: str | None,
        max_body_bytes: int,
        ping_seconds: float,
    ) -> None:
        self._state = state
        self._models = models
        self._api_key = api_key
        self._max_body_bytes = max_body_bytes
        self._ping_seconds = ping_seconds

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        record = self._state.records.open(
            method=exchange.method,
            path=exchange.path,
            protocol=exchange.protocol,
            started=exchange.started,
            time=time.time(),
            ids=self._state.ids,
        )
        try:
            await self._answer(exchange, record)
        except ClientClosed as closed:
            self._close(record, "client_closed", closed.at)
        finally:
            self._close(record, "cut", exchange.now())  # when nothing else has closed it

    def _close(self, record: Record, ended: str, at: float) -> None:
        """Close the record, before the last bytes leave: who has read them finds it closed."""
        if record.ended is None:
            self._state.records.close(record, ended=ended, at=at)

    async def _answer(self, exchange: Exchange, record: Record) -> None:
        try:
            body = await exchange.body(self._max_body_bytes)
            async with exchange.watching():
                await self._route(exchange, record, body)
        except ApiError as error:
            await self._refuse(exchange, record, error)

    async def _route(self, exchange: Exchange, record: Record, body: bytes) -> None:
        self._authenticate(exchange)
        path = exchange.path.rstrip("/")
        if path == "/v1/messages" and exchange.method == "POST":
            self._state.records.keep_prompt(record, body)
            await self._messages(exchange, record, body)
        elif path == "/v1/messages/count_tokens" and exchange.method == "POST":
            self._state.records.keep_prompt(record, body)
            asked = request.parse(body, models=self._models, counting=True)
            record.model = asked.model
            await self._json(exchange, record, {"input_tokens": _prompt_tokens(asked)})
        elif path == "/v1/models" and exchange.method == "GET":
            query = {key: values[-1] for key, values in parse_qs(exchange.query.decode()).items()}
            await self._json(exchange, record, models.page(self._models, query))
        elif path.startswith("/v1/models/") and exchange.method == "GET":
            model = path.removeprefix("/v1/models/")
            await self._json(exchange, record, models.describe(self._models, model))
        else:
            raise ApiError(404, f"Not found: {exchange.method} {exchange.path}")

    def _authenticate(self, exchange: Exchange) -> None:
        key = exchange.headers.get(b"x-api-key", b"").decode("latin-1")
        bearer = exchange.headers.get(b"authorization", b"").decode("latin-1")
        given = key or bearer.removeprefix("Bearer ").strip()
        if not given:
            raise ApiError(401, "x-api-key header is required")
        if self._api_key is not None and given != self._api_key:
            raise ApiError(401, "invalid x-api-key")
        if not exchange.headers.get(b"anthropic-version"):
            raise wire.invalid("anthropic-version: header is required")

    async def _messages(self, exchange: Exchange, record: Record, body: bytes) -> None:
        asked = request.parse(body, models=self._models)
        record.model = asked.model
        record.stream = asked.stream
        scripted = self._state.scripts.play(asked)
        if scripted is not None:
            record.script = scripted[0].id
        turn = scripted[1] if scripted else talker.turn(asked)
        if turn.failure is not None and turn.failure.where.at_start:
            await exchange.until(exchange.started + turn.failure.delay)
            raise turn.failure.error
        if turn.cut is not None and turn.cut.where.at_start:
            self._close(record, "cut", exchange.now())
            await exchange.cut(turn.cut.scope)
            return
        performance = self._performance(exchange, record, asked, turn)
        outcome = Outcome()
        record.outcome = outcome
        frames = timeline.play(performance, outcome)
        if asked.stream:
            await self._stream(exchange, record, turn, frames, outcome)
        else:
            await self._whole(exchange, record, performance, frames, outcome)

    def _performance(
        self, exchange: Exchange, record: Record, asked: MessagesRequest, turn: Turn
    ) -> Performance:
        state = self._state
        latency = state.latency.with_changes(turn.latency)
        for given in (
            str(asked.metadata.get("simulator_latency", "")),
            exchange.headers.get(b"x-simulator-latency", b"").decode("latin-1"),
        ):
            latency = latency.with_changes(latencies.parse(given))
        prompt = _prefixes(asked)
        usage = state.cache.usage(prompt, exchange.started)
        draw = 0.5
        if latency.jitter:
            # Drawn by seed and number, so that the order in which answers end changes nothing.
            draw = random.Random(f"{state.seed}/{record.id}").random()
        first_token = latency.first_token_seconds(usage.uncached_tokens, draw)
        state.cache.write(prompt, now=exchange.started, readable_at=exchange.started + first_token)
        record.usage = usage
        record.modelled_first_token = first_token
        return Performance(
            turn=turn,
            message_id=f"msg_{state.ids}{record.id:010}",
            model=asked.model,
            usage=usage,
            latency=latency,
            first_token=first_token,
            max_tokens=asked.max_tokens,
            stop_sequences=asked.stop_sequences,
            tool_ids=f"toolu_{state.ids}{record.id:010}",
            ping_seconds=self._ping_seconds,
        )

    async def _stream(
        self,
        exchange: Exchange,
        record: Record,
        turn: Turn,
        frames: Iterator[Frame],
        outcome: Outcome,
    ) -> None:
        start = exchange.started
        frame = next(frames, None)
        broken: str | None = None
        while frame is not None and broken is None:
            await exchange.until(start + frame.at)
            if record.status is None:
                record.status = 200
                await exchange.start(200, [*_STREAM_HEADERS, *_headers(record)])
                record.first_byte = exchange.now()
            due = exchange.now() - start
            piece: list[bytes] = []
            size = 0
            while frame is not None and frame.at <= due and size < _LARGEST_PIECE:
                piece.append(frame.data)
                size += len(frame.data)
                broken = _breaks(turn, outcome)
                if broken is not None:
                    break
                frame = next(frames, None)
            if broken == "error" and turn.failure is not None:
                piece.append(turn.failure.error.event(record.request_id))
                record.error = turn.failure.error.type
            over = broken == "error" or frame is None
            if over or broken is not None:
                self._close(record, broken or "completed", exchange.now())
            await exchange.write(b"".join(piece), more=not over)
        if broken == "cut" and turn.cut is not None:
            await exchange.cut(turn.cut.scope)

    async def _whole(
        self,
        exchange: Exchange,
        record: Record,
        performance: Performance,
        frames: Iterator[Frame],
        outcome: Outcome,
    ) -> None:
        turn = performance.turn
        broken = None
        for _ in frames:
            broken = _breaks(turn, outcome)
            if broken is not None:
                break
        await exchange.until(exchange.started + outcome.end)
        if broken == "error" and turn.failure is not None:
            raise turn.failure.error
        if broken == "cut" and turn.cut is not None:
            self._close(record, "cut", exchange.now())
            await exchange.cut(turn.cut.scope)
            return
        await self._json(exchange, record, timeline.whole_message(performance, outcome))

    async def _json(self, exchange: Exchange, record: Record, body: wire.Json) -> None:
        record.status = 200
        record.first_byte = exchange.now()
        self._close(record, "completed", exchange.now())
        await exchange.respond(200, _headers(record), orjson.dumps(body))

    async def _refuse(self, exchange: Exchange, record: Record, error: ApiError) -> None:
        record.status = error.status
        record.error = error.type
        record.first_byte = exchange.now()
        headers = _headers(record)
        if error.retry_after is not None:
            headers.append((b"retry-after", b"%g" % error.retry_after))
        self._close(record, "error", exchange.now())
        await exchange.respond(error.status, headers, error.body(record.request_id))


def _breaks(turn: Turn, outcome: Outcome) -> str | None:
    """Whether the script breaks the answer off after the frame just made, and how."""
    if turn.failure is not None and timeline.reached(turn.failure.where, outcome):
        return "error"
    if turn.cut is not None and timeline.reached(turn.cut.where, outcome):
        return "cut"
    return None


def _headers(record: Record) -> Headers:
    return [
        (b"request-id", record.request_id.encode()),
        (b"x-simulated", b"peregrine-simulator"),
    ]


def _prefixes(asked: MessagesRequest) -> list[prefix_cache.Prefix]:
    return prefix_cache.prefixes(
        asked.model, asked.tools, asked.system, asked.messages, asked.cache_control
    )


def _prompt_tokens(asked: MessagesRequest) -> int:
    return _prefixes(asked)[-1].tokens
