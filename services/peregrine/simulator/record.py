"""What the simulator saw: one record per request, kept in a ring, bounded in number and bytes.

Times are seconds of the event loop's monotonic clock (the same clock for every process of one
machine), `time` is the wall clock. The *modelled* seconds are what the request would have taken on
an idle machine with no network: a benchmark subtracts them and is left with the platform's own.
The prompt is kept as the bytes that came and parsed when somebody asks; when all prompts together
pass `MAX_PROMPT_BYTES`, the oldest are forgotten first, their records stay.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson

from peregrine.simulator.timeline import Outcome
from peregrine.simulator.wire import Json, Usage

MAX_PROMPT_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Record:
    """One request. `ended` is completed, client_closed, error or cut, and None while it runs."""

    id: int
    request_id: str
    method: str
    path: str
    protocol: str
    started: float
    time: float
    body: bytes = b""
    model: str = ""
    stream: bool = False
    script: int | None = None
    usage: Usage | None = None
    outcome: Outcome | None = None
    modelled_first_token: float | None = None
    first_byte: float | None = None
    finished: float | None = None
    ended: str | None = None
    status: int | None = None
    error: str | None = None

    def describe(self, *, prompts: bool = True) -> Json:
        outcome = self.outcome
        first = outcome.first_token if outcome else None
        row: Json = {
            "id": self.id,
            "request_id": self.request_id,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(),
            "method": self.method,
            "path": self.path,
            "protocol": self.protocol,
            "model": self.model,
            "stream": self.stream,
            "script": self.script,
            "status": self.status,
            "error": self.error,
            "ended": self.ended,
            "started": self.started,
            "first_byte": self.first_byte,
            "finished": self.finished,
            "modelled_first_token_seconds": self.modelled_first_token if first is None else first,
            "modelled_decode_seconds": None
            if outcome is None or first is None
            else outcome.end - first,
            "modelled_seconds": None if outcome is None else outcome.end,
            "late_seconds": self.late_seconds,
            "usage": self.usage.start(outcome.output_tokens if outcome else 0, {})
            if self.usage
            else None,
            "output_tokens": outcome.output_tokens if outcome else 0,
            "stop_reason": outcome.stop_reason if outcome else None,
            "content": outcome.said() if outcome else [],
        }
        if prompts:
            row["prompt"] = _prompt(self.body)
        return row

    @property
    def late_seconds(self) -> float | None:
        """How much later than modelled a completed answer ended."""
        if self.ended != "completed" or self.outcome is None or self.finished is None:
            return None
        return self.finished - self.started - self.outcome.end


class Records:
    """The ring of records, and the counters that survive it."""

    def __init__(self, *, limit: int) -> None:
        self._ring: deque[Record] = deque(maxlen=limit)
        self._with_prompt: deque[Record] = deque()
        self._prompt_bytes = 0
        self._open: set[int] = set()
        self._next_id = 1
        self._ended: Counter[str] = Counter()
        self._max_concurrency = 0
        self._max_late = 0.0

    def open(
        self, *, method: str, path: str, protocol: str, started: float, time: float, ids: str
    ) -> Record:
        number = self._next_id
        self._next_id += 1
        record = Record(
            id=number,
            request_id=f"req_{ids}{number:010}",
            method=method,
            path=path,
            protocol=protocol,
            started=started,
            time=time,
        )
        self._ring.append(record)
        self._open.add(number)
        self._max_concurrency = max(self._max_concurrency, len(self._open))
        return record

    def keep_prompt(self, record: Record, body: bytes) -> None:
        record.body = body
        self._prompt_bytes += len(body)
        self._with_prompt.append(record)
        limit = self._ring.maxlen or 0
        while self._prompt_bytes > MAX_PROMPT_BYTES or len(self._with_prompt) > limit:
            oldest = self._with_prompt.popleft()
            self._prompt_bytes -= len(oldest.body)
            oldest.body = b""

    def close(self, record: Record, *, ended: str, at: float) -> None:
        record.ended = ended
        record.finished = at
        self._open.discard(record.id)
        self._ended[ended] += 1
        self._max_late = max(self._max_late, record.late_seconds or 0.0)

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._ring))

    def clear(self) -> None:
        """Forget what is over; what runs stays."""
        running = [record for record in self._ring if record.ended is None]
        self._ring.clear()
        self._ring.extend(running)
        self._with_prompt.clear()
        self._with_prompt.extend(record for record in running if record.body)
        self._prompt_bytes = sum(len(record.body) for record in self._with_prompt)
        self._ended.clear()
        self._max_concurrency = len(self._open)
        self._max_late = 0.0

    def stats(self) -> Json:
        return {
            "requests": sum(self._ended.values()) + len(self._open),
            "ended": dict(self._ended),
            "concurrency": len(self._open),
            "max_concurrency": self._max_concurrency,
            "max_late_seconds": self._max_late,
        }


def _prompt(body: bytes) -> Json | None:
    """What of the body is the prompt; None when it was not JSON or is forgotten."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(raw, dict):
        return None
    kept = ("system", "messages", "tools", "tool_choice", "max_tokens", "metadata", "thinking")
    return {key: raw[key] for key in kept if key in raw}
