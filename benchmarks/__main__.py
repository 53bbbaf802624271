"""`python -m benchmarks [--only NAME …]`: measures, prints a row each, keeps them as JSON.

Exits 0 whatever the figures are, 1 when something could not be measured. A measurement that breaks
is a row that says why; the others go on.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable

import structlog
from rich.console import Console
from rich.live import Live

from benchmarks import rows
from benchmarks.lab import Lab
from benchmarks.measurements import (
    cache,
    cache_feed,
    cache_outage,
    calls,
    crowd,
    eager,
    gateway,
    identity,
    logs,
    overhead,
    readers,
    start,
    takeover,
    tools,
)
from benchmarks.rows import Row
from benchmarks.stack import REPOSITORY

Measurement = Callable[[Lab], AsyncIterator[Row]]

MEASUREMENTS: dict[str, Measurement] = {
    "echo": calls.echo,
    "overhead": overhead.overhead,
    "identity": identity.identities,
    "gateway": gateway.gateway,
    "eager": eager.eager,
    "log": logs.logs,
    "cache": cache.cache,
    "feed": cache_feed.feed,
    "outage": cache_outage.outages,
    "tools": tools.tools,
    "crowd": crowd.crowd,
    "readers": readers.readers,
    "start": start.start,
    "takeover": takeover.takeover,
}
# None takes longer on a machine that is not overloaded.
_SECONDS = 90.0
_RESULTS = REPOSITORY / "benchmarks" / "results"
# Columns where there is no terminal to ask.
_WIDTH = 120


async def measure(names: list[str], show: Callable[[list[Row]], None]) -> list[Row]:
    """All rows of the named measurements, in the order in which they are listed here."""
    done: list[Row] = []
    async with Lab() as lab:
        for name in names:
            try:
                async with asyncio.timeout(_SECONDS):
                    async for row in MEASUREMENTS[name](lab):
                        done.append(row)
                        show(done)
            # Whatever broke it is the row; a benchmark has nobody else to tell.
            except Exception as error:
                done.append(Row(name=name, broken=f"{type(error).__name__}: {error}"[:300]))
                show(done)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), default=[])
    only = parser.parse_args().only
    names = [name for name in MEASUREMENTS if not only or name in only]
    # What the parts used in this process have to say would stand between the rows.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console()
    begun = time.monotonic()
    if console.is_terminal:
        with Live(rows.table([]), console=console, transient=True) as live:
            done = asyncio.run(measure(names, lambda done: live.update(rows.table(done))))
    else:
        console.width = _WIDTH
        done = asyncio.run(measure(names, lambda _: None))
    console.print(rows.table(done))
    path = rows.write(done, _RESULTS, seconds=time.monotonic() - begun)
    console.print(f"{path.relative_to(REPOSITORY)}", style="dim")
    return 1 if any(row.broken for row in done) else 0


if __name__ == "__main__":
    sys.exit(main())
