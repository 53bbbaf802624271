"""What to do after a model call failed: try again, try another model, or give up. Pure.

Delays are exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"),
never shorter than what the provider asked for. A delay that would not leave time for an answer is
not waited for: another model, if the caller named one, is worth more.
"""

from dataclasses import dataclass
from typing import TypeAlias

from peregrine.kit.errors import PeregrineError

FIRST_DELAY = 0.25
MAX_BACKOFF = 8.0

# Overloaded, away, or refused for a rate: what passes. The rest would fail the same way again.
PASSING = frozenset({"MODEL_OVERLOADED", "MODEL_UNREACHABLE", "MODEL_RATE_LIMITED"})


@dataclass(frozen=True, slots=True)
class Again:
    """The same model, after `delay` seconds. Costs one retry of the run's budget."""

    delay: float


@dataclass(frozen=True, slots=True)
class NextModel:
    """The next model of the caller's list, at once."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The error is the answer."""


Decision: TypeAlias = Again | NextModel | GiveUp


def decide(
    error: PeregrineError,
    *,
    attempt: int,
    retries_left: int,
    models_left: int,
    time_left: float | None,
    longest_wait: float,
    chance: float,
) -> Decision:
    """Decides after the `attempt`-th (from 1) failed call to one model.

    Args:
      time_left: seconds until the caller stops waiting; None without a deadline.
      longest_wait: seconds beyond which a wait is the caller's to decide, not ours.
      chance: uniform in [0, 1), the jitter.
    """
    if error.reason not in PASSING:
        return GiveUp()
    # Jitter on top of what the provider asked for, or all that it sent away return together.
    delay = chance * min(FIRST_DELAY * 2 ** min(attempt - 1, 16), MAX_BACKOFF)
    delay += error.retry_after or 0.0
    waits = delay <= longest_wait and (time_left is None or delay < time_left / 2)
    if retries_left > 0 and waits:
        return Again(delay)
    return NextModel() if models_left > 0 else GiveUp()
