"""What the autoscaler remembers of a pool between two looks at it, as it stands in its status.

Everything is here and nothing in the process, so a restart forgets nothing. Times are Unix seconds,
NaN never occurs, and `to_status` and `from_status` are inverse; a status that cannot be read is as
none (its owner may have edited it).

The recommendations of the last five minutes are kept as maxima of buckets of ten seconds: some
thirty pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

BUCKET = 10.0
DOWN_WINDOW = 300.0

Window = tuple[tuple[float, int], ...]


def remember(window: Window, now: float, replicas: int) -> Window:
    """The window with one more recommendation, and without what has left it entirely."""
    bucket = math.floor(now / BUCKET) * BUCKET
    kept = [(start, most) for start, most in window if start + BUCKET > now - DOWN_WINDOW]
    if kept and kept[-1][0] == bucket:
        kept[-1] = (bucket, max(kept[-1][1], replicas))
    else:
        kept.append((bucket, replicas))
    return tuple(kept)


def most(window: Window) -> int:
    return max((replicas for _, replicas in window), default=0)


@dataclass(slots=True, kw_only=True)
class State:
    """0 means never, or none, for every time and count. A decision makes a new one."""

    replicas: int = -1
    """What the Deployment has to have if nobody else changed it; -1: not known."""
    wanted: int = -1
    """What the pool would have if it were scaled; differs where it is only observed or paused."""
    window: Window = ()
    covered_since: float = 0.0
    """Since when recommendations were made without a gap."""
    good_at: float = 0.0
    good_since: float = 0.0
    bad_since: float = 0.0
    bad_looks: int = 0
    """In a row."""
    panic_until: float = 0.0
    jump_seen: bool = False
    """The last look wanted more than one step may give."""
    service: float = 0.0
    """Seconds of an execution; 0: not known."""
    service_at: float = 0.0
    ready: int = 0
    settling_until: float = 0.0
    slow_looks: int = 0
    queued: float = 0.0
    written_at: float = 0.0
    lowered_at: float = 0.0
    override_until: float = 0.0
    floor: int = 0
    floor_until: float = 0.0
    idle_since: float = 0.0
    unready_since: float = 0.0
    told: tuple[str, ...] = field(default=())
    """Of what lasts and was already told as an event."""

    def to_status(self) -> dict[str, Any]:
        """Only what differs from the default, so that a quiet pool has a small status."""
        return {
            each.name: [list(pair) for pair in value] if each.name == "window" else _plain(value)
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }


_DEFAULTS = {each.name: each.default for each in fields(State)}
# What changes with every look and is no reason to write a status by itself.
_RESTLESS = frozenset(
    {"window", "good_at", "service_at", "queued", "ready", "service", "panic_until"}
)


def worth_saving(saved: Mapping[str, Any], state: State, *, since: float) -> bool:
    """Whether the state has to go to the status now; `saved` went there `since` seconds ago.

    What is lost otherwise is half a minute of recommendations, and a restart enters what runs as
    one anyway. So hundreds of quiet pools cost the API server little.
    """
    fresh = state.to_status()
    return since >= 30.0 or any(
        saved.get(name) != fresh.get(name) for name in {*saved, *fresh} - _RESTLESS
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_status(status: Mapping[str, Any] | None) -> State | None:
    """None where there is no state, or none that can be read."""
    if not status:
        return None
    found: dict[str, Any] = {}
    try:
        for name, default in _DEFAULTS.items():
            if name not in status:
                continue
            value = status[name]
            if name == "window":
                value = tuple((_finite(start), int(replicas)) for start, replicas in value)
            elif name == "told":
                value = tuple(str(one) for one in value)
            elif isinstance(default, bool | int):
                value = type(default)(value)
            else:
                value = _finite(value)
            found[name] = value
    except (TypeError, ValueError, OverflowError):
        return None
    return State(**found)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a time")
    return number


def resume(state: State | None, *, replicas: int, now: float) -> State:
    """What a process that has just started goes on from.

    What runs is entered as a recommendation of this moment, whatever was remembered: a restart
    cannot lower a pool for the length of the window.
    """
    state = state or State(replicas=replicas, wanted=replicas, covered_since=now)
    return replace(state, window=remember(state.window, now, max(replicas, state.wanted)))
