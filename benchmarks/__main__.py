"""`python -m benchmarks [--only NAME …]`: measures, prints a row each, keeps them as JSON.

Exits 0 whatever the figures are, 1 when something could not be measured. A measurement that breaks
is a row that says why; the others go on.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from benchmarks import rows
from benchmarks.lab import Lab
from benchmarks.measurements import calls, overhead
from benchmarks.rows import Row

Measurement = Callable[[Lab], AsyncIterator[Row]]

MEASUREMENTS: dict[str, Measurement] = {
    "echo": calls.echo,
    "overhead": overhead.overhead,
}
# None takes longer on a machine that is not overloaded.
_SECONDS = 90.0
_RESULTS = Path(__file__).parent / "results"


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
    console = Console()
    begun = time.monotonic()
    with Live(rows.table([]), console=console) as live:
        done = asyncio.run(measure(names, lambda rows_: live.update(rows.table(rows_))))
    path = rows.write(done, _RESULTS, seconds=time.monotonic() - begun)
    console.print(f"{path}", style="dim")
    return 1 if any(row.broken for row in done) else 0


if __name__ == "__main__":
    sys.exit(main())
