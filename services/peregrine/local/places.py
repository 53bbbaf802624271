"""Where the embedded servers find their programs, and put their files and sockets."""

import contextlib
import hashlib
import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peregrine.local.processes import ProcessFailed, User

_MAX_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


def package_directory(package: str) -> Path:
    # Located, not imported: importing these packages sets up their own launchers.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ProcessFailed(f"the embedded server ({package}) is not installed")
    return Path(spec.submodule_search_locations[0])


def absolute(directory: Path) -> Path:
    return directory.absolute()


def make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


@contextlib.contextmanager
def socket_directory(directory: Path, name: str, *, user: User | None = None) -> Iterator[Path]:
    """`directory` itself if a socket path in it is short enough, else a short one, removed after.

    The short one is named after the directory, so that a crash leaves it to be used again.
    """
    if len(os.fsencode(directory / name)) < _MAX_SOCKET_PATH:
        yield directory
        return
    mark = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    roots = [root for root in (tempfile.gettempdir(), "/tmp") if len(os.fsencode(root)) < 50]  # noqa: S108
    short = Path(roots[0]) / f"peregrine-{mark}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    # Somebody else could have made it first, to be the server that we talk to.
    if status.st_uid not in {os.geteuid(), user.uid if user else os.geteuid()}:
        raise ProcessFailed(f"{short} belongs to another user; remove it or set TMPDIR")
    if user is not None:
        os.chown(short, user.uid, user.gid, follow_symlinks=False)
    try:
        yield short
    finally:
        remove_tree(short)


def remove_tree(top: Path) -> None:
    for path in sorted(top.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    top.rmdir()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
