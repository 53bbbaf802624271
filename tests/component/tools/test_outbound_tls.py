"""HTTPS: the checked address below, the name of the URL above; HTTP/2 where it is spoken."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest

from peregrine.tools import egress, outbound
from peregrine.tools.definition import ToolFailure
from peregrine.tools.outbound import Outbound, Request
from tests.support import certificates
from tests.support.eventually import eventually
from tests.support.ports import free_port

NAME = "secure.example"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a certificate for the name and its key."""
    return certificates.files(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
async def port(certificate: tuple[str, str]) -> AsyncIterator[int]:
    """Where a server answers every request with its HTTP version and the host it was asked for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        host = dict(scope["headers"]).get(b"host", b"").decode()
        body = f"{scope['http_version']} {host}".encode()
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    number = free_port()
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{number}"]
    config.certfile, config.keyfile = certificate
    config.errorlog = config.accesslog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    await eventually(lambda: _answers(number), timeout=10)
    yield number
    stop.set()
    await asyncio.wait_for(serving, 10)


async def _answers(number: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", number)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def client(port: int, certificate: str) -> AsyncIterator[Outbound]:
    async def here(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with outbound.opened(
        rules=egress.rules([f"127.0.0.1:{port}"]),
        seconds=5,
        resolve=here,
        tls=ssl.create_default_context(cafile=certificate),
    ) as http:
        yield http


async def test_the_name_of_the_url_is_verified_and_http2_is_spoken(
    port: int, certificate: tuple[str, str]
) -> None:
    async with client(port, certificate[0]) as http:
        answers = await asyncio.gather(
            *(http.fetch(Request(url=f"https://{NAME}:{port}/")) for _ in range(5))
        )
    assert {answer.text for answer in answers} == {f"2 {NAME}:{port}"}


async def test_a_certificate_for_another_name_is_refused(
    port: int, certificate: tuple[str, str]
) -> None:
    async with client(port, certificate[0]) as http:
        for host in ("other.example", "127.0.0.1"):
            with pytest.raises(ToolFailure) as caught:
                await http.fetch(Request(url=f"https://{host}:{port}/"))
            assert caught.value.reason == "HOST_UNREACHABLE"


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    port: int, certificate: tuple[str, str], tmp_path: Path
) -> None:
    async def here(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    rules = egress.rules([f"127.0.0.1:{port}"])
    async with outbound.opened(rules=rules, seconds=5, resolve=here) as http:
        with pytest.raises(ToolFailure) as caught:
            await http.fetch(Request(url=f"https://{NAME}:{port}/"))
    assert caught.value.reason == "HOST_UNREACHABLE"
