"""The example servers that the `mcp` package has in its source and not in its wheel.

pip fetches the source of the version that is locked, by the hashes of the lock, from wherever pip
fetches here; it is unpacked once and kept. PEREGRINE_TEST_MCP_EXAMPLES names a folder to use
instead.
"""

import fcntl
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VARIABLE = "PEREGRINE_TEST_MCP_EXAMPLES"
LOCK = Path(__file__).parents[2] / "requirements.lock"
_SECONDS = 75.0


class NotThere(Exception):
    """Why there are no examples here."""


def folder(kept_in: Path) -> Path:
    """The folder `examples` of the package's source, fetched when it is not there.

    Raises:
      NotThere: it could not be fetched, or the installed package is not the locked one.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given)
    pin, version = _pin()
    if importlib.metadata.version("mcp") != version:
        raise NotThere(f"the mcp that is installed is not {version}, which is locked")
    found = kept_in / f"mcp-{version}" / "examples"
    with (kept_in / "lock").open("w") as lock:
        # Several processes may run the suite at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.is_dir():
            _fetch(pin, version, kept_in)
    if not found.is_dir():
        raise NotThere(f"the source of mcp {version} has no examples")
    return found


def _pin() -> tuple[str, str]:
    """The line of the lock, and its version."""
    line = re.search(r"^mcp==(\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", LOCK.read_text(), re.M)
    if line is None:
        raise NotThere("the lock has no mcp")
    return line[0], line[1]


def _fetch(pin: str, version: str, kept_in: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept_in) as name:
        directory = Path(name)
        (directory / "pin").write_text(pin)
        command = (
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"),
            *("--no-binary", "mcp", "--require-hashes", "--retries", "1", "--timeout", "15"),
            *("--disable-pip-version-check", "-r", "pin"),
        )
        try:
            ended = subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotThere(f"pip did not fetch the source of mcp in {_SECONDS:g} s") from None
        archive = directory / f"mcp-{version}.tar.gz"
        if ended.returncode or not archive.is_file():
            said = (ended.stderr or ended.stdout).strip().splitlines()
            why = said[-1] if said else f"exit code {ended.returncode}"
            raise NotThere(f"pip could not fetch the source of mcp: {why[:200]}")
        with tarfile.open(archive) as packed:
            if hasattr(tarfile, "data_filter"):
                packed.extraction_filter = tarfile.data_filter
            packed.extractall(directory)
        (directory / f"mcp-{version}").rename(kept_in / f"mcp-{version}")
