"""The criterion over one weight or two, and the way a search took."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from invhyper.plots.searches import improving
from invhyper.plots.style import BLUE, STYLE, VERMILION, canvas, scale, star


def criterion(
    weights: Mapping[str, ArrayLike],
    values: ArrayLike,
    report=None,
    *,
    path: ArrayLike | None = None,
    axes: Axes | None = None,
    label: str = "criterion F",
    colour: str = BLUE,
) -> Figure:
    """The criterion over one weight (a curve) or two (a map with contours), with the path of a search drawn in.

    **Arguments**: `weights`: {name: grid (n,)} for a curve, two such entries for a map; `values`: (n,) or (n1, n2),
    the first weight first; `report`: a `Report` whose history is the path; or `path`: (steps, weights + 1), the weights
    and F of each step. The best of the path is marked (without one: of the grid). Raises ValueError for other numbers
    of weights and for shapes that do not match.

    >>> import numpy as np, invhyper as ih
    >>> figure = ih.plots.criterion({"l2": np.array([0.1, 1.0, 10.0])}, np.array([2.0, 1.0, 3.0]))
    >>> figure.axes[0].get_xlabel()
    'l2'
    """
    grids = {name: np.asarray(grid, float) for name, grid in weights.items()}
    values = np.asarray(values, float)
    wanted = tuple(grid.size for grid in grids.values())
    if len(grids) not in (1, 2):
        raise ValueError(f"plots.criterion was given {len(grids)} weights: one (a curve) or two (a map) can be drawn")
    if values.shape != wanted:
        raise ValueError(f"plots.criterion was given values of shape {values.shape} for grids of sizes {wanted}")
    path = _history(report, tuple(grids)) if report is not None else path
    if path is None:
        index = np.unravel_index(np.nanargmin(values), values.shape)
        optimum = np.array([*(grid[i] for grid, i in zip(grids.values(), index, strict=True)), values[index]])
    else:
        path = np.asarray(path, float)
        if path.ndim != 2 or path.shape[0] == 0 or path.shape[1] != len(grids) + 1:
            raise ValueError(
                f"plots.criterion was given a path of shape {path.shape}: (steps, {len(grids) + 1}) is wanted"
            )
        optimum = path[np.nanargmin(path[:, -1])]
        path = path.T
    if axes is None:
        axes = canvas(size=(6.4, 4.2) if len(grids) == 1 else (6.6, 5.0))[1][0, 0]
    draw = _curve if len(grids) == 1 else _map
    with mpl.rc_context(STYLE):
        draw(axes, grids, values, path, optimum, label, colour)
    return axes.figure


def _curve(axes, grids, values, path, optimum, label, colour):
    ((name, grid),) = grids.items()
    axes.plot(grid, values, color=colour, label=label)
    if path is not None:
        axes.plot(path[0], path[-1], "o", ms=5, mfc="white", mec=colour, mew=1.3, label="evaluated by the search")
    star(axes, *optimum, f"best: {name} = {optimum[0]:.4g}")
    scale(axes.xaxis, grid)
    axes.set(xlabel=name, ylabel=label, xlim=(grid.min(), grid.max()))
    axes.legend(loc="best")


def _map(axes, grids, values, path, optimum, label, colour):
    (across, x), (up, y) = grids.items()
    excess = np.maximum(values - min(np.nanmin(values), optimum[-1]), 0.0)
    levels = _levels(excess)
    inside = np.clip(excess, levels[0], levels[-1]).T
    filled = axes.contourf(x, y, inside, levels, cmap="viridis_r", norm=LogNorm(levels[0], levels[-1]))
    if np.nanmax(excess) > 0:
        axes.contour(x, y, excess.T, levels, colors="white", linewidths=0.5, alpha=0.6)
    bar = axes.figure.colorbar(filled, ax=axes, pad=0.02)
    bar.set_label(f"{label} above its minimum")
    bar.set_ticks(levels if levels.size < 8 else levels[_is_decade(levels)])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda level, _: f"{level:g}"))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    if path is not None:
        kept = improving(path.T).T
        axes.plot(path[0], path[1], "o", ms=3, mfc="white", mec="none", alpha=0.7)
        axes.plot(kept[0], kept[1], color="white", lw=3.2, solid_capstyle="round")
        axes.plot(kept[0], kept[1], "o-", color=VERMILION, ms=4.5, mec="white", mew=0.8, lw=1.5, label="search path")
        axes.plot(path[0][0], path[1][0], "D", color="black", mec="white", mew=1.0, ms=7, label="start", zorder=6)
    star(axes, *optimum[:2], f"best: {label} = {optimum[-1]:.5g}")
    scale(axes.xaxis, x)
    scale(axes.yaxis, y)
    axes.grid(False)
    axes.set(xlabel=across, ylabel=up, xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)


def _levels(excess):
    """1, 2, 5 of each decade from a little above the best grid point (at most four decades) to the top."""
    top = float(np.nanmax(excess)) or 1.0
    floor = max(float(np.nanmin(excess[excess > 0], initial=top)), 1e-4 * top)
    decades = 10.0 ** np.arange(np.floor(np.log10(floor)), np.ceil(np.log10(top)) + 1)
    levels = np.outer(decades, (1.0, 2.0, 5.0)).ravel()
    first, last = np.searchsorted(levels, floor), np.searchsorted(levels, top)
    return levels[max(first - 1, 0) : max(last, first + 1) + 1]


def _is_decade(levels):
    exponent = np.log10(levels)
    return np.abs(exponent - np.round(exponent)) < 1e-9


def _history(report, names):
    """One row a step: the weights, F."""
    missing = [name for name in names if name not in report.theta or np.size(report.theta[name]) != 1]
    if missing:
        raise ValueError(
            f"plots.criterion: the report has no scalar weight {missing[0]!r}: it can't be drawn on this axis"
        )
    return np.array([[*(float(np.squeeze(step.theta[name])) for name in names), step.value] for step in report.history])
