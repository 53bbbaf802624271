"""Where a reader is, and how it goes on across PostgreSQL, the tail and the live end.

A cursor is a position and an epoch: "these first `position` entries are the log's, as of `epoch`".
Entries come from wherever they are found, as long as that proves to continue the cursor:

* a window (the owner's memory, or a feed) continues it when it is valid as of the same epoch;
* PostgreSQL continues it always, and is the only one that moves the cursor's epoch: it knows where
  each epoch started, so it can tell whether a newer owner began before the cursor's position. If
  so, what follows that start was never durable and is void: the cursor goes back to it;
* the tail continues what PostgreSQL has with entries of the cursor's epoch.

So the switch from one source to the next needs no coordination, and losing one only costs a look.
"""

from collections.abc import Sequence

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog import tail as tails
from peregrine.kit.eventlog.entry import Address, Entry, continuing
from peregrine.kit.eventlog.failures import LogCompacted, LogNotFound
from peregrine.kit.eventlog.store import Page, Store
from peregrine.kit.eventlog.tail import Tail
from peregrine.kit.eventlog.window import Window

PAGE = 512


class Cursor:
    """Where one reader is. `epoch` None: not known yet."""

    def __init__(self, position: int, epoch: int | None) -> None:
        self.position = position
        self.epoch = epoch
        self.done = False

    def served_by(self, window: Window, *, trusted: bool) -> list[Entry] | None:
        """What follows in the window; [] = nothing yet; None = it cannot tell, look elsewhere.

        Args:
          trusted: the window is the owner's, so a bare position inside it can be taken as its own.
        """
        if window.closed:
            return None
        if self.epoch != window.epoch:
            older = self.epoch is not None and self.epoch > window.epoch
            fresh = self.position == 0 and window.first == 1 and window.visible > 0 and not older
            known = trusted and self.epoch is None and self.position <= window.visible
            if not fresh and not known:
                return None
        return window.after(self.position)

    def advance(self, entries: Sequence[Entry], *, epoch: int) -> None:
        self.position = entries[-1].sequence
        self.epoch = epoch
        self.done = entries[-1].terminal

    def confirm(self, starts: Sequence[int | None]) -> bool:
        """Learns where the epochs started. True if the position was void and has moved back."""
        epoch = len(starts)
        if self.epoch is None or self.epoch >= epoch:
            self.epoch = epoch if self.epoch is None else self.epoch
            return False
        newer = [start for start in starts[self.epoch :] if start is not None]
        self.epoch = epoch
        valid = min([self.position, *(start - 1 for start in newer)])
        moved, self.position = valid < self.position, valid
        return moved


class Reader:
    """Looks at the stores for one log on behalf of one cursor."""

    def __init__(self, *, address: Address, cursor: Cursor, store: Store, tail: Tail) -> None:
        self._address = address
        self._cursor = cursor
        self._store = store
        self._tail = tail

    async def look(self) -> Sequence[Entry]:
        """What follows the cursor in PostgreSQL, or after that in the tail; the cursor has moved
        past it. Empty when there is nothing more for now, or (cursor.done) for ever.

        Raises: LogNotFound, LogCompacted; Unavailable when PostgreSQL is away and the tail alone
        cannot continue the cursor.
        """
        cursor = self._cursor
        try:
            page = await self._page()
        except Unavailable:
            entries = await self._from_tail() if cursor.epoch is not None else []
            if not entries:
                raise
            cursor.advance(entries, epoch=entries[-1].epoch)
            return entries
        entries = page.entries or await self._beyond(page)
        if entries:
            cursor.advance(entries, epoch=len(page.starts))
        elif page.finished and cursor.position >= page.durable:
            cursor.done = True
        return entries

    async def _page(self) -> Page:
        """The entries in PostgreSQL after the cursor, once the cursor's epoch is the log's."""
        cursor = self._cursor
        while True:
            unknown = cursor.epoch is None
            page = await self._store.page(self._address, cursor.position, PAGE)
            if page is None:
                raise LogNotFound(self._address.log_id)
            moved = cursor.confirm(page.starts)
            if unknown and await self._is_void(page):
                start = page.starts[-1]
                cursor.position = start - 1 if start is not None else 0
                moved = True
            if moved:
                continue
            if page.compacted and cursor.position < page.durable:
                raise LogCompacted(self._address.log_id)
            return page

    async def _is_void(self, page: Page) -> bool:
        """Whether a position that came without an epoch lies beyond what is left of the log: its
        reader saw entries that did not survive, and goes on where the present owner started."""
        cursor = self._cursor
        if len(page.starts) < 2 or cursor.position <= page.durable:
            return False
        if page.finished:
            return True
        try:
            return not await self._tail.read(self._address, cursor.position - 1, 1)
        except tails.AWAY:
            return False

    async def _beyond(self, page: Page) -> Sequence[Entry]:
        if page.finished or self._cursor.position < page.durable:
            return ()
        return await self._from_tail()

    async def _from_tail(self) -> Sequence[Entry]:
        """What the tail holds after the cursor, of the cursor's epoch: nothing older can be valid
        beyond what is durable, and what is newer has to be confirmed first."""
        cursor = self._cursor
        try:
            entries = await self._tail.read(self._address, cursor.position, PAGE)
        except tails.AWAY:
            return ()
        end = 0
        while end < len(entries) and entries[end].epoch == cursor.epoch:
            end += 1
        return continuing(entries[:end], cursor.position)
