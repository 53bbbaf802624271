"""`python -m benchmarks.simulate [--only NAME …] [--seeds N]`: simulates and prints.

A row for each claim, with its bound and whether it holds in the worst of the seeds, then the tables
of all contestants. JSON goes to `benchmarks/results/`, plots to `docs/images/`. Exits 0 whatever
the figures are, 1 when something broke.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, RenderableType

from benchmarks import rows
from benchmarks.rows import Row
from benchmarks.simulate.experiment import Experiment
from benchmarks.simulate.pool import claims as pool
from benchmarks.simulate.ttl import study as ttl

# What is yielded besides rows is a table, shown as it comes.
Simulation = Callable[[Experiment], Iterator[Row | RenderableType]]

SIMULATIONS: dict[str, Simulation] = {
    "pool": pool.rows,
    "ttl": ttl.rows,
}
SEEDS = 10
_REPOSITORY = Path(__file__).resolve().parents[2]
_RESULTS = _REPOSITORY / "benchmarks" / "results"
_IMAGES = _REPOSITORY / "docs" / "images"
# Columns where there is no terminal to ask.
_WIDTH = 130


def simulate(names: list[str], experiment: Experiment, console: Console) -> list[Row]:
    """All rows of the named simulations; one that breaks is a row, and the others go on."""
    done: list[Row] = []
    for name in names:
        found: list[Row] = []
        try:
            for result in SIMULATIONS[name](experiment):
                if isinstance(result, Row):
                    found.append(result)
                else:
                    console.print(result)
        # Whatever broke it is the row; a simulation has nobody else to tell.
        except Exception as error:
            found.append(Row(name=name, broken=f"{type(error).__name__}: {error}"[:300]))
            console.print_exception()
        console.print(rows.table(found))
        done += found
    return done


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.simulate", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SIMULATIONS), default=[])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many (1, 2, …)")
    parser.add_argument("--processes", type=int, default=None, help="default: one per core")
    parser.add_argument("--no-plots", action="store_true")
    given = parser.parse_args()
    names = [name for name in SIMULATIONS if not given.only or name in given.only]
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    begun = time.monotonic()
    images = None if given.no_plots else _IMAGES
    with Experiment.begin(
        seeds=max(given.seeds, 1), images=images, processes=given.processes
    ) as experiment:
        done = simulate(names, experiment, console)
    seconds = time.monotonic() - begun
    path = rows.write(done, _RESULTS, seconds=seconds, prefix="simulate-")
    short = sum(row.verdict == "short" for row in done)
    console.print(f"{len(done)} rows, {short} short, in {seconds:.0f} s", style="dim")
    console.print(f"{path.relative_to(_REPOSITORY)}", style="dim")
    return 1 if any(row.broken for row in done) else 0


if __name__ == "__main__":
    sys.exit(main())
