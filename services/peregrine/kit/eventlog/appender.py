"""One task that brings what all writers of the process have appended into Redis.

Group commit: while one pipeline is on its way the next one gathers, so the rate follows the
round-trip time and the number of runs hardly matters. When Redis is away nothing is lost and nobody
waits for it: entries become visible when PostgreSQL has them, and this task looks every second.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from peregrine.kit.eventlog import tail as tails
from peregrine.kit.eventlog.entry import encode
from peregrine.kit.eventlog.metrics import Metrics
from peregrine.kit.eventlog.tail import Append, Link, Tail
from peregrine.kit.eventlog.writer import TailState, Writer

PROBE_SECONDS = 1.0
SLOW_SECONDS = 0.1
# Of the event loop, which take microseconds: what follows a result comes within so many.
_GIVE_WAY_TURNS = 3
# One pipeline carries at most this many entries, so that it stays within its second.
_MOST = 4000

log = structlog.get_logger(__name__)


class Appender:
    def __init__(
        self,
        *,
        tail: Tail,
        owner: str,
        metrics: Metrics,
        writers: Callable[[], list[Writer]],
        verify: Callable[[], None],
    ) -> None:
        self._tail = tail
        self._owner = owner
        self._metrics = metrics
        self._verify = verify
        self._dirty: dict[Writer, None] = {}
        self._pending = asyncio.Event()
        self._awaited = False
        self._instance: str | None = None
        self._well = False
        self._sent_at: float | None = None
        self._writers = writers

    @property
    def well(self) -> bool:
        """Redis takes appends, and takes them soon."""
        sent_at = self._sent_at
        return self._well and (sent_at is None or time.monotonic() - sent_at < SLOW_SECONDS)

    def note(self, writer: Writer) -> None:
        """This writer has something to send."""
        self._dirty[writer] = None
        self._pending.set()

    def hurry(self) -> None:
        """Somebody waits until what was noted is on its way."""
        self._awaited = True

    async def run(self) -> None:
        while True:
            try:
                link = await self._tail.open_link(self._owner)
            except tails.AWAY as error:
                self._became(False, error)
                await asyncio.sleep(PROBE_SECONDS)
                continue
            connected_at = time.monotonic()
            try:
                self._connected(link)
                while True:
                    await self._pending.wait()
                    # What led to an entry often leads to a call as well, a few turns later: calls
                    # have others waiting, so they go first.
                    for _ in range(_GIVE_WAY_TURNS):
                        if not self._awaited:
                            await asyncio.sleep(0)
                    self._awaited = False
                    self._pending.clear()
                    await self._round(link)
            except tails.AWAY as error:
                self._became(False, error)
            finally:
                self._sent_at = None
                await link.close()
            if time.monotonic() - connected_at < PROBE_SECONDS:
                # It lets us in but takes nothing (full, read-only, loading): as good as away.
                await asyncio.sleep(PROBE_SECONDS)

    def _connected(self, link: Link) -> None:
        self._became(True, None)
        if link.instance != self._instance:
            # Another run of the server: what it knows of our logs may be nothing, or be old.
            self._instance = link.instance
            for writer in self._writers():
                if writer.opens:
                    writer.tail = TailState.UNVERIFIED
                self._dirty[writer] = None
            if self._dirty:
                self._verify()
        self._pending.set()

    async def _round(self, link: Link) -> None:
        """Sends one pipeline of what there is."""
        batch: list[tuple[Writer, Append]] = []
        entries = 0
        while self._dirty and entries < _MOST:
            writer = next(iter(self._dirty))
            del self._dirty[writer]
            append = self._next_append(writer)
            if append is not None:
                batch.append((writer, append))
                entries += len(append.frames)
        if self._dirty:
            self._pending.set()
        if not batch:
            return

        def sent() -> None:
            for writer, append in batch:
                writer.made_sent(append.first + len(append.frames) - 1)

        self._sent_at = time.monotonic()
        done = 0
        try:
            replies = await link.append([append for _, append in batch], sent)
            self._metrics.append_seconds.observe(time.monotonic() - self._sent_at)
            for (writer, _), reply in zip(batch, replies, strict=True):
                self._settle(writer, reply)
                done += 1
        finally:
            self._sent_at = None
            for writer, _ in batch[done:]:
                self._dirty[writer] = None

    def _next_append(self, writer: Writer) -> Append | None:
        """What Redis does not have; None if nothing may or need be sent."""
        if writer.failure is not None or writer.tail is TailState.UNVERIFIED:
            return None
        first, last = writer.acked + 1, writer.last_sequence
        if writer.tail is TailState.LIVE and first < writer.window.first:
            writer.tail = TailState.OPEN
        if writer.tail is TailState.OPEN:
            # With the head gone only this stands between a frozen owner and its successor's log.
            if writer.finished_at is None and writer.lease_until < time.monotonic():
                self._suspect(writer)
                return None
            # The committed entries need not be in the tail, but a terminal one is worth telling.
            first = last if writer.finished_at is not None else writer.durable_sequence + 1
            writer.opens += 1
        elif first > last:
            return None
        return Append(
            writer.packed_keys,
            writer.epoch,
            first,
            writer.opens if writer.tail is TailState.OPEN else 0,
            writer.durable_sequence,
            [encode(entry) for entry in writer.window.slice(first, last)],
        )

    def _settle(self, writer: Writer, reply: Any) -> None:
        if isinstance(reply, Exception):
            # NOSCRIPT (it restarted), OOM, READONLY, LOADING …: this connection is of no use.
            raise reply
        if reply == tails.FENCED:
            if writer.active:
                self._metrics.fenced.inc()
                writer.fenced("the tail has a newer owner")
        elif reply in (tails.NOT_CONTINUOUS, tails.STALE_OPEN):
            self._suspect(writer)
        else:
            writer.tail = TailState.LIVE
            # Between the call and its reply the writer may have failed; what Redis has counts.
            writer.made_visible(min(int(reply) - 1, writer.last_sequence))
            if writer.acked < writer.last_sequence:
                self.note(writer)

    def _suspect(self, writer: Writer) -> None:
        writer.tail = TailState.UNVERIFIED
        self._verify()

    def _became(self, well: bool, error: Exception | None) -> None:
        if well != self._well:
            self._well = well
            self._metrics.redis_up.set(well)
            if well:
                log.info("log_tail_up")
            else:
                log.warning("log_tail_away", error=repr(error))
