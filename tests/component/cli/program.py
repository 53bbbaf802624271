"""The command line against services that live in the test: in this process, or as one of its own.

`await peregrine("runs", "list")` parses the arguments and runs the command in the loop of the test,
in milliseconds. `peregrine.started` and `peregrine.on_terminal` start the real program, for what
only shows there: streaming, signals, a terminal, the exit code.
"""

import asyncio
import io
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from peregrine.cli import session
from peregrine.cli.commands import build
from tests.support import logs

SERVICES = Path(__file__).parents[3] / "services"
_SECONDS = 30.0


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The JSON objects on standard output."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Program:
    """Runs `peregrine …`; the services are where `environ` says, by default nowhere."""

    environ: dict[str, str] = field(default_factory=dict)

    def environment(self) -> Mapping[str, str]:
        nowhere = "127.0.0.1:1"
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SERVICES),
            "PYTHONUTF8": "1",
            "TERM": "xterm",
            "PEREGRINE_ORCHESTRATOR_TARGET": nowhere,
            "PEREGRINE_MEMORY_TARGET": nowhere,
            "PEREGRINE_TOOLS_TARGET": nowhere,
            "PEREGRINE_CACHE_TARGET": nowhere,
        } | self.environ

    async def __call__(self, *arguments: str, stdin: str = "") -> Ended:
        works: list[Coroutine[Any, Any, int]] = []
        out, err = io.StringIO(), io.StringIO()
        with logs.as_before(), pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("PEREGRINE_")]:
                patch.delenv(name)
            # An option may set these, and they are to be gone afterwards.
            for name in ("PEREGRINE_API_KEY_FILE", "PEREGRINE_TLS", "PEREGRINE_TLS_CA"):
                patch.setenv(name, "")
            for name, value in self.environment().items():
                patch.setenv(name, value)
            patch.setattr(session, "run", works.append)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                build()(arguments, prog_name="peregrine", standalone_mode=True)
            except SystemExit as exit:
                assert isinstance(exit.code, int)
                code = exit.code
            for work in works:
                try:
                    with session.failures():
                        code = await asyncio.wait_for(work, _SECONDS)
                except typer.Exit as exit:
                    code = exit.exit_code
        return Ended(code, out.getvalue(), err.getvalue())

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "peregrine",
            *arguments,
            env=self.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @asynccontextmanager
    async def on_terminal(self, *arguments: str) -> AsyncIterator["Session"]:
        """The program on a pseudo-terminal of 80 columns."""
        ours, theirs = pty.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "peregrine",
                *arguments,
                env={**self.environment(), "COLUMNS": "80", "LINES": "24"},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        session = Session(process, ours)
        try:
            yield session
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            session.close()


class Session:
    """What is typed, and what has been seen so far."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.seen = ""
        self._terminal = terminal
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(terminal, self._read)
        self._open = True

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # the other side has closed
            data = b""
        if data:
            self.seen += data.decode("utf-8", "replace")
        else:
            self._loop.remove_reader(self._terminal)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), _SECONDS)

    def close(self) -> None:
        self._loop.remove_reader(self._terminal)
        os.close(self._terminal)
