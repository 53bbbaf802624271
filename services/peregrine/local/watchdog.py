"""Ends a process group when the process that owns it is gone, however that one ended.

Idea: the owner holds the only write end of a pipe whose read end is this program's standard input.
Whatever ends the owner, SIGKILL included, closes the write end. This program leads the process
group that all the owner's children are started into, so end-of-file here means "stop that group":
SIGTERM, time to finish, SIGKILL. A child that is being forked at that very moment still holds a
copy of the write end until its exec, and by then it is in the group: nothing escapes.

It works on Linux and macOS, and it is run as a file by a bare interpreter (`python -I -S`), so it
imports nothing but the standard library. One byte on the pipe says "all my children have ended".
It also keeps open whatever descriptors it was given (the lock of the state directory), so that the
directory counts as in use until the last child is gone.
"""

import os
import signal
import sys
import time

_POLL_SECONDS = 0.05


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so when only zombies are left
        return False
    return not sys.platform.startswith("linux") or _has_living_member(group)


def _has_living_member(group: int) -> bool:
    """Linux counts zombies in, and in a container nobody may ever collect them."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # pid (command) state ppid pgrp …; the command may hold anything, even ")"
                state, _, member_of = file.read().rpartition(b")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(member_of) == group and state not in (b"Z", b"X"):
            return True
    return False


def _end_group(group: int, grace_seconds: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        give_up = time.monotonic() + seconds
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            return
        while time.monotonic() < give_up:
            if not _group_exists(group):
                return
            time.sleep(_POLL_SECONDS)


def main() -> None:
    grace_seconds = float(sys.argv[1])
    # A terminal's Ctrl-C and an orderly SIGTERM are the owner's to handle, never this program's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"r")
    os.close(1)
    if os.read(0, 1):
        return
    group = os.getpgrp()
    if os.fork():  # the leader leaves the group, so that an empty group can be seen
        return
    os.setsid()
    _end_group(group, grace_seconds)


if __name__ == "__main__":
    main()
