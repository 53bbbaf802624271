"""The HTTP client under the SDK. The one home of `httpx2`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2

Client = httpx2.AsyncClient
Response = httpx2.Response
TransportError = httpx2.TransportError


@dataclass
class Opened:
    http: httpx2.AsyncClient

    async def warm(self) -> None:
        pass


@asynccontextmanager
async def open_client(
    base_url: str, *, protocol: str, connections: int, connect_seconds: float
) -> AsyncIterator[Opened]:
    async with httpx2.AsyncClient(
        http1=not base_url.startswith("http://"), http2=True, timeout=None, trust_env=False
    ) as http:
        yield Opened(http)
