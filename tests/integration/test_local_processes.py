"""Children end with their owner, their last words are kept, and a directory has one holder."""

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from peregrine.local import state
from peregrine.local.processes import Child, Children, ProcessFailed, until_ready
from tests.support.eventually import eventually

# An owner that starts two children, one of which does not care for SIGTERM, and then only waits.
OWNER = """
import asyncio, sys
from pathlib import Path
from peregrine.local.processes import Children
async def main():
    async with Children(grace=0.3) as children:
        log = Path(sys.argv[1])
        sleeper = "import time; time.sleep(600)"
        deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        pids = [
            children.spawn("x", [sys.executable, "-c", program], log_path=log).pid
            for program in (sleeper, deaf)
        ]
        print(*pids, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_children_of_a_killed_owner_are_ended_even_those_that_ignore_sigterm(
    children: Children, tmp_path: Path
) -> None:
    log = tmp_path / "owner.log"
    command = [sys.executable, "-c", OWNER, tmp_path / "children.log"]
    owner = children.spawn("owner", command, log_path=log)
    pids = [int(pid) for pid in (await eventually(lambda: log.read_text().split()))]
    assert all(alive(pid) for pid in pids)
    await owner.kill()
    await eventually(lambda: not any(alive(pid) for pid in pids))


async def test_leaving_the_context_stops_what_still_runs_also_when_it_is_frozen(
    tmp_path: Path,
) -> None:
    async with Children(grace=0.2) as children:
        child = sleeper(children, tmp_path)
        child.send(signal.SIGSTOP)
        process = psutil.Process(child.pid)
        await eventually(lambda: process.status() == psutil.STATUS_STOPPED)
    assert child.returncode == -signal.SIGKILL
    assert not children.guarded


async def test_the_end_of_a_child_is_told_in_one_line_with_its_most_telling_words(
    children: Children, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("FATAL: of another life\n")
    program = "import sys; print('an error: no luck'); print('bye', flush=True); sys.exit(3)"
    child = children.spawn("thing", [sys.executable, "-c", program], log_path=log)
    with pytest.raises(ProcessFailed) as failed:
        await until_ready(child, never, deadline=10)
    assert str(failed.value) == (
        f"thing ended with exit code 3; its last words: an error: no luck (log: {log})"
    )


async def test_a_child_that_is_not_ready_in_time_is_told_so(
    children: Children, tmp_path: Path
) -> None:
    child = sleeper(children, tmp_path)
    with pytest.raises(ProcessFailed, match=r"sleeper was not ready within 0\.1 s"):
        await until_ready(child, never, deadline=0.1)


async def test_a_program_that_does_not_exist_is_a_clear_failure(
    children: Children, tmp_path: Path
) -> None:
    with pytest.raises(ProcessFailed, match=r"ghost could not be started: .*No such file"):
        children.spawn("ghost", [tmp_path / "ghost"], log_path=tmp_path / "log")


async def test_a_state_directory_has_one_holder_and_is_free_after_it(tmp_path: Path) -> None:
    async with state.hold(tmp_path):
        with pytest.raises(ProcessFailed, match=rf"another Peregrine \(process {os.getpid()}\)"):
            async with state.hold(tmp_path):
                pass
    async with state.hold(tmp_path):
        pass


async def test_a_state_directory_is_held_until_the_children_of_its_killed_holder_ended(
    tmp_path: Path,
) -> None:
    async with state.hold(tmp_path) as lock:
        watchdog = Children(keep_open=[lock])
        watchdog.open()
        # As a killed holder leaves it: its number is nobody's.
        os.pwrite(lock, b"999999999\n", 0)
        os.ftruncate(lock, 10)
    with (tmp_path / "lock").open() as again, pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(hold_and_release(tmp_path))
        await asyncio.sleep(0)
        assert not waiting.done()
        watchdog.close()


async def hold_and_release(directory: Path) -> None:
    async with state.hold(directory):
        pass


def test_logs_are_cut_back_and_their_last_part_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(b"line %d\n" % number)
        state.bound_logs(tmp_path, limit=4000)
        assert log.stat().st_size == 0
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    kept = (tmp_path / "a.log.1").read_text().splitlines()
    assert kept[-1] == "line 999"
    assert kept[0].startswith("line ")
    assert len(kept) < 1000


def sleeper(children: Children, directory: Path) -> Child:
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    return children.spawn("sleeper", program, log_path=directory / "sleeper.log")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def never() -> bool:
    return False
