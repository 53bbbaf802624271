"""Following logs that other processes write: one subscription for all of them.

Each followed log has a feed: a window that messages extend and that all its readers here share. A
message says which entries it holds, so a lost one is noticed by the next; and once a second (four
times while Redis is away) one statement asks PostgreSQL how far all followed logs are, which covers
a lost last message, an owner that cannot reach Redis, and Redis being away.
"""

import asyncio
import time
from typing import Any

import structlog

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog import tail as tails
from peregrine.kit.eventlog.entry import Address, Entry, continuing, decode
from peregrine.kit.eventlog.store import Store
from peregrine.kit.eventlog.tail import RELEASED
from peregrine.kit.eventlog.window import Window
from peregrine.kit.postgres import DatabaseError
from peregrine.kit.redis import Redis

LOOK_SECONDS = 1.0
AWAY_LOOK_SECONDS = 0.25
SUBSCRIBE_SECONDS = 1.0
PING_SECONDS = 5.0
SILENCE_SECONDS = 15.0
_KEEP = 512

log = structlog.get_logger(__name__)


class Feed:
    """The live end of one log that another process writes.

    Attributes:
      window: entries of one epoch, the newest.
      looks: grows when PostgreSQL is known to have something that the window does not tell.
      reached: the highest position that a reader of this feed has.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.channel = tails.keys(address)[2]
        self.window = Window(epoch=0, next_sequence=1, keep=_KEEP)
        self.subscribed = asyncio.Event()
        self.readers = 0
        self.looks = 0
        self.reached = 0
        self._told: tuple[int, int, bool] | None = None

    def push(self, entries: list[Entry]) -> None:
        """Takes what was published, in order."""
        window, epoch = self.window, entries[0].epoch
        if epoch < window.epoch:
            return  # an owner that was fenced since
        if epoch > window.epoch or entries[0].sequence > window.next_sequence:
            window.restart(epoch=epoch, next_sequence=entries[0].sequence)
        new = continuing(entries, window.next_sequence - 1)
        if new:
            window.extend(new)

    def told(self, epoch: int, durable: int, finished: bool) -> None:
        """Takes what PostgreSQL says; wakes the readers if that is news to them."""
        if (epoch, durable, finished) == self._told:
            return
        self._told = (epoch, durable, finished)
        if (
            finished
            or epoch != self.window.epoch
            or durable > max(self.window.visible, self.reached)
        ):
            self.look()

    def look(self) -> None:
        self.looks += 1
        self.window.wake()


class Hub:
    def __init__(self, *, redis: Redis, store: Store, released: asyncio.Event) -> None:
        self._redis = redis
        self._store = store
        self._released = released
        self._feeds: dict[Address, Feed] = {}
        self._by_channel: dict[bytes, Feed] = {}
        self._up = False
        self._changed = asyncio.Event()

    async def attach(self, address: Address) -> Feed:
        """The feed of a log, subscribed (or Redis is away, and looks at PostgreSQL must do).
        `detach` it."""
        feed = self._feeds.get(address)
        if feed is None:
            feed = self._feeds[address] = Feed(address)
            self._by_channel[feed.channel] = feed
            self._changed.set()
        feed.readers += 1
        if self._up and not feed.subscribed.is_set():
            try:
                async with asyncio.timeout(SUBSCRIBE_SECONDS):
                    await feed.subscribed.wait()
            except TimeoutError:
                pass
            except BaseException:
                self.detach(feed)
                raise
        return feed

    def detach(self, feed: Feed) -> None:
        feed.readers -= 1
        if feed.readers == 0:
            del self._feeds[feed.address]
            del self._by_channel[feed.channel]
            self._changed.set()

    async def run(self) -> None:
        """Holds the subscription; connects again when it breaks."""
        while True:
            connection = tails.new_connection(self._redis)
            try:
                async with asyncio.timeout(tails.TIMEOUT):
                    await connection.connect()
                self._up = True
                self._changed.set()
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._subscribe(connection))
                    both.create_task(self._receive(connection))
            except* tails.AWAY as group:
                if self._up:
                    log.warning("log_subscription_lost", error=repr(group.exceptions[0]))
            finally:
                self._up = False
                await connection.disconnect(nowait=True)
            # Before 3.13 a group whose tasks failed just then swallows a cancellation.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            for feed in self._feeds.values():
                feed.subscribed.clear()
                feed.look()
            await asyncio.sleep(tails.TIMEOUT)

    async def _subscribe(self, connection: Any) -> None:
        """Keeps what the server sends us equal to what is followed here. The one task that writes
        to this connection, so that no cancelled reader can leave half a command on it."""
        have: set[bytes] = set()
        await connection.send_command("SUBSCRIBE", RELEASED, check_health=False)
        while True:
            self._changed.clear()
            want = set(self._by_channel)
            # Also what was asked for before by a feed that is gone: a new one waits for the answer.
            ask = {
                channel
                for channel, feed in self._by_channel.items()
                if not feed.subscribed.is_set()
            }
            for verb, channels in (("SUBSCRIBE", ask), ("UNSUBSCRIBE", have - want)):
                if channels:
                    await connection.send_command(verb, *channels, check_health=False)
            have = want
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await connection.send_command("PING", check_health=False)

    async def _receive(self, connection: Any) -> None:
        while True:
            message = await connection.read_response(
                timeout=SILENCE_SECONDS, disconnect_on_error=False
            )
            if message is None:
                raise TimeoutError("the subscription went silent")
            kind, channel, data = (*message, None)[:3]
            if kind == b"message":
                self._take(channel, data)
            elif kind == b"subscribe" and channel in self._by_channel:
                feed = self._by_channel[channel]
                feed.subscribed.set()
                # Readers may have looked before this took effect.
                feed.look()

    def _take(self, channel: bytes, data: bytes) -> None:
        if channel == RELEASED:
            self._released.set()
        elif (feed := self._by_channel.get(channel)) is not None:
            try:
                feed.push(decode(data))
            except ValueError:
                # Somebody else writes to our channel; the stores know better.
                log.warning("log_message_malformed", log_id=str(feed.address.log_id))
                feed.look()

    async def watch(self) -> None:
        """Asks PostgreSQL how far the followed logs are."""
        last = 0.0
        while True:
            await asyncio.sleep(AWAY_LOOK_SECONDS)
            if not self._feeds or (self._up and time.monotonic() - last < LOOK_SECONDS):
                continue
            last = time.monotonic()
            feeds = dict(self._feeds)
            try:
                standings = await self._store.progress(list(feeds))
            except (Unavailable, DatabaseError):
                continue
            for address, standing in standings.items():
                if (feed := feeds.get(address)) is not None:
                    feed.told(standing.epoch, standing.durable, standing.finished)
