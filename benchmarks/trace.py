"""The traces that the cache is measured on, made from a seed: the same calls on every machine.

`calls` is what agents ask for: keys by Zipf's law, calls at random times. `with_scans` mixes keys
into it that are asked for once and never again, as a crawler or a batch job does.
"""

import bisect
import itertools
import random
from collections.abc import Iterator

SEED = 20_261_122
KEYS = 20_000
EXPONENT = 1.0
CALLS_PER_SECOND = 5.0
SECONDS = 8 * 3_600.0


def calls(
    *,
    seed: int = SEED,
    keys: int = KEYS,
    exponent: float = EXPONENT,
    rate: float = CALLS_PER_SECOND,
    seconds: float = SECONDS,
) -> Iterator[tuple[float, int]]:
    """Times in seconds, from 0 on, with the key asked for; 0 is the most frequent."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    now = chance.expovariate(rate)
    while now < seconds:
        yield now, bisect.bisect(weights, chance.random() * weights[-1])
        now += chance.expovariate(rate)


def with_scans(share: float, *, seed: int = SEED, count: int = 200_000) -> Iterator[int]:
    """Keys; the given share of them are asked for once only, and are negative."""
    chance = random.Random(seed)
    asked = calls(seed=seed + 1, seconds=float("inf"))
    once = itertools.count(1)
    for _ in range(count):
        yield -next(once) if chance.random() < share else next(asked)[1]
