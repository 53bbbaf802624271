"""How all plots look, and how they are kept: SVG that is byte-identical when the data is.

matplotlib is imported when the first plot is drawn: figures alone need none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel: TypeAlias = "Axes"

# Told apart by people who do not see red and green (Okabe and Ito), ours first.
OURS = "#0072b2"
OURS_TOO = "#009e73"
BASELINES = ("#d55e00", "#e69f00", "#cc79a7", "#7f7f7f", "#56b4e9")
NEED = "#1f2328"

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "peregrine",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d0d7de",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def figure(
    path: Path,
    *,
    panels: int,
    title: str,
    width: float = 9.0,
    height: float = 2.3,
    one_axis: bool = True,
) -> Iterator[list["Axes"]]:
    """Panels above each other, with one time axis unless told otherwise; written as SVG to `path`
    at the end."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        drawn, axes = pyplot.subplots(
            panels, 1, sharex=one_axis, squeeze=False, figsize=(width, 0.5 + height * panels)
        )
        try:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
            yield [row[0] for row in axes]
            drawn.tight_layout()
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(drawn)
