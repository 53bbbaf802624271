"""The vocabulary of a scaling decision: what a pool is, what is seen of it, what is decided.

Values only; `autoscale` decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from peregrine_operator.pool_state import State
from peregrine_operator.sizing import PROFILES, Profile

PREFIX = "peregrine.dev/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What the owner of a ToolPool wants."""

    least: int = 2
    most: int
    concurrency: int
    """Executions that one worker runs at the same time."""
    wait_objective: float = 0.25
    """Seconds that 95 of 100 calls may wait at most."""
    profile: Literal["balanced", "latency"] = "balanced"
    mode: Literal["Observe", "Direct"] = "Observe"
    scale_to_zero: bool = False
    expected_service: float = 1.0
    """Seconds of an execution, until enough were measured."""
    fallback: int = 0
    """At least so many when signals have been missing for two minutes; never lowers."""

    def __post_init__(self) -> None:
        if not (0 <= self.least <= self.most and self.most >= 1 and self.concurrency >= 1):
            raise ValueError("0 <= least <= most, 1 <= most and 1 <= concurrency must hold")

    @property
    def tuning(self) -> Profile:
        return PROFILES[self.profile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What annotations on the ToolPool stop. Without them everything is as before."""

    everything: bool = False
    replicas: int | None = None
    scale_in: bool = False
    scale_out: bool = False
    problem: str = ""

    @classmethod
    def of(cls, annotations: Mapping[str, str]) -> Self:
        """`paused`, `paused-scale-in`, `paused-scale-out`: anything but "false" pauses, because
        who wrote it meant something by it. `paused-replicas` is a number; if not, all pauses."""
        found = {
            name: annotations[PREFIX + name].strip().lower() not in {"false", "0", "no"}
            for name in ("paused", "paused-scale-in", "paused-scale-out")
            if PREFIX + name in annotations
        }
        text = annotations.get(PREFIX + "paused-replicas")
        number, problem = None, ""
        if text is not None:
            if text.strip().isdecimal() and len(text.strip()) <= 6:
                number = int(text)
            else:
                problem = f"{PREFIX}paused-replicas is not a number of replicas"
        return cls(
            everything=found.get("paused", False) or bool(problem),
            replicas=number,
            scale_in=found.get("paused-scale-in", False),
            scale_out=found.get("paused-scale-out", False),
            problem=problem,
        )

    @property
    def stops(self) -> bool:
        return self.everything or self.replicas is not None

    @property
    def words(self) -> str:
        """What is not done, and what to take away to have it done again; empty: nothing."""
        if self.problem:
            return f"{self.problem}: nothing is written"
        if self.everything:
            return f"nothing is written while spec.pause or {PREFIX}paused is true"
        if self.replicas is not None:
            return f"held at {self.replicas} while {PREFIX}paused-replicas is there"
        stopped = [
            f"nothing is {what} while {PREFIX}{name} is true"
            for name, what, paused in (
                ("paused-scale-in", "taken away", self.scale_in),
                ("paused-scale-out", "added", self.scale_out),
            )
            if paused
        ]
        return "; ".join(stopped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the API server says of the Deployment and its pods, at this moment."""

    replicas: int
    """`spec.replicas` of its scale."""
    ready: int
    """Pods that are ready and not terminating."""
    draining: int = 0
    """Pods that are terminating."""
    pending_since: float | None = None
    """Unix seconds: the oldest pod that has no node yet; None: there is no such pod."""
    conflict: str = ""
    """Names the HorizontalPodAutoscaler or ScaledObject that has the same target."""
    pause: Pause = field(default_factory=Pause)


@dataclass(frozen=True, slots=True)
class Condition:
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`state` replaces the former one unless `write` was to be written and could not be: then the
    former one stays, and the next look decides again from what it finds."""

    desired: int
    """What the pool should have, whoever scales it."""
    write: int | None
    """To write to the scale subresource now."""
    reason: str
    message: str
    hold: str = ""
    """Why nothing could be done that might have been; lower case, for a label."""
    state: State
    conditions: Mapping[str, Condition]
    events: tuple[Event, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    """What it was decided from, for the status and for people."""
