"""The newest entries of one log, in memory: what readers of this process are served from.

A reader is a cursor, not a queue: it takes the slice after its position whenever the window has
moved, and waits otherwise. So the producer never waits for a reader, a slow reader costs nothing,
and one that fell behind what is kept here reads on from the stores by position.

Entries beyond `visible` are appended but must not be seen yet (the owner's, not accepted by a
store). `epoch` is the newest epoch as of which everything in here is the log.
"""

import asyncio
from collections.abc import Iterable, Sequence

from peregrine.kit.eventlog.entry import Entry

BATCH = 256


class Window:
    """Contiguous entries from `first` on.

    Args:
      epoch: as of which the entries are valid.
      next_sequence: the position that the first entry will have.
      keep: how many of the entries that may go are kept for readers.
    """

    __slots__ = ("_entries", "_keep", "_waiting", "closed", "epoch", "first", "version", "visible")

    def __init__(self, *, epoch: int, next_sequence: int, keep: int = 1024) -> None:
        self.epoch = epoch
        self.first = next_sequence
        self.visible = next_sequence - 1
        self.version = 0
        self.closed = False
        self._keep = keep
        self._entries: list[Entry] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def next_sequence(self) -> int:
        return self.first + len(self._entries)

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)

    def reveal(self, upto: int) -> None:
        """Makes everything up to this position readable."""
        if upto > self.visible:
            self.visible = upto
            self.wake()

    def extend(self, entries: Iterable[Entry]) -> None:
        """Appends entries that are visible already, and drops what is more than is kept."""
        self._entries.extend(entries)
        self.reveal(self.next_sequence - 1)
        self.trim(self.visible)

    def restart(self, *, epoch: int, next_sequence: int) -> None:
        """Forgets everything: what comes does not continue what is here."""
        self._entries.clear()
        self.epoch = epoch
        self.first = next_sequence
        self.visible = next_sequence - 1

    def slice(self, first: int, last: int) -> Sequence[Entry]:
        """Entries from `first` through `last`, visible or not; they must be in here."""
        start = first - self.first
        if start < 0:
            raise IndexError(f"position {first} is no longer kept")
        return self._entries[start : last - self.first + 1]

    def after(self, position: int) -> list[Entry] | None:
        """Visible entries that follow `position`, [] when there are none yet, None when the window
        begins later and so cannot tell."""
        start = position + 1 - self.first
        if start < 0:
            return None
        end = min(self.visible + 1 - self.first, start + BATCH)
        return self._entries[start:end]

    def trim(self, upto: int) -> None:
        """Drops the oldest entries up to this position beyond the number that is kept. In steps,
        because dropping from a list's head copies the rest."""
        spare = min(len(self._entries) - self._keep, upto - self.first + 1)
        if spare > self._keep // 2:
            del self._entries[:spare]
            self.first += spare

    def wake(self) -> None:
        self.version += 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def close(self) -> None:
        """No more will come from here: readers look elsewhere."""
        self.closed = True
        self.wake()

    async def moved(self, version: int) -> None:
        """Returns when anything changed since `version` was read."""
        if self.version == version:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                # A window that rarely moves must not collect those who stopped waiting.
                if future in self._waiting:
                    self._waiting.remove(future)
                raise
