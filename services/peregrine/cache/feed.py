"""What a replica knows of everybody's invalidations and policies, and those who read along.

The truth is a table (`feed_store`). Every replica holds what follows from it in memory: the marks
that reads are judged by, the policies in force, and the newest events for its readers, who are
cursors on them. Two sources fill it (`following`); both bring events in their order, and whatever
was known already is passed over.

A replica that has not heard of the feed's end for a second does not know what is true any more:
`confirmed` is False, its reads are misses and its readers get no heartbeat.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from peregrine.api.cache.v1 import cache_pb2
from peregrine.cache.policies import Policies
from peregrine.kit import marks
from peregrine.kit.errors import OutOfRange
from peregrine.kit.marks import Marks, key_digest

KEPT_EVENTS = 10_000
HEARTBEAT_SECONDS = 0.3
SILENT_SECONDS = 1.0
POLICY = "p"

_EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the feed. `kind` is one of `marks`' or `POLICY`; `target` the key, the tag or the
    serialized policy; `create_time` in seconds since 1970."""

    sequence: int
    previous: int
    tenant: str
    kind: str
    user: str
    namespace: str
    target: bytes
    create_time: float


class Feed:
    """`clock`: seconds, monotonic. Made inside a running loop."""

    def __init__(self, *, policies: Policies, clock: Callable[[], float] = time.monotonic) -> None:
        self.sequence = 0
        self.marks = Marks()
        self.policies = policies
        self._clock = clock
        self._heard = -SILENT_SECONDS
        # Everything after `_start` is in `_events`.
        self._start = 0
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()

    @property
    def confirmed(self) -> bool:
        """Whether what is known here was everything there was, a second ago at most."""
        return self._clock() - self._heard < SILENT_SECONDS

    def confirm(self, as_of: float) -> None:
        """At the time `as_of` there was nothing beyond `sequence`."""
        self._heard = max(self._heard, as_of)

    def begin(self, sequence: int, events: Iterable[Event], *, start: int) -> None:
        """Where the feed stood when the marks and policies were loaded; `events`: the newest ones,
        all there are after `start`."""
        self._events.extend(events)
        self._start = start
        self.sequence = sequence

    def apply(self, events: Iterable[Event]) -> None:
        """Takes in what is new of `events`, which are in order and leave out none."""
        before = self.sequence
        for event in events:
            if event.sequence > self.sequence:
                self._take(event)
        if self.sequence != before:
            self._changed.set()
            self._changed = asyncio.Event()

    async def watch(self, tenant: str, after: int | None) -> AsyncIterator[tuple[int, list[Event]]]:
        """What happens to a tenant after a position (None: from now on), with the position it goes
        up to. Nothing happened: an empty list, at least every `HEARTBEAT_SECONDS`.

        Raises:
          OutOfRange: EVENTS_COMPACTED.
        """
        if after is None:
            after = self.sequence
            yield after, []
        cursor = max(after, self._start) if after == 0 else after
        due = self._clock()
        while True:
            changed = self._changed
            if cursor < self._start:
                raise OutOfRange(
                    f"the feed is kept from position {self._start} on", reason="EVENTS_COMPACTED"
                )
            events = self._since(cursor, tenant)
            if len(events) > _EVENTS_AT_ONCE:
                del events[_EVENTS_AT_ONCE:]
                cursor = events[-1].sequence
            else:
                cursor = max(cursor, self.sequence)
            now = self._clock()
            if events or (now >= due and self.confirmed):
                yield cursor, events
                due = self._clock() + HEARTBEAT_SECONDS
            if cursor < self.sequence:
                continue
            try:
                async with asyncio.timeout(max(due - self._clock(), 0.05)):
                    await changed.wait()
            except TimeoutError:
                pass

    def _since(self, cursor: int, tenant: str) -> list[Event]:
        found = []
        for event in reversed(self._events):
            if event.sequence <= cursor:
                break
            if event.tenant == tenant or (
                event.kind == POLICY and event.tenant == self.policies.operator
            ):
                found.append(event)
        found.reverse()
        return found

    def _take(self, event: Event) -> None:
        self.sequence = event.sequence
        if event.kind == POLICY:
            self.policies.put(event.tenant, cache_pb2.Policy.FromString(event.target))
        else:
            self.marks.strike(mark_of(event), event.sequence)
        self._events.append(event)
        if len(self._events) > KEPT_EVENTS:
            self._start = self._events.popleft().sequence


def mark_of(event: Event) -> marks.Mark:
    match event.kind:
        case marks.KEY:
            digest = key_digest(event.user, event.namespace, event.target)
            return (event.tenant, marks.KEY, digest)
        case marks.TAG:
            return (event.tenant, marks.TAG, event.target.decode())
    return (event.tenant, marks.GROUP, event.namespace)
