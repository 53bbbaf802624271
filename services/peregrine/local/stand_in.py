"""A stand-in for the web services that the example tools call, so that they work without any.

It makes up its answers: the same question always gets the same one, and each says that it is
simulated. HTTP/1.1 with kept connections; nothing but GET. Under `make run` it is part of that
process, on a free port of the loopback; in a cluster it is one of its own, `peregrine stand-in`.

    /weather?city=Oslo    /search?q=words
"""

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from peregrine.kit.settings import SettingsError, load, setting

_MAX_HEAD = 16 * 1024
_IDLE_SECONDS = 75.0
_MAX_CONNECTIONS = 64
_SKIES = ("clear", "partly cloudy", "overcast", "light rain", "rain", "snow", "fog", "windy")
_PAGES = (
    ("{query}: an overview", "What {query} is about, where it comes from and what it is used for."),
    ("A short guide to {query}", "The five things about {query} that everybody asks first."),
    (
        "{query} in practice",
        "Three teams tell what worked for them with {query}, and what did not.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:8090",
        help="host:port of the stand-in for web services; port 0 picks a free one",
    )


def run(environ: Mapping[str, str]) -> int:
    """The process: serves until SIGTERM or SIGINT. 1: cannot listen; 2: settings are wrong."""
    try:
        asyncio.run(_until_stopped(load(Settings, environ).listen))
    except SettingsError as error:
        sys.stderr.writelines(f"stand-in: {problem}\n" for problem in error.problems)
        return 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"stand-in: cannot listen: {error}; correct PEREGRINE_LISTEN\n")
        return 1
    return 0


async def _until_stopped(listen: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(listen):
        await stop.wait()


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Listens until the end of the block; gives `host:port`."""
    host, _, port = listen.rpartition(":")
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None and len(connections) < _MAX_CONNECTIONS:
            connections[task] = writer
            task.add_done_callback(connections.pop)
            await _converse(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, host, int(port), limit=_MAX_HEAD)
    try:
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # Not cancelled: before Python 3.12 asyncio complains of a connection whose task was.
        for writer in connections.values():
            writer.transport.abort()
        if connections:
            await asyncio.wait(connections)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
                status, data = answer(method, target)
                body = b"" if method == "HEAD" else json.dumps(data).encode()
                writer.write(
                    f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
                if method not in ("GET", "HEAD"):
                    return  # a body might follow, which nobody reads
    except (
        OSError,
        ValueError,
        TimeoutError,
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
    ):
        return


def answer(method: str, target: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON for a request."""
    if method not in ("GET", "HEAD"):
        return 405, {"error": "only GET is understood"}
    url = urlsplit(target)
    given = {name: values[0] for name, values in parse_qs(url.query).items()}
    match url.path:
        case "/weather" if "city" in given:
            return 200, _weather(given["city"])
        case "/search" if "q" in given:
            return 200, _found(given["q"])
        case "/weather" | "/search":
            return 400, {"error": "the question is missing"}
    return 404, {"error": "there are /weather?city= and /search?q="}


def _weather(city: str) -> dict[str, Any]:
    lot = _lot(city)
    return {
        "city": city,
        "sky": _SKIES[lot[0] % len(_SKIES)],
        "temperature_celsius": lot[1] % 35 - 5,
        "wind_kmh": lot[2] % 40,
        "simulated": True,
    }


def _found(query: str) -> dict[str, Any]:
    results = [
        {
            "title": title.format(query=query),
            "url": f"https://example.com/{_lot(query).hex()[:8]}/{number}",
            "snippet": snippet.format(query=query),
        }
        for number, (title, snippet) in enumerate(_PAGES, 1)
    ]
    return {"results": results, "simulated": True}


def _lot(text: str) -> bytes:
    return hashlib.sha256(text.strip().casefold().encode("utf-8", "replace")).digest()
