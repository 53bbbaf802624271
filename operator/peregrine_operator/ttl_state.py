"""What goes into a decision on a time to live, and what comes out of it.

All plain values. A `State` is what a decision remembers for the next one; it goes through JSON into
the status of the resource, and what comes back is equal to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peregrine_operator import evidence
from peregrine_operator.changes import Rate
from peregrine_operator.evidence import Evidence

SETTLED = 5
"""Minutes in a row with data before anything moves after there was none."""


class Reason(StrEnum):
    """Why the time to live is what it is after a decision."""

    LENGTHENED = "Lengthened"
    SHORTENED = "Shortened"
    EMERGENCY = "ShortenedAtOnce"
    ROLLED_BACK = "RolledBack"
    OUT_OF_BOUNDS = "OutOfBounds"
    CHEAPEST = "Cheapest"
    AGREEING = "AwaitsAgreement"
    WAITING = "AwaitsRollbackPause"
    NO_DATA = "HeldNoData"
    SETTLING = "HeldSettling"
    THIN = "HeldTooFewObservations"
    PAUSED = "Paused"
    TOO_EARLY = "TooEarly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the user allows; times in seconds."""

    lowest: float = 5.0
    highest: float = 86400.0
    stale_share: float = 0.05
    """The share of answers that may be older than the truth."""
    stale_cost: float = 5.0
    """A stale answer is as bad as waiting so many seconds."""
    active: bool = False
    """False: only say what would be done (Observe)."""
    paused: bool = False

    @property
    def grid(self) -> tuple[float, ...]:
        """Every time to live that ghosts are needed of."""
        return evidence.grid(self.highest)

    def within(self, ttl: float) -> float:
        return min(max(ttl, self.lowest), self.highest)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a decision remembers for the next one. Times are Unix times in seconds."""

    ttl: float
    time: float = 0.0
    """Of the last tick that was taken in."""
    settled: int = SETTLED
    """Ticks in a row with data."""
    direction: int = 0
    agreed: int = 0
    """Ticks in a row that wanted that direction."""
    shorter: float = 0.0
    """What to go back to while a lengthening is watched, else 0."""
    stale_before: float = 0.0
    watched_until: float = 0.0
    backs_off_until: float = 0.0
    """No lengthening before."""
    last_move: int = 0
    """Its direction."""
    turned: float = 0.0
    """When it was last another than the one before."""
    dearness: float = 1.0
    """A factor on the price of memory."""
    evidence: Evidence = field(default_factory=Evidence)

    def to_status(self) -> dict[str, Any]:
        """JSON; `from_status` makes an equal state of it."""
        return {
            "ttl": self.ttl,
            "time": self.time,
            "settled": self.settled,
            "direction": self.direction,
            "agreed": self.agreed,
            "shorter": self.shorter,
            "staleBefore": self.stale_before,
            "watchedUntil": self.watched_until,
            "backsOffUntil": self.backs_off_until,
            "lastMove": self.last_move,
            "turned": self.turned,
            "dearness": self.dearness,
            "evidence": self.evidence.to_status(),
        }

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> "State":
        """Raises ValueError for what `to_status` did not write."""
        try:
            return cls(
                ttl=float(status["ttl"]),
                time=float(status["time"]),
                settled=int(status["settled"]),
                direction=int(status["direction"]),
                agreed=int(status["agreed"]),
                shorter=float(status["shorter"]),
                stale_before=float(status["staleBefore"]),
                watched_until=float(status["watchedUntil"]),
                backs_off_until=float(status["backsOffUntil"]),
                last_move=int(status["lastMove"]),
                turned=float(status["turned"]),
                dearness=float(status["dearness"]),
                evidence=Evidence.from_status(status["evidence"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a state of tuning: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`ttl` is to be in force when `apply`; without it, what is in force stays."""

    ttl: float
    apply: bool
    reason: Reason
    message: str
    state: State
    proposed: float
    """Where one step would lead; the same as `ttl` unless in Observe."""
    stale_share: float | None = None
    """Upper estimate of the share of stale answers now, when it is known."""
    best: float | None = None
    rate: Rate | None = None
    while_revalidate: float = 0.0
    """How long a stale value may be served while it is fetched again, within the bound."""
