"""The subscription: it ends when it is told to, whatever its connection makes of that."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from peregrine.kit.eventlog.hub import Hub

pytestmark = pytest.mark.timeout(30)


class Losing:
    """A connection that is lost in the moment in which its reader is cancelled."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()

    async def connect(self) -> None:
        pass

    async def disconnect(self, *, nowait: bool) -> None:
        pass

    async def send_command(self, *_: Any, **__: Any) -> None:
        pass

    async def read_response(self, **_: Any) -> None:
        self.reading.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("lost") from None


async def test_it_ends_when_its_connection_is_lost_in_the_moment_in_which_it_is_cancelled() -> None:
    connection = Losing()
    pool = SimpleNamespace(connection_class=lambda **_: connection, connection_kwargs={})
    client: Any = SimpleNamespace(connection_pool=pool)
    unused: Any = None
    hub = Hub(redis=client, store=unused, released=asyncio.Event())
    task = asyncio.create_task(hub.run())
    await connection.reading.wait()
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.cancelled()
