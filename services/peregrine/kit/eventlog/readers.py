"""The loop of a reader: take what the live window has, look at the stores if it cannot tell, wait.

On the owner's process the window is the writer's own memory, so an entry goes from the append to
its reader without any store in between; elsewhere it is the feed that the hub keeps.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog.entry import Address, Entry
from peregrine.kit.eventlog.failures import unavailable
from peregrine.kit.eventlog.hub import Feed, Hub
from peregrine.kit.eventlog.reader import Cursor, Reader
from peregrine.kit.eventlog.store import Store
from peregrine.kit.eventlog.tail import Tail
from peregrine.kit.eventlog.window import Window
from peregrine.kit.eventlog.writer import Writer

RETRY_SECONDS = 1.0


class Readers:
    def __init__(
        self, *, store: Store, tail: Tail, hub: Hub, writers: Mapping[Address, Writer]
    ) -> None:
        self._store = store
        self._tail = tail
        self._hub = hub
        self._writers = writers
        self.closing = False

    async def read(
        self, address: Address, cursor: Cursor, follow: bool
    ) -> AsyncIterator[list[Entry]]:
        reader = Reader(address=address, cursor=cursor, store=self._store, tail=self._tail)
        writer: Writer | None = None
        feed: Feed | None = None
        looks = -1
        known = False
        try:
            while not cursor.done:
                if writer is None or writer.failure is not None:
                    writer = self._writers.get(address)
                    if writer is not None and writer.failure is not None:
                        writer = None
                if writer is None and follow and feed is None:
                    feed = await self._hub.attach(address)
                window = _window(writer, feed)
                version = window.version
                batch = cursor.served_by(window, trusted=writer is not None)
                if batch:
                    cursor.advance(batch, epoch=window.epoch)
                    known = True
                    yield batch
                    continue
                if batch is not None and writer is not None and writer.finished_at is not None:
                    return  # it was asked for what follows the terminal entry
                patience = None
                told = writer is None and feed is not None and looks != feed.looks
                if batch is None or told:
                    looks = feed.looks if feed is not None else -1
                    try:
                        found = await reader.look()
                        known = True
                    except Unavailable:
                        if not known or not follow:
                            raise
                        found = ()
                        patience = RETRY_SECONDS
                    if found:
                        if feed is not None:
                            feed.reached = max(feed.reached, cursor.position)
                        yield list(found)
                        continue
                    if cursor.served_by(window, trusted=writer is not None):
                        continue  # the look made the cursor one that the window can serve
                if cursor.done or not follow:
                    return
                await _moved(window, version, patience)
                if self.closing:
                    raise unavailable("the process is ending", reason="LOG_CLOSED")
        finally:
            if feed is not None:
                self._hub.detach(feed)


def _window(writer: Writer | None, feed: Feed | None) -> Window:
    if writer is not None:
        return writer.window
    if feed is not None:
        return feed.window
    return Window(epoch=0, next_sequence=1)


async def _moved(window: Window, version: int, timeout: float | None) -> None:
    """Waits for the window to move on from `version`, at most `timeout` seconds."""
    if timeout is None:
        await window.moved(version)
        return
    try:
        async with asyncio.timeout(timeout):
            await window.moved(version)
    except TimeoutError:
        pass
