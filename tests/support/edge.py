"""The web edge for a test, and what a reader of server-sent events makes of bytes.

async with edge(orchestrator=fake.target, memory=target) as server:
    async with httpx.AsyncClient(base_url=server.url) as http: ...
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from peregrine.edge import main
from peregrine.edge.server import EdgeServer
from peregrine.kit.settings import load


@asynccontextmanager
async def edge(*, orchestrator: str, memory: str, **environ: str) -> AsyncIterator[EdgeServer]:
    """An edge on a free port, ready. Further settings are given as variables."""
    settings = load(
        main.Settings,
        {
            "PEREGRINE_AUTH_REQUIRED": "false",
            "PEREGRINE_LISTEN": "127.0.0.1:0",
            "PEREGRINE_ORCHESTRATOR_TARGET": orchestrator,
            "PEREGRINE_MEMORY_TARGET": memory,
            **environ,
        },
    )
    async with main.build(settings) as server:
        await server.start()
        try:
            await server.serving()
            yield server
        finally:
            await server.stop(1.0)


@dataclass(frozen=True)
class Sent:
    """One event of a stream, and where its bytes end."""

    id: str | None
    event: str
    data: Any
    end: int


def parse(stream: bytes) -> list[Sent]:
    """The whole events of a stream; comments and `retry` are passed over."""
    found, end = [], 0
    while (stop := stream.find(b"\n\n", end)) >= 0:
        fields: dict[str, str] = {}
        for line in stream[end:stop].decode().split("\n"):
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        end = stop + 2
        if "data" in fields:
            data = json.loads(fields["data"])
            found.append(Sent(fields.get("id"), fields.get("event", "message"), data, end))
    return found
