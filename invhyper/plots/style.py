"""How figures look: colours, canvas, files, and the marks that all of them share."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#5F6670",
)  # fmt: skip
SERIES = (GREY, SKY, BLUE, GREEN, VERMILION, PURPLE, ORANGE)
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
}


def canvas(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.4, 4.0), **grid
) -> tuple[Figure, np.ndarray]:
    """A figure in this module's style and its axes, an array (rows, columns).

    **Arguments**: `size` in inches; `grid` goes to matplotlib's `Figure.subplots` (sharex, width_ratios, ...).
    """
    with mpl.rc_context(STYLE):
        figure = Figure(size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def save(figure: Figure, path: str | Path, dpi: float = 200) -> Path:
    """Write a figure whole or not at all (temporary name, then rename); the suffix says the format."""
    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=dpi)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def star(axes, x, y, label, **place):
    """The best point."""
    axes.plot([x], [y], "*", ms=14, color=ORANGE, mec="black", mew=0.8, zorder=7, label=label, clip_on=False, **place)


def scale(set_scale, grid):
    """A log axis where the grid spans more than a factor of thirty."""
    if np.min(grid) > 0 and np.max(grid) / np.min(grid) > 30:
        set_scale("log")


def decibels(axes: Axes, pixels: int, data_range: float = 1.0):
    """A second scale on the right of an axis in C = 1/2 |x - truth|^2: the peak signal-to-noise ratio in dB.

    >>> import numpy as np, invhyper as ih
    >>> figure, grid = ih.plots.canvas()
    >>> ih.plots.decibels(grid[0, 0], pixels=64).get_ylabel()
    'PSNR / dB'
    """
    peak = 0.5 * pixels * data_range**2

    def psnr(c):
        return 10 * np.log10(peak / np.maximum(c, 1e-300))

    with mpl.rc_context(STYLE):
        right = axes.secondary_yaxis("right", functions=(psnr, lambda dB: peak / 10 ** (dB / 10)))
        right.set_ylabel("PSNR / dB")
        right.yaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
        right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        right.yaxis.set_minor_locator(NullLocator())
    return right


def plain_ticks(axis):
    """1, 2, 5 of each decade of a logarithmic axis, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
