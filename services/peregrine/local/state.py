"""The state directory: who holds it, and its logs kept to a size.

One Peregrine runs on a state directory at a time. The holder has an advisory lock (flock) on
`lock`, and shares it with the watchdog: the kernel lets go when the last of the two is gone, so a
directory is never held by the dead, and is held until the children of a killed holder have ended.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from peregrine.local.processes import ProcessFailed

MAX_LOG_BYTES = 8 * 1024 * 1024

_WAIT_SECONDS = 30.0


@contextlib.asynccontextmanager
async def hold(directory: Path) -> AsyncIterator[int]:
    """Hold the directory (made if missing) and give the descriptor of its lock.

    Raises `ProcessFailed` in one line: not writable, or another Peregrine holds it. When that one
    was killed and is being cleaned up after, waits for it.
    """
    descriptor = _open(directory)
    try:
        await _lock(descriptor, directory)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(directory: Path) -> int:
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise ProcessFailed(
            f"the state directory {directory} cannot be written ({problem.strerror}):"
            " make it writable, or name another one with PEREGRINE_STATE_DIR"
        ) from problem
    return descriptor


async def _lock(descriptor: int, directory: Path) -> None:
    give_up = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(descriptor)
        if holder is not None or time.monotonic() > give_up:
            who = f"process {holder}" if holder else "a process that was killed"
            raise ProcessFailed(
                f"another Peregrine ({who}) runs on the state directory {directory}:"
                " stop it, or name another directory with PEREGRINE_STATE_DIR"
            )
        await asyncio.sleep(0.1)


def _holder(descriptor: int) -> int | None:
    """The process that wrote its number into the lock, if it lives."""
    try:
        pid = int(os.pread(descriptor, 32, 0))
        os.kill(pid, 0)
    except (ValueError, ProcessLookupError):
        return None
    except PermissionError:
        pass  # it lives, and is somebody else's
    return pid


def bound_logs(directory: Path, *, limit: int = MAX_LOG_BYTES) -> None:
    """Cut back each log that passed `limit` bytes; its last part stays beside it as `NAME.log.1`.

    Programs append to their log, so cutting it under them is safe. A line that is written while it
    is being cut can be lost.
    """
    for log in directory.glob("*.log"):
        if log.stat().st_size <= limit:
            continue
        with log.open("rb") as source:
            source.seek(-limit // 2, os.SEEK_END)
            source.readline()
            log.with_suffix(".log.1").write_bytes(source.read())
        os.truncate(log, 0)
