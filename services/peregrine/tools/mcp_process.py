"""A server that is a process of this worker: lines in, lines out, nothing left behind.

A line has at most 5 MiB, as any other answer, and no more than twice that is ever held, however
much the process writes. It gets a session of its own, so that ending it ends its children, too: its
input is closed, and who does not end at that is asked to and then made to.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence

from peregrine.tools.bodies import MAX_BYTES

_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.01


class Process:
    """Made by `start`; `stop` ends it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def lines(self) -> AsyncIterator[bytes]:
        """Until it ends, or writes a line that is too long."""
        reader = self._process.stdout
        while reader is not None:
            try:
                line = await reader.readuntil(b"\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
                return
            if line.strip():
                yield line

    async def send(self, line: bytes) -> None:
        """Raises `ConnectionError` when it reads no more."""
        writer = self._process.stdin
        if writer is None or writer.is_closing():
            raise BrokenPipeError
        writer.write(line + b"\n")
        await writer.drain()

    async def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)
            if await self._ended():
                break
        # A child that lives on may hold the pipe; nobody here waits for that.
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()

    async def _ended(self) -> bool:
        # Not `wait`, which also waits for the pipes: children may have inherited them.
        until = asyncio.get_running_loop().time() + _GRACE_SECONDS
        while self._process.returncode is None:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True


async def start(command: Sequence[str], environment: Mapping[str, str]) -> Process:
    """Raises `OSError` when there is no such program."""
    return Process(
        await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(environment),
            limit=MAX_BYTES,
            start_new_session=True,
        )
    )
