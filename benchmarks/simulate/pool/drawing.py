"""The plots that the documentation shows: replicas and waits over time, of the first seed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.simulate import plots
from benchmarks.simulate.pool.cases import (
    BALANCED,
    BUSY_70,
    FAULT_AT,
    FAULT_END,
    KEDA,
    LATENCY,
    LOAD_70,
    ORACLE,
    RATE_70,
    TUNED,
    Played,
    need,
)
from benchmarks.simulate.pool.figures import OBJECTIVE
from benchmarks.simulate.pool.workload import SINE, STEP_AT, STEP_END

_COLOURS = {
    BALANCED: plots.OURS,
    LATENCY: plots.OURS_TOO,
    LOAD_70: plots.BASELINES[0],
    TUNED: plots.BASELINES[1],
    RATE_70: plots.BASELINES[2],
    BUSY_70: plots.BASELINES[4],
    KEDA: plots.BASELINES[0],
    ORACLE: plots.BASELINES[3],
}
# Waits below this are drawn as this: the axis is logarithmic.
_LEAST_WAIT = 0.001


def draw(played: Mapping[str, Mapping[int, Played]], images: Path, *, seed: int) -> None:
    _step(played["step"][seed], images)
    _sine(played["sine"][seed], images)
    _bad_data({name: found[seed] for name, found in played.items()}, images)


def _step(played: Played, images: Path) -> None:
    path = images / "autoscaling-step.svg"
    names = (BALANCED, LATENCY, LOAD_70, TUNED, RATE_70)
    with plots.figure(
        path,
        panels=3,
        title="A step from 16 to 160 calls a second, and back",
        one_axis=False,
    ) as (close, waits, whole):
        span = (STEP_AT - 20, STEP_AT + 220)
        for name in names:
            found = played[name][0]
            _steps(close, found.replicas, name, span, STEP_AT)
            _lines(waits, found.waits, name, span, STEP_AT)
        close.axhline(need(160), color=plots.NEED, linewidth=0.8, linestyle="--")
        close.set_ylabel("replicas asked for")
        close.set_title("the first minutes")
        close.legend(loc="lower right", ncols=2)
        waits.axhline(OBJECTIVE, color=plots.NEED, linewidth=0.8, linestyle="--")
        waits.set_yscale("log")
        waits.set_ylabel("p95 wait, s")
        waits.set_xlabel("seconds after the step")
        for name in names:
            _steps(whole, played[name][0].replicas, name, (0, STEP_END + 1800), STEP_AT)
        whole.set_title("all of it: the pool is given back in steps of a fifth a minute")
        whole.set_ylabel("replicas asked for")
        whole.set_xlabel("seconds after the step")


def _sine(played: Played, images: Path) -> None:
    with plots.figure(
        images / "autoscaling-sine.svg",
        panels=1,
        title="20 to 200 calls a second and back, every hour",
    ) as (panel,):
        times = [float(second) for second in range(0, int(SINE.seconds), 10)]
        panel.plot(
            times,
            [need(SINE.rate(time)) for time in times],
            color=plots.NEED,
            linewidth=0.8,
            linestyle="--",
            label="needed",
        )
        for name in (BALANCED, LOAD_70):
            _steps(panel, played[name][0].replicas, name, (0, SINE.seconds), 0.0)
        panel.set_ylabel("replicas asked for")
        panel.set_xlabel("seconds")
        panel.legend(loc="lower right")


def _bad_data(played: Mapping[str, Played], images: Path) -> None:
    panels = (
        ("NaN", (BALANCED, KEDA)),
        ("Prometheus flapping", (BALANCED, KEDA)),
        ("60 % of targets missing", (BALANCED, LOAD_70, BUSY_70)),
    )
    with plots.figure(
        images / "autoscaling-bad-data.svg",
        panels=len(panels),
        title="Half an hour of bad data at 160 calls a second",
        height=1.9,
    ) as axes:
        for panel, (scenario, names) in zip(axes, panels, strict=True):
            panel.axvspan(FAULT_AT, FAULT_END, color="#d0d7de", alpha=0.5, linewidth=0)
            panel.axhline(need(160), color=plots.NEED, linewidth=0.8, linestyle="--")
            for name in names:
                if name in played[scenario]:
                    _steps(panel, played[scenario][name][0].replicas, name, (0, 2700), 0.0)
            panel.set_title(scenario)
            panel.set_ylabel("replicas")
            panel.set_ylim(0, 45)
            panel.legend(loc="lower right", ncols=3)
        axes[-1].set_xlabel("seconds")


def _steps(
    panel: plots.Panel,
    points: Sequence[tuple[float, int]],
    name: str,
    span: tuple[float, float],
    origin: float,
) -> None:
    """A line that changes only at its points, from the beginning of the span to its end."""
    start, end = span
    before = [count for time, count in points if time <= start]
    inside = [(time, count) for time, count in points if start < time <= end]
    times = [start, *(time for time, _ in inside), end]
    counts = [before[-1] if before else inside[0][1], *(count for _, count in inside)]
    panel.plot(
        [time - origin for time in times],
        [*counts, counts[-1]],
        drawstyle="steps-post",
        color=_COLOURS[name],
        label=name,
    )


def _lines(
    panel: plots.Panel,
    points: Sequence[tuple[float, float]],
    name: str,
    span: tuple[float, float],
    origin: float,
) -> None:
    start, end = span
    inside = [
        (time - origin, max(wait, _LEAST_WAIT))
        for time, wait in points
        if start <= time <= end and math.isfinite(wait)
    ]
    panel.plot(
        [time for time, _ in inside], [wait for _, wait in inside], color=_COLOURS[name], label=name
    )
