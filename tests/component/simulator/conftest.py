"""A simulator in the test's process, and the unmodified SDK as its client over each protocol."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from peregrine.simulator.main import Simulator, SimulatorSettings

MODEL = "claude-sonnet-5-5"
FAST: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "control_listen": "127.0.0.1:0",
    "first_token_seconds": 0.0,
    "tokens_per_second": 0.0,
    "seed": 7,
}


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on the path to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(made.key), "-out", str(made.certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return made


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator.running(SimulatorSettings(**FAST)) as running:
        yield running


@pytest.fixture
async def control(simulator: Simulator) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=simulator.control_url, timeout=10) as client:
        yield client


def sdk(simulator: Simulator, protocol: str, **options: Any) -> AsyncAnthropic:
    """The SDK over `HTTP/1.1` or `HTTP/2` (prior knowledge), without retries of its own."""
    versions = {"http1": True} if protocol == "HTTP/1.1" else {"http1": False, "http2": True}
    return AsyncAnthropic(
        base_url=simulator.base_url,
        api_key="any",
        max_retries=0,
        timeout=20,
        http_client=DefaultAsyncHttpxClient(**versions),
        **options,
    )


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(simulator: Simulator, protocol: str) -> AsyncIterator[AsyncAnthropic]:
    async with sdk(simulator, protocol) as made:
        yield made


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask() -> Ask:
    """The arguments of a request that asks `text`."""

    def made(text: str = "hello", **fields: Any) -> dict[str, Any]:
        return {
            "model": MODEL,
            "max_tokens": 5000,
            "messages": [{"role": "user", "content": text}],
            **fields,
        }

    return made
