"""A server as a process: what it may write, and that nothing of it is left."""

import asyncio
import os
import resource
import sys

import psutil
import pytest

from peregrine.tools import mcp_process
from peregrine.tools.mcp_process import Process
from tests.support.eventually import eventually


async def started(source: str) -> Process:
    return await mcp_process.start([sys.executable, "-uc", source], dict(os.environ))


async def test_lines_go_in_and_out() -> None:
    process = await started(
        "for line in __import__('sys').stdin: print(line.strip()[::-1] + '\\n')"
    )
    await process.send(b"abc")
    assert await anext(process.lines()) == b"cba\n"
    await process.stop()
    with pytest.raises(ConnectionError):
        await process.send(b"abc")


async def test_a_line_without_end_ends_the_lines_and_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process = await started(
        "import sys\nprint('first')\nfor _ in range(1024): sys.stdout.write('x' * 2**20)"
    )
    async with asyncio.timeout(60):
        assert [line async for line in process.lines()] == [b"first\n"]
        await process.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 100 * 2**20


async def test_one_that_does_not_want_to_end_is_made_to_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_process, "_GRACE_SECONDS", 0.1)
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print(child.pid)\n"
        "time.sleep(100)\n"
    )
    process = await started(stubborn)
    child = int(await anext(process.lines()))
    await process.stop()
    await eventually(lambda: not psutil.pid_exists(child) or gone(child))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="nothing"):
        await mcp_process.start(["/nothing/here"], {})
