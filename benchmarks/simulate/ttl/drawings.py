"""The plots of times to live: over time, on bad days, and what all contestants cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.simulate import plots
from benchmarks.simulate.ttl.cases import BySeed, Result
from benchmarks.simulate.ttl.outages import FIRST, KINDS, LONG, PAUSE, Outages
from benchmarks.simulate.ttl.workloads import END, STALE_SHARE, STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (plots.OURS, plots.BASELINES[0], plots.OURS_TOO, plots.BASELINES[2])
_MINUTE = 60.0


def draw(images: Path, mixed: BySeed) -> None:
    seed = min(mixed)
    _over_time(images / "ttl-mixed.svg", mixed[seed])
    _bad_days(images / "ttl-outages.svg", mixed[seed], turn=seed)


def _over_time(path: Path, results: Sequence[Result]) -> None:
    title = "Tuned times to live: four namespaces, one cache"
    with plots.figure(path, panels=2, title=title, height=2.8) as (above, below):
        for result, colour in zip(results, _COLOURS, strict=True):
            minutes = result.run.minutes
            times = [minute.time / _MINUTE for minute in minutes]
            above.step(times, [minute.ttl for minute in minutes], color=colour, where="pre")
            best = result.bounded[0]
            above.axhline(best, color=colour, linestyle=":", linewidth=1.0)
            below.plot(times, _rolling(result), color=colour, label=result.name)
        _seconds(above)
        above.set_title("seconds to live; dotted: the best static one in hindsight, bounded")
        below.axhline(STALE_SHARE, color=plots.NEED, linewidth=1.0, linestyle="--")
        below.set_title("share of stale answers, ten minutes; dashed: the bound")
        below.set_ylim(0.0, 0.10)
        below.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        below.set_xlabel("minutes")
        for axes in (above, below):
            axes.axvspan(STEP / _MINUTE, END / _MINUTE, color="#f2f2f2", zorder=0)
        above.set_ylim(4.0, 90_000.0)
        above.text(
            STEP / _MINUTE + 1, 75_000.0, "weather changes\n8 times as often", va="top", size=8
        )
        above.text(END / _MINUTE + 1, 75_000.0, "prices change\n10 times less", va="top", size=8)
        below.legend(ncols=4, loc="upper left")


def _bad_days(path: Path, results: Sequence[Result], *, turn: int) -> None:
    with plots.figure(
        path, panels=1, title="Prometheus fails in five ways: nothing moves", height=2.8
    ) as (axes,):
        for result, colour in zip(results, _COLOURS, strict=True):
            minutes = result.outages.minutes if result.outages else []
            times = [minute.time / _MINUTE for minute in minutes]
            ttls = [minute.ttl for minute in minutes]
            axes.step(times, ttls, color=colour, where="pre", label=result.name)
        _seconds(axes)
        for number in range(len(KINDS)):
            begin = FIRST + number * (LONG + PAUSE)
            axes.axvspan(begin / _MINUTE, (begin + LONG) / _MINUTE, color="#f6e3d9", zorder=0)
            kind = Outages(turn=turn).at(begin + LONG / 2)
            axes.text(
                (begin + LONG / 2) / _MINUTE, 1.6 * axes.get_ylim()[1], kind, ha="center", size=8
            )
        axes.set_ylim(4.0, 3.0 * axes.get_ylim()[1])
        axes.set_xlabel("minutes")
        axes.legend(ncols=4, loc="upper left", bbox_to_anchor=(0.0, 1.14))


def _rolling(result: Result) -> list[float]:
    """The share of stale answers in the ten minutes before each minute's end."""
    shares = []
    for place in range(1, len(result.run.minutes) + 1):
        part = result.run.minutes[max(place - 10, 0) : place]
        requests = sum(minute.requests for minute in part)
        shares.append(sum(minute.stale for minute in part) / max(requests, 1))
    return shares


def _seconds(axes: "Axes") -> None:
    axes.set_yscale("log", base=2)
    ticks = [5.0 * 4.0**place for place in range(7)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
