"""Whether this process is worth keeping: what the probes of its pod ask.

Alive is who can still do its work, now or when the lease comes to it: the lists succeed (or, for
who stands by, the lease can be read), every loop turns, watches deliver. What makes it sick makes a
restart worth it, so a service that is away does not count, nor a resource that cannot be applied.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from peregrine.kit.errors import StartRefused

LIST_SECONDS, BEAT_SECONDS, WATCH_SECONDS = 90.0, 30.0, 180.0
EVENTS = "events"
"""The event loop itself."""


@dataclass(slots=True)
class Health:
    """What the loops report. Times are those of `clock`, monotonic."""

    clock: Callable[[], float] = time.monotonic
    beats: dict[str, float] = field(init=False)
    """When each loop last turned."""
    listed: float | None = None
    leading: bool = False
    started: bool = False
    watches_failing_for: Callable[[], float] = lambda: 0.0
    lease_unread_for: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        self.beats = {EVENTS: self.clock()}

    def turn(self, loop: str = EVENTS) -> None:
        """A loop turns."""
        self.beats[loop] = self.clock()

    def lead(self, leading: bool) -> None:
        self.leading = leading
        self.listed = self.clock() if leading else None
        # The other loops are those of a term: they begin with it, and end with it.
        self.beats = {EVENTS: self.beats[EVENTS]}

    def sick(self) -> str:
        """Why this process should be restarted; empty when it should not."""
        now = self.clock()
        for loop, beat in self.beats.items():
            if now - beat > BEAT_SECONDS:
                return f"the loop of {loop} has not turned for {now - beat:.0f} s"
        if not self.leading and self.lease_unread_for() > LIST_SECONDS:
            return f"the lease could not be read for {self.lease_unread_for():.0f} s"
        if self.leading and self.listed is not None and now - self.listed > LIST_SECONDS:
            return f"resources could not be listed for {now - self.listed:.0f} s"
        if self.leading and self.watches_failing_for() > WATCH_SECONDS:
            return f"watches have failed for {self.watches_failing_for():.0f} s"
        return ""


@asynccontextmanager
async def serving(health: Health, *, host: str, port: int) -> AsyncIterator[int]:
    """Answers GET /healthz and /readyz while the block runs; gives the port.

    Raises:
      StartRefused: the address cannot be bound.
    """

    async def alive(_: web.Request) -> web.Response:
        sick = health.sick()
        return web.Response(text=sick or "ok", status=503 if sick else 200)

    async def ready(_: web.Request) -> web.Response:
        sick = health.sick() or ("" if health.started else "starting")
        doing = "working" if health.leading else "standing by"
        return web.Response(text=sick or doing, status=503 if sick else 200)

    application = web.Application()
    application.add_routes([web.get("/healthz", alive), web.get("/readyz", ready)])
    runner = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise StartRefused(
                f"probes cannot be answered on {host}:{port} ({error.strerror or error}): set "
                "PEREGRINE_OPERATOR_HEALTH_PORT to a free port"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
