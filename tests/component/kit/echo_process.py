"""The echo service as a process: `python -m tests.component.kit.echo_process`.

`Say("wait")` answers once the server is draining, `Say("hang")` never. ECHO_BUILD and ECHO_READY
make building and getting ready hang or fail.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from peregrine.kit import serve
from peregrine.kit.errors import StartRefused, Unavailable
from peregrine.kit.settings import InnerSettings, load, setting
from tests.component.kit.echo import SERVICE, EchoServicer, add_echo, forever

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Settings(InnerSettings):
    build: str = setting("ECHO_BUILD", default="", help="how building goes")
    ready: str = setting("ECHO_READY", default="", help="how getting ready goes")


@asynccontextmanager
async def build(environ: Mapping[str, str]) -> AsyncIterator[serve.Server]:
    settings = load(Settings, environ)
    draining = asyncio.Event()

    async def say(text: str, _: Any) -> str:
        if text == "wait":
            log.info("waiting")
            await draining.wait()
        if text == "hang":
            log.info("waiting")
            await forever()
        return text

    async def ready() -> None:
        if settings.ready == "fail":
            raise RuntimeError("broken")
        if settings.ready == "hang":
            log.info("not ready")
            await forever()

    async def drain() -> None:
        draining.set()

    log.info("building")
    if settings.build == "hang":
        await forever()
    if settings.build == "refuse":
        raise StartRefused("the role is too powerful")
    if settings.build == "away":
        raise Unavailable("PostgreSQL cannot be reached", reason="POSTGRES_UNAVAILABLE")
    try:
        yield serve.Server(
            name="echo",
            settings=settings,
            servicers=[(add_echo, EchoServicer(say), SERVICE)],
            ready=ready,
            drain=drain,
        )
    finally:
        log.info("closed")


if __name__ == "__main__":
    sys.exit(serve.run(build, name="echo"))
