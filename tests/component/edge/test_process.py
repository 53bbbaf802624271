"""The edge as a process: how it starts, refuses to, and ends."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx

from peregrine.local.processes import Child, Children
from tests.component.edge.test_streams import HELLO, Reader
from tests.support import fake_orchestrator as script
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import FakeOrchestrator, Gate
from tests.support.ports import free_port
from tests.support.stack import SERVICES


def spawn(children: Children, directory: Path, target: str, port: int, **environ: str) -> Child:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PEREGRINE_")}
    return children.spawn(
        "edge",
        [sys.executable, "-m", "peregrine", "edge"],
        env={
            **kept,
            "PYTHONPATH": str(SERVICES),
            "PEREGRINE_AUTH_REQUIRED": "false",
            "PEREGRINE_LISTEN": f"127.0.0.1:{port}",
            "PEREGRINE_ORCHESTRATOR_TARGET": target,
            "PEREGRINE_MEMORY_TARGET": target,
            **environ,
        },
        log_path=directory / "edge.log",
    )


async def test_sigterm_sends_readers_elsewhere_and_ends_cleanly(
    children: Children, fake: FakeOrchestrator, tmp_path: Path
) -> None:
    port, metrics = free_port(), free_port()
    fake.script = [script.started(), script.text(1, "Hel"), Gate()]
    process = spawn(children, tmp_path, fake.target, port, PEREGRINE_METRICS_PORT=str(metrics))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:

        async def ready() -> bool:
            try:
                return (await http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, timeout=30)
        async with http.stream("POST", "/v1/chat/stream", json=HELLO) as response:
            reader = Reader(response)
            await reader.until(b"id: 2\n")
            told = (await http.get(f"http://127.0.0.1:{metrics}/metrics")).text
            assert "peregrine_edge_streams 1.0" in told
            process.send(signal.SIGTERM)
            await reader.to_the_end()
        assert reader.bytes.endswith(b"retry: 250\n\n")
    async with asyncio.timeout(10):
        assert await process.wait(10) == 0


async def test_a_port_in_use_and_a_wrong_setting_are_one_line_each(
    children: Children, fake: FakeOrchestrator, tmp_path: Path
) -> None:
    taken = int(fake.target.rpartition(":")[2])
    process = spawn(children, tmp_path, fake.target, taken, PEREGRINE_REFLECTION="false")
    assert await process.wait(20) == 2
    [line] = process.log_path.read_text().strip().splitlines()
    assert "PEREGRINE_LISTEN" in line and "address already in use" in line
    process = spawn(children, tmp_path, fake.target, taken, PEREGRINE_EDGE_MAX_STREAMS="0")
    assert await process.wait(20) == 2
    assert "PEREGRINE_EDGE_MAX_STREAMS" in process.log_path.read_text()
