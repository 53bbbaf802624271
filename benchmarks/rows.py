"""Rows: one figure each, with the bound that it has to keep, and how they are shown and kept."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

_LIBRARIES = ("grpcio", "protobuf", "asyncpg", "redis", "anthropic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a value has to keep; both ends included."""

    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value: float) -> bool:
        return not (
            (self.at_most is not None and value > self.at_most)
            or (self.at_least is not None and value < self.at_least)
        )

    def __str__(self) -> str:
        ends = (("≤", self.at_most), ("≥", self.at_least))
        return " ".join(f"{sign} {end:g}" for sign, end in ends if end is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. Without a bound it only informs; `broken` says why there is no value."""

    name: str
    value: float | None = None
    unit: str = ""
    bound: Bound | None = None
    broken: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the JSON only."""

    @property
    def holds(self) -> bool | None:
        """None: there is nothing to hold."""
        if self.broken:
            return False
        if self.bound is None or self.value is None:
            return None
        return self.bound.holds(self.value)

    @property
    def verdict(self) -> str:
        if self.broken:
            return "broken"
        return {True: "holds", False: "short", None: ""}[self.holds]

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "bound": asdict(self.bound) if self.bound else None,
            "verdict": self.verdict,
            "reason": self.broken,
            "detail": dict(self.detail),
        }


_STYLES = {"holds": "green", "short": "yellow", "broken": "red", "": "dim"}


def table(rows: Sequence[Row]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("measured", "value", "bound", ""):
        shown.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        value = "" if row.value is None else f"{short(row.value)} {row.unit}"
        note = f"broken: {row.broken}" if row.broken else row.verdict
        shown.add_row(row.name, value, str(row.bound or ""), note, style=_STYLES[row.verdict])
    return shown


def short(value: float) -> str:
    """Three digits that mean something, or all of a larger whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(rows: Sequence[Row], directory: Path, *, seconds: float, prefix: str = "") -> Path:
    """Keeps the rows with the facts of the machine. Returns the new file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (prefix + time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime()))
    result = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "commit": _commit(),
        "machine": machine(),
        "rows": [row.describe() for row in rows],
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What one has to know of a machine to compare figures; nothing that names it."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that at least `percent` of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> dict[str, float]:
    """The shape of a sample, for the JSON."""
    return {
        "count": len(values),
        "min": min(values),
        "p50": percentile(values, 50),
        "p95": percentile(values, 95),
        "p99": percentile(values, 99),
        "max": max(values),
    }
