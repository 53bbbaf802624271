"""How many workers a load needs: offered load by Little's law, with room for its fluctuation.

Calls that arrive at a rate `demand` and take `service` seconds each keep `demand * service` slots
busy on average (Little 1961): the offered load, in slots. It does not depend on how many workers
there are or how busy they look, so it is right at once when a pool is far too small, where every
measure of utilisation saturates. To it comes what empties the queue within the profile's time, up
to a cap. Slots are held for a utilisation of `RHO`, and for small pools for a multiple of the
square root of the load (Halfin and Whitt 1981: the spread of a Poisson load grows as its root).
"""

import math
from dataclasses import dataclass

RHO = 0.80
BETA = 1.0
USUAL_QUEUE = 0.25
"""Calls per slot that wait at any moment in a pool of the right size."""
LONG_SERVICE = 60.0
"""Above it completions lag too far behind, and what is in flight counts too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How eagerly a queue is emptied; all else is the same."""

    fast: int
    """Seconds of the window that sees a step."""
    drain_target: float
    """Seconds in which what waits is to be worked off."""
    drain_cap: float
    """At most this part of the load on top, for the queue."""


PROFILES = {
    "balanced": Profile(fast=15, drain_target=45.0, drain_cap=0.5),
    "latency": Profile(fast=10, drain_target=10.0, drain_cap=1.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of a pool: calls per second, seconds each, calls in the queue and running."""

    demand: float
    service: float
    queued: float = 0.0
    inflight: float = 0.0

    @property
    def offered(self) -> float:
        """Busy slots on average."""
        steady = self.demand * self.service
        return max(steady, self.inflight) if self.service > LONG_SERVICE else steady


def drain(load: Load, *, profile: Profile, concurrency: int, ready: int) -> float:
    """Slots on top that empty the queue within the profile's time."""
    waiting = max(0.0, load.queued - USUAL_QUEUE * concurrency * ready)
    return min(waiting / profile.drain_target * load.service, profile.drain_cap * load.offered)


def replicas(offered: float, *, concurrency: int) -> int:
    """Workers of `concurrency` slots each for so many busy slots."""
    slots = max(offered / RHO, offered + BETA * math.sqrt(offered))
    # What only rounding put above a whole number does not take another worker.
    return math.ceil(slots / concurrency - 1e-9)
