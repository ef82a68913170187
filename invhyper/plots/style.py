"""How figures look: colours, canvas, files, and the marks that all of them share."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

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


def scale(axis, grid):
    """A log axis where the grid spans more than a factor of thirty."""
    if np.min(grid) > 0 and np.max(grid) / np.min(grid) > 30:
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        log_ticks(axis)


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


def log_ticks(axis):
    """Labels of a logarithmic axis, whatever it shows: powers of ten; 1, 2, 5 of each of fewer than three decades,
    written out; even steps where these do not fall in.

    >>> import invhyper as ih
    >>> figure, grid = ih.plots.canvas()
    >>> axes = grid[0, 0]
    >>> axes.set(yscale="log", ylim=(2.1, 2.9)) and ih.plots.log_ticks(axes.yaxis)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['2.1', '2.2', '2.3', '2.4', '2.5', '2.6', '2.7', '2.8', '2.9']
    """
    axis.set_major_locator(_Decades())
    axis.set_major_formatter(_Written())
    axis.set_minor_formatter(NullFormatter())


def _is_short(low, high):
    return high < 1e3 * low


class _Decades(LogLocator):
    def tick_values(self, vmin, vmax):
        # With several to a decade, and at most one of them in sight, matplotlib goes over to even steps.
        self.set_params(subs=(1.0, 2.0, 5.0) if _is_short(vmin, vmax) else (1.0,), numticks=8)
        return super().tick_values(vmin, vmax)


class _Written(LogFormatterSciNotation):
    def __call__(self, x, pos=None):
        return f"{x:g}" if _is_short(*self.axis.get_view_interval()) else super().__call__(x, pos)
