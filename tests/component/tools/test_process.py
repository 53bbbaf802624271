"""The worker as a process: what it says when it cannot start, and that nothing keeps it alive."""

import os
import signal
import sys
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.local.processes import Child, Children
from tests.component.tools.conftest import call
from tests.support.dsn import as_superuser
from tests.support.eventually import eventually
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
_RUN = "import os, sys; from peregrine.tools.main import run; sys.exit(run(os.environ))"


def start(children: Children, tmp_path: Path, **variables: str) -> Child:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'services'}",
        "PEREGRINE_KNOWLEDGE_DIR": str(tmp_path),
        "PEREGRINE_AUTH_REQUIRED": "false",
        **variables,
    }
    return children.spawn(
        "tools", [sys.executable, "-c", _RUN], log_path=tmp_path / "log", env=environment, cwd=ROOT
    )


def last_line(worker: Child) -> str:
    return worker.log_path.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PEREGRINE_TOOLS_MODULES": "no.such.module"}, "no.such.module"),
        ({"PEREGRINE_TOOLS_MODULES": "json"}, "no function under @tool"),
        ({"PEREGRINE_TOOLS_CONCURRENCY": "none"}, "PEREGRINE_TOOLS_CONCURRENCY"),
    ],
)
async def test_what_is_wrong_at_the_start_is_said_in_one_line(
    children: Children, tmp_path: Path, migrated_dsn: str, variables: dict[str, str], words: str
) -> None:
    worker = start(children, tmp_path, PEREGRINE_POSTGRES_DSN=migrated_dsn, **variables)
    assert await worker.wait(30) == 2
    assert words in last_line(worker)
    assert "Traceback" not in worker.log_path.read_text()


async def test_a_superuser_is_refused(
    children: Children, tmp_path: Path, migrated_dsn: str
) -> None:
    worker = start(children, tmp_path, PEREGRINE_POSTGRES_DSN=as_superuser(migrated_dsn))
    assert await worker.wait(30) == 2
    assert "superuser" in last_line(worker)


async def test_a_thread_that_never_ends_does_not_keep_the_process(
    children: Children, tmp_path: Path, migrated_dsn: str
) -> None:
    port = free_port()
    worker = start(
        children,
        tmp_path,
        PEREGRINE_POSTGRES_DSN=migrated_dsn,
        PEREGRINE_TOOLS_MODULES="tests.support.tools_module",
        PEREGRINE_LISTEN=f"127.0.0.1:{port}",
    )
    await eventually(lambda: '"serving"' in worker.log_path.read_text(), timeout=30)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = tools_pb2_grpc.ToolServiceStub(channel)
        for tool in ("block", "hang_stubbornly"):
            request = tools_pb2.ExecuteToolRequest(call=call(tool))
            answer = await stub.ExecuteTool(request, timeout=20)
            assert answer.result.error.reason == "TOOL_TIMEOUT"
    worker.send(signal.SIGTERM)
    assert await worker.wait(15) == 0
