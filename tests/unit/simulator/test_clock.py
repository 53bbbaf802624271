"""The simulator's event loop: it waits as any other, only more finely."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

from peregrine.simulator import clock


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=clock.event_loop) as runner:
        return runner.run(asyncio.wait_for(work, 10))


def test_timers_come_in_their_order_and_never_early() -> None:
    async def work() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        rung: list[tuple[float, float]] = []
        last = loop.create_future()
        start = loop.time()
        for after in (0.0031, 0.0002, 0.0104, 0.0009):
            at = start + after
            loop.call_at(at, lambda at=at: rung.append((at, loop.time())))
        loop.call_at(start + 0.012, last.set_result, None)
        await last
        return rung

    rung = run(work())
    assert len(rung) == 4 and rung == sorted(rung)
    assert all(when >= at for at, when in rung)


def test_it_hears_sockets_and_other_threads_while_no_timer_is_set() -> None:
    async def work() -> bytes:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            reading = asyncio.create_task(loop.sock_recv(here, 5))
            await asyncio.to_thread(there.send, b"bytes")
            return await reading

    assert run(work()) == b"bytes"
