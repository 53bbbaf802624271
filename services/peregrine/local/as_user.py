"""Runs a program as another user while it can still reach files under root's own directories.

PostgreSQL refuses to be root. Run as root (a container, a fresh virtual machine), Peregrine starts
it as the owner of its data directory instead. Often that user cannot enter the directories above
the program (`/root` is 0700); opening them up for everyone would be rude. So on Linux the one
capability CAP_DAC_OVERRIDE, which root has anyway, is kept across the change of user.

Run as a file by a bare interpreter: `python -I -S as_user.py UID GID PROGRAM ARGUMENT...`.
"""

import ctypes
import os
import sys

_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _become_keeping_file_access(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    _become(uid, gid)
    bit = 1 << _CAP_DAC_OVERRIDE
    # Version 3 has two words of 32 capabilities; this one is in the first. Where the capability is
    # missing (a hardened container) this fails and the program runs without it, as it may well do.
    words = (_Data * 2)(_Data(bit, bit, bit), _Data(0, 0, 0))
    if libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), words) == 0:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


def main() -> None:
    uid, gid, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        _become_keeping_file_access(uid, gid)
    else:
        _become(uid, gid)
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as problem:
        sys.exit(f"user {uid} may not run {command[0]}: {problem.strerror}")


if __name__ == "__main__":
    main()
