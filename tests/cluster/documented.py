"""The commands of docs/operations.md, run as they stand there."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.installing import ROOT
from tests.cluster.kubectl import Failed

PAGE = ROOT / "docs" / "operations.md"


def commands(heading: str) -> list[str]:
    """The blocks of shell below a heading, up to the next one."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL) if found else []
    if not blocks:
        raise Failed(f"{PAGE.name} has no commands below {heading!r}")
    return blocks


def follow(
    block: str, *, directory: Path, seconds: float, environ: Mapping[str, str] | None = None
) -> None:
    """Raises Failed when one of the commands fails."""
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=directory,
            env={**os.environ, **(environ or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done within {seconds:g} s:\n{block}") from None
    if done.returncode:
        raise Failed(f"exit {done.returncode} of\n{block}{done.stderr[-2000:]}")
