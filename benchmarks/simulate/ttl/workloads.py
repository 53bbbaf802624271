"""The workloads: four namespaces that change slowly and fast, and what may happen to one of them.

In `mixed` (W1) the four together: prices that change every minute and cost much when they are
stale, weather, searches that are slow to repeat, documents that hardly change. In the middle other
keys become popular; for an hour the weather changes eight times as often, and in the last hour
prices change ten times less. In `stationary` (W2) nothing of that happens and popularity is spread
differently from namespace to namespace. The others stress one thing each.
"""

import math
from dataclasses import replace

from benchmarks.simulate.ttl.trace import HOUR, Namespace, Tempo

SECONDS = 4 * HOUR
STALE_SHARE = 0.05
LOWEST, HIGHEST = 5.0, 20480.0
START = 40.0
"""What the policies say before anything is known: as if all were of class `live`."""
STEP, END = 2 * HOUR, 3 * HOUR

PRICE = Namespace(name="price", change_rate=1 / 60, miss_cost=0.5, stale_cost=5.0)
WEATHER = Namespace(name="weather", change_rate=1 / 900, miss_cost=1.0, stale_cost=2.0)
SEARCH = Namespace(name="search", change_rate=1 / 14400, miss_cost=3.0, stale_cost=3.0)
DOCS = Namespace(name="docs", change_rate=1 / 604800, miss_cost=2.0, stale_cost=10.0)


def mixed() -> list[Namespace]:
    """W1, which has W4's steps of the change rate in it."""
    faster = Tempo(((0.0, 1.0), (STEP, 8.0), (END, 1.0)))
    slower = Tempo(((0.0, 1.0), (END, 0.1)))
    return [
        replace(PRICE, shifts=(STEP,), tempo=slower),
        replace(WEATHER, shifts=(STEP,), tempo=faster),
        replace(SEARCH, shifts=(STEP,)),
        replace(DOCS, shifts=(STEP,)),
    ]


def stationary() -> list[Namespace]:
    """W2."""
    return [
        replace(PRICE, zipf=0.9),
        replace(WEATHER, zipf=0.7),
        replace(SEARCH, zipf=1.1),
        replace(DOCS, zipf=0.9),
    ]


def strained() -> dict[str, Namespace]:
    """One namespace each, by what happens to it."""
    return {
        "flash crowd": replace(WEATHER, name="crowd", load=_crowd, peak=3.0, keys=1000, zipf=1.1),
        "half one-hit scans": replace(WEATHER, name="scans", once=0.5),
        "day and night": replace(SEARCH, name="tides", load=_tides, peak=1.8),
        "misses ten times dearer": replace(
            WEATHER, name="dearer", cost_steps=((0.0, 1.0), (STEP, 10.0))
        ),
        "very unequal keys": replace(WEATHER, name="unequal", spread=2.0),
        "memory cut to a quarter": replace(
            SEARCH, name="squeeze", memory=((0.0, 8e6), (STEP, 2e6)), entry_bytes=2048.0
        ),
    }


def _crowd(time: float) -> float:
    """Three times as many for twenty minutes."""
    return 3.0 if STEP <= time < STEP + 1200.0 else 1.0


def _tides(time: float) -> float:
    """A day of four hours."""
    return 1.0 + 0.8 * math.sin(2.0 * math.pi * time / SECONDS)
