"""How long it takes until a process is of use."""

import os
import sys
import time
from collections.abc import AsyncIterator

from benchmarks.lab import Lab
from benchmarks.rows import Row, median
from benchmarks.stack import REPOSITORY

_STARTS = 3
_SECONDS = 30.0


async def start(lab: Lab) -> AsyncIterator[Row]:
    peregrine = await lab.peregrine()
    taken = []
    for _ in range(_STARTS):
        begun = time.monotonic()
        orchestrator = await peregrine.orchestrator()
        taken.append(time.monotonic() - begun)
        await orchestrator.child.stop(grace=_SECONDS)
    yield Row(
        name="`python -m peregrine orchestrator` until SERVING",
        value=median(taken),
        unit="s",
        detail={"s": taken},
    )
    taken = []
    for _ in range(_STARTS):
        begun = time.monotonic()
        child = lab.children.spawn(
            "help",
            [sys.executable, "-m", "peregrine", "--help"],
            env=os.environ,
            cwd=REPOSITORY,
            log_path=lab.directory / "help.log",
        )
        if await child.wait(_SECONDS) != 0:
            raise child.ended()
        taken.append(time.monotonic() - begun)
    yield Row(name="`peregrine --help`", value=median(taken), unit="s", detail={"s": taken})
