"""The example servers of the `mcp` package itself, as they are, over stdio and HTTP."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from peregrine.api.tools.v1 import tools_pb2
from tests.component.tools.conftest import text
from tests.component.tools.test_applied import Start, apply, execute, server, start
from tests.component.tools.test_mcp import FAILED, SUCCEEDED, declared, named
from tests.support import mcp_examples
from tests.support.eventually import eventually
from tests.support.ports import free_port

__all__ = ["server", "start"]


@pytest.fixture(scope="module")
def examples(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = getattr(pytestconfig, "cache", None)  # the plugin may be off
    kept_in = cache.mkdir("mcp-source") if cache else tmp_path_factory.mktemp("mcp-source")
    try:
        return mcp_examples.folder(kept_in) / "servers"
    except mcp_examples.NotThere as reason:
        pytest.skip(str(reason))


class Website:
    """Answers, unless it is told to hang."""

    def __init__(self) -> None:
        self.url = ""
        self.hangs = False
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.set()
            while self.hangs and not reader.at_eof():
                await reader.read(1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def website() -> AsyncIterator[Website]:
    site = Website()
    listener = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    yield site
    listener.close()


def environment(server: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(server)}


@asynccontextmanager
async def over_http(server: Path, module: str, *options: str) -> AsyncIterator[tuple[str, Any]]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *options,
        "--port",
        str(port),
        env=os.environ | environment(server),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await eventually(answers, timeout=90)
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def to(url: str) -> tuple[str]:
    return (url.removeprefix("http://").partition("/")[0],)


async def test_the_fetching_server_over_stdio_killed_and_back(
    start: Start, website: Website, examples: Path
) -> None:
    backend = {
        "command": [sys.executable, "-m", "mcp_simple_tool"],
        "environment": environment(examples / "simple-tool"),
    }
    before = set(psutil.Process().children())
    async with start() as stub:
        await apply(stub, declared(backend))
        assert {"srv", "srv_fetch"} == (await named(stub, "srv")).keys()
        result = await execute(stub, "srv_fetch", {"url": website.url}, idempotency_key="1")
        assert (result.status, text(result)) == (SUCCEEDED, "hello")
        website.hangs = True
        website.asked.clear()
        slow = asyncio.create_task(
            execute(stub, "srv_fetch", {"url": website.url}, idempotency_key="2")
        )
        await website.asked.wait()
        (example,) = set(psutil.Process().children()) - before
        os.kill(example.pid, signal.SIGKILL)
        assert (await slow).status == FAILED
        website.hangs = False
        result = await execute(stub, "srv_fetch", {"url": website.url}, idempotency_key="3")
        assert (result.status, text(result)) == (SUCCEEDED, "hello")


async def test_the_fetching_server_over_http_killed_and_back(
    start: Start, website: Website, examples: Path
) -> None:
    transport = ("--transport", "streamable-http")
    async with over_http(examples / "simple-tool", "mcp_simple_tool", *transport) as (
        url,
        process,
    ):
        async with start(egress_allow=to(url)) as stub:
            await apply(stub, declared({"url": url}))
            call = {"url": website.url}
            result = await execute(stub, "srv_fetch", call, idempotency_key="1")
            assert (result.status, text(result)) == (SUCCEEDED, "hello")
            website.hangs = True
            website.asked.clear()
            slow = asyncio.create_task(execute(stub, "srv_fetch", call, idempotency_key="2"))
            await website.asked.wait()
            process.kill()
            assert (await slow).status == FAILED
            website.hangs = False
            port = url.rpartition(":")[2].partition("/")[0]
            again = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "mcp_simple_tool", *transport, "--port", port),
                env=os.environ | environment(examples / "simple-tool"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:

                async def works() -> bool:
                    key = os.urandom(8).hex()
                    result = await execute(stub, "srv_fetch", call, idempotency_key=key)
                    return bool(result.status == SUCCEEDED)

                await eventually(works, timeout=30)
            finally:
                again.kill()
                await again.wait()


async def test_every_kind_of_answer_of_the_everything_server(start: Start, examples: Path) -> None:
    async with (
        over_http(examples / "everything-server", "mcp_everything_server") as (url, _),
        start(egress_allow=to(url)) as stub,
    ):
        await apply(stub, declared({"url": url}, "e"))
        tools = await named(stub, "e")
        assert len(tools) > 10
        statuses: dict[str, tools_pb2.ToolResult] = {}
        for name in tools.keys() - {"e"}:
            if not tools[name].disabled_reason:
                statuses[name] = await execute(
                    stub, name, {"prompt": "x", "message": "x"}, idempotency_key=name
                )
        simple = statuses["e_test_simple_text"]
        assert text(simple) == "This is a simple text response for testing."
        assert statuses["e_test_error_handling"].error.reason == "MCP_TOOL_ERROR"
        assert "embedded resource" in text(statuses["e_test_embedded_resource"])
        assert text(statuses["e_test_tool_with_logging"])


@pytest.mark.parametrize("options", [(), ("--json-response",)], ids=["events", "json"])
async def test_the_server_that_notifies_while_it_works(
    start: Start, examples: Path, options: tuple[str, ...]
) -> None:
    async with (
        over_http(examples / "simple-streamablehttp", "mcp_simple_streamablehttp", *options) as (
            url,
            _,
        ),
        start(egress_allow=to(url)) as stub,
    ):
        await apply(stub, declared({"url": url}))
        result = await execute(
            stub,
            "srv_start-notification-stream",
            {"interval": 0.05, "count": 3, "caller": "me"},
            idempotency_key="1",
        )
        assert result.status == SUCCEEDED, result
        assert "Sent 3 notifications" in text(result)


async def test_pages_of_a_list_are_all_read(start: Start, examples: Path) -> None:
    backend = {
        "command": [sys.executable, "-m", "mcp_simple_pagination"],
        "environment": environment(examples / "simple-pagination"),
    }
    async with start() as stub:
        await apply(stub, declared(backend, "p"))
        assert len(await named(stub, "p")) > 10
