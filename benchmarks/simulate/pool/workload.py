"""What is asked of a pool: calls with their times of arrival and how long each takes to execute.

Drawn once for a seed and given to every contestant, so that they are compared on the same calls.
Arrivals are a Poisson process whose rate may change every second; executions are lognormal with a
mean of half a second and a squared coefficient of variation of 0.82, as tools that call out are.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

MEAN_SERVICE = 0.5
_SIGMA = math.sqrt(math.log(1.82))

Rate = Callable[[float], float]
"""Calls per second at a time."""


@dataclass(frozen=True, slots=True)
class Workload:
    arrivals: list[float]
    services: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A rate over time, and for how long."""

    name: str
    seconds: float
    rate: Rate = field(compare=False)
    service: Rate = field(compare=False, default=lambda _: MEAN_SERVICE)
    tail: float = 0.0
    """The exponent of a Pareto distribution to draw executions from; 0: lognormal."""


def draw(trace: Trace, seed: int) -> Workload:
    chance = random.Random(f"{trace.name}/{seed}")
    arrivals: list[float] = []
    services: list[float] = []
    for second in range(math.ceil(trace.seconds)):
        rate = trace.rate(second)
        if rate <= 0:
            continue
        mean = trace.service(second)
        mu = math.log(mean) - _SIGMA**2 / 2
        # Memoryless, so every second may begin anew with its own rate.
        moment = second + chance.expovariate(rate)
        while moment < second + 1:
            arrivals.append(moment)
            if trace.tail:
                least = mean * (trace.tail - 1) / trace.tail
                services.append(least * chance.paretovariate(trace.tail))
            else:
                services.append(math.exp(mu + _SIGMA * chance.gauss(0.0, 1.0)))
            moment += chance.expovariate(rate)
    return Workload(arrivals, services)


STEP_AT, STEP_END = 900.0, 2700.0


def _step(time: float) -> float:
    return 160.0 if STEP_AT <= time < STEP_END else 16.0


STEP = Trace(name="step", seconds=4500, rate=_step)
CONSTANT = Trace(name="constant", seconds=7200, rate=lambda _: 100.0)
SQUARE = Trace(
    name="square", seconds=7200, rate=lambda time: 200.0 if int(time // 240) % 2 else 40.0
)
SINE = Trace(
    name="sine",
    seconds=7200,
    rate=lambda time: 110.0 - 90.0 * math.cos(2 * math.pi * time / 3600),
)
BUSY = Trace(name="busy", seconds=2700, rate=lambda _: 160.0)
