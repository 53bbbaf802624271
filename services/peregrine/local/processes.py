"""Child processes that never outlive their owner, and whose last words are kept.

`Children` is an async context manager that owns a process group (see `watchdog`). `spawn` starts a
program in it, with its output appended to a file. Leaving the context stops whatever still runs;
if the owner is killed, the watchdog does the same.

A `Child` is a plain `subprocess.Popen` that is polled, not an asyncio one: it belongs to no event
loop, so a test suite that makes a loop per test can keep a server for the whole session.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_SECONDS = 0.02
_LAST_WORDS_BYTES = 16_384
_SPEAKS_OF_ERROR = re.compile(r"error|fatal|panic|refused|denied", re.IGNORECASE)
_WATCHDOG = Path(__file__).with_name("watchdog.py")
_AS_USER = Path(__file__).with_name("as_user.py")


class ProcessFailed(Exception):
    """A program could not be started, ended early, or was not ready in time.

    The text is one line for a person: what happened, the last thing it said, where its log is.
    """


class Child:
    """One running program. `log_path` holds everything it wrote."""

    def __init__(
        self, *, name: str, process: subprocess.Popen[bytes], log_path: Path, log_start: int
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log_path = log_path
        self._process = process
        self._log_start = log_start

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the program has ended."""
        self._process.send_signal(number)

    async def wait(self, timeout: float) -> int:
        """The exit code. Raises `TimeoutError` after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while True:
                if (code := self.returncode) is not None:
                    return code
                await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, *, grace: float, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and after `grace` seconds make it end. Returns the exit code."""
        self.send(number)
        try:
            return await self.wait(grace)
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """SIGKILL, and wait until the kernel has taken it away."""
        self.send(signal.SIGKILL)
        return await self.wait(10.0)

    def kill_now(self, timeout: float = 10.0) -> None:
        """SIGKILL and wait without an event loop."""
        self._process.kill()
        self._process.wait(timeout)

    def last_words(self) -> str:
        """The most telling of the last lines it wrote: one that speaks of an error, or the last."""
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                # What was there before is a predecessor's, unless the log was cut back since.
                start = self._log_start if self._log_start <= end else 0
                log.seek(max(start, end - _LAST_WORDS_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        lines = [line.strip() for line in text.splitlines()[-20:] if line.strip()]
        telling = (line for line in reversed(lines) if _SPEAKS_OF_ERROR.search(line))
        return next(telling, lines[-1] if lines else "nothing")

    def ended(self) -> ProcessFailed:
        """The one-line account of an end that nobody asked for."""
        code = self.returncode
        if code is not None and code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return ProcessFailed(
            f"{self.name} {how}; its last words: {self.last_words()} (log: {self.log_path})"
        )


class User:
    """Another user to run a program as, for a server that refuses to be root (PostgreSQL)."""

    def __init__(self, *, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def command(self, command: Sequence[str]) -> list[str]:
        return [sys.executable, "-I", "-S", str(_AS_USER), str(self.uid), str(self.gid), *command]


class Children:
    """The owner of a group of child processes. Use it as an async context manager.

    `grace`: seconds that children get between SIGTERM and SIGKILL when they are stopped on leaving
    or by the watchdog. `keep_open`: descriptors that the watchdog holds until all children ended.
    """

    def __init__(self, *, grace: float = 10.0, keep_open: Sequence[int] = ()) -> None:
        self._grace = grace
        self._keep_open = tuple(keep_open)
        self._children: list[Child] = []
        self._watchdog: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as stopping:
                for child in self.running():
                    stopping.create_task(child.stop(grace=self._grace))
        finally:
            self.close()

    def open(self) -> None:
        """Start the watchdog (for owners without an event loop; otherwise enter the context)."""
        watchdog = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", str(_WATCHDOG), str(self._grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._keep_open,
            process_group=0,
        )
        self._watchdog = watchdog
        # It ignores signals from here on. Without a word from it there is no group to rely on.
        if watchdog.stdout is None or watchdog.stdout.read(1) != b"r":
            raise ProcessFailed("the watchdog process did not start")

    def close(self) -> None:
        """Kill what still runs and dismiss the watchdog."""
        for child in self.running():
            child.kill_now()
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is None:
            return
        # communicate() writes the byte, closes the pipes and waits.
        watchdog.communicate(b".", timeout=10.0)

    def kill(self) -> None:
        """SIGKILL to all that run; whoever waits for them learns of it."""
        for child in self.running():
            child.send(signal.SIGKILL)

    @property
    def guarded(self) -> bool:
        """Whether the watchdog is there to end the children if this process is killed."""
        return self._watchdog is not None and self._watchdog.poll() is None

    def running(self) -> list[Child]:
        return [child for child in self._children if child.returncode is None]

    def spawn(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: User | None = None,
    ) -> Child:
        """Start a program in the group. `user`: run it as that user (only root can)."""
        if self._watchdog is None:
            raise ProcessFailed(f"{name} could not be started: its owner is closed")
        arguments = [str(part) for part in command]
        if user is not None:
            arguments = user.command(arguments)
        # O_APPEND: the file can be cut back while the program writes to it.
        with log_path.open("ab") as log:
            log_start = log.tell()
            try:
                process = subprocess.Popen(  # noqa: S603 - no shell, commands are ours
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    process_group=self._watchdog.pid,
                )
            except OSError as problem:
                raise ProcessFailed(f"{name} could not be started: {problem}") from problem
        child = Child(name=name, process=process, log_path=log_path, log_start=log_start)
        self._children = [*self.running(), child]
        return child


async def until_ready(
    child: Child, probe: Callable[[], Awaitable[bool]], *, deadline: float, interval: float = 0.03
) -> float:
    """Wait until `await probe()` is true; returns the seconds it took.

    Raises `ProcessFailed` if the child ends first or `deadline` seconds pass.
    """
    started = time.monotonic()
    while True:
        if child.returncode is not None:
            raise child.ended()
        if await probe():
            return time.monotonic() - started
        if time.monotonic() - started > deadline:
            raise ProcessFailed(
                f"{child.name} was not ready within {deadline:g} s; its last words: "
                f"{child.last_words()} (log: {child.log_path})"
            )
        await asyncio.sleep(interval)
