"""Days in the life of a namespace, and the transcript of what was decided.

The transcripts in `golden/` are what people agreed on as right. After a change of the rule
`python -m tests.autoscaler.ttl_streams` writes them anew; the diff is what has to be explained.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peregrine_operator.ttl import Decision, NoData
from tests.autoscaler.ttl_samples import Tuning

GOLDEN = Path(__file__).parent / "golden"

# (minutes, world) with the world's change of values and so on, or why there is no data.
Phase = tuple[int, dict[str, float] | str]

STREAMS: dict[str, tuple[dict[str, Any], list[Phase]]] = {
    "ttl-learns": (
        {"ttl_": 5.0},
        [(12, {"change_every": 14400.0, "compared_at": 300.0})],
    ),
    "ttl-world-speeds-up-and-slows-down": (
        {"ttl_": 80.0},
        [
            (20, {"change_every": 900.0}),
            (10, {"change_every": 112.0, "compared_at": 80.0}),
            (20, {"change_every": 112.0, "compared_at": 20.0}),
            (40, {"change_every": 900.0, "compared_at": 20.0}),
            (30, {"change_every": 900.0, "compared_at": 80.0}),
        ],
    ),
    "ttl-prometheus-fails": (
        {"ttl_": 1280.0},
        [
            (30, "down: connection refused"),
            (3, {"change_every": 900.0}),
            (1, "empty: no series"),
            (8, {"change_every": 900.0}),
            (30, "down: timeout"),
            (8, {"change_every": 900.0}),
        ],
    ),
    "ttl-observes": (
        {"ttl_": 20.0, "active": False},
        [(4, {"change_every": 900.0}), (4, {"change_every": 20.0, "compared_at": 20.0})],
    ),
    "ttl-memory-runs-short": (
        {"ttl_": 2560.0},
        [
            (10, {"change_every": 1e9, "entry_bytes": 50_000.0, "memory_used": 0.6}),
            (25, {"change_every": 1e9, "entry_bytes": 50_000.0, "memory_used": 0.95}),
            (60, {"change_every": 1e9, "entry_bytes": 50_000.0, "memory_used": 0.6}),
        ],
    ),
}


def transcript(name: str) -> str:
    given, phases = STREAMS[name]
    tuning = Tuning(**given)
    lines, minute, last = [], 0, ""
    for count, world in phases:
        lines.append(f"# {count} min of {_said(world)}")
        for _ in range(count):
            minute += 1
            decision = (
                tuning.tick(NoData(world)) if isinstance(world, str) else tuning.tick(**world)
            )
            if decision.apply or decision.reason != last:
                lines.append(_line(minute, decision))
            last = decision.reason
    return "\n".join(lines) + "\n"


def _said(world: dict[str, float] | str) -> str:
    if isinstance(world, str):
        return world
    return ", ".join(f"{name} {value:g}" for name, value in world.items())


def _line(minute: int, decision: Decision) -> str:
    sign = "=>" if decision.apply else "  "
    return f"{minute:4} {sign} {decision.ttl:6g} {decision.reason:22} {decision.message}"


def golden() -> Iterator[tuple[str, Path]]:
    for name in STREAMS:
        yield name, GOLDEN / f"{name}.txt"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, path in golden():
        path.write_text(transcript(name), encoding="utf-8")
