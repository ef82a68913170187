"""Figures of a tuning run, drawn without pyplot: no global state, no window, safe on any machine.

Every function returns a matplotlib `Figure` and draws into `axes` where they are given. Colours are Okabe and Ito's,
which colour-blind readers tell apart; maps are in viridis.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#5F6670",
)  # fmt: skip
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


def descent(report, axes: Sequence[Axes] | None = None) -> Figure:
    """How a search went: F above its best; slope, residuals and tolerance below.

    **Arguments**: `report`: a `Report`; `axes`: two axes, or None for a new figure. Raises ValueError for an empty
    history.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.zeros(2)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-3, 1e3)))
    >>> len(ih.plots.descent(report).axes)
    2

    The slope is the norm of the projected gradient on the search scale, which the search drives to zero.
    """
    steps = report.history
    if not steps:
        raise ValueError("plots.descent was given a report with no steps: tune at least one step first")
    if axes is None:
        figure, grid = canvas(2, 1, (6.4, 5.4), sharex=True, height_ratios=(1, 1.15))
        axes = grid[:, 0]
    above, below = axes
    k = np.array([step.k for step in steps])
    value = np.array([step.value for step in steps])
    best = int(np.nanargmin(value))
    excess = value - value[best]
    positive = np.where(excess > 0, excess, np.nan)
    size = float(np.clip(160 / k.size, 2.0, 4.5))
    with mpl.rc_context(STYLE):
        above.plot(k, positive, "o", ms=size, color=BLUE, label="evaluated")
        so_far = np.fmin.accumulate(excess)
        so_far = np.where(so_far > 0, so_far, np.nan)
        above.step(k, so_far, where="post", color=BLUE, lw=1.2, alpha=0.55, label="best so far")
        foot = above.get_xaxis_transform()
        _star(above, k[best], 0.0, f"best: F = {value[best]:.6g}", transform=foot)
        above.set(yscale="log", ylabel="F above its best")
        above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        for name, label, colour, form in (
            ("gradient_norm", "slope", VERMILION, "o-"),
            ("lower_residual", "lower residual", GREEN, "s-"),
            ("adjoint_residual", "adjoint residual", PURPLE, "^-"),
            ("tol", "tolerance", GREY, "--"),
        ):
            series = np.array([getattr(step, name) for step in steps], float)
            if np.any(series > 0):
                below.plot(k, np.where(series > 0, series, np.nan), form, ms=size, lw=1.1, color=colour, label=label)
        kinks = [step.k for step in steps if step.kink]
        if kinks:
            foot = below.get_xaxis_transform()
            below.plot(kinks, np.full(len(kinks), 0.97), "|", color="black", ms=8, transform=foot, label="kink")
        below.set(yscale="log", xlabel="outer step", ylabel="size")
        for axes in (above, below):
            axes.yaxis.set_major_locator(LogLocator(numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, columnspacing=1.2, handlelength=1.4)
    return above.figure


def improving(path: ArrayLike) -> np.ndarray:
    """The rows of a path (steps, weights + 1) whose F, the last column, is below all before: what a search kept.

    >>> improving(np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 4.0]])).tolist()
    [[1.0, 5.0], [3.0, 4.0]]
    """
    path = np.asarray(path, float)
    before = np.r_[np.inf, np.fmin.accumulate(path[:, -1])[:-1]]
    return path[path[:, -1] < before]


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
    _star(axes, *optimum, f"best: {name} = {optimum[0]:.4g}")
    _scale(axes.set_xscale, grid)
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
    _star(axes, *optimum[:2], f"best: {label} = {optimum[-1]:.5g}")
    _scale(axes.set_xscale, x)
    _scale(axes.set_yscale, y)
    axes.grid(False)
    axes.set(xlabel=across, ylabel=up, xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)


def coefficients(
    before: ArrayLike,
    after: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("before tuning", "after tuning"),
    axes: Axes | None = None,
) -> Figure:
    """Coefficients before and after tuning: one stem each, the change drawn between them.

    **Arguments**: `before`, `after`: (p,); `names`: p names for the axis (None: the index). Raises ValueError for
    other shapes.

    >>> import numpy as np, invhyper as ih
    >>> len(ih.plots.coefficients(np.ones(3), np.zeros(3)).axes)
    1
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(
            f"plots.coefficients wants two vectors of one length; it was given {before.shape} and {after.shape}"
        )
    if names is not None and len(names) != before.size:
        raise ValueError(f"plots.coefficients was given {len(names)} names for {before.size} coefficients")
    if axes is None:
        width = float(np.clip(0.16 * before.size, 6.4, 12.0))
        axes = canvas(size=(width, 4.2))[1][0, 0]
    places = np.arange(before.size)
    size = float(np.clip(260 / max(before.size, 1), 2.5, 6.0))
    with mpl.rc_context(STYLE):
        axes.vlines(places, before, after, color="#B8BEC6", lw=1.2, zorder=1)
        axes.axhline(0.0, color=GREY, lw=0.9, zorder=0)
        axes.plot(places, before, "o", mfc="white", mec=GREY, mew=1.2, ms=size, label=_counted(labels[0], before))
        axes.plot(places, after, "o", color=VERMILION, ms=size, label=_counted(labels[1], after))
        axes.set(ylabel="coefficient", xlim=(-0.8, before.size - 0.2))
        axes.grid(axis="x", visible=False)
        if names is None:
            axes.set_xlabel("index")
        else:
            axes.set_xticks(places, names, rotation=90, fontsize=float(np.clip(420 / before.size, 6, 9)))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return axes.figure


def images(
    panels: Mapping[str, ArrayLike], axes: Sequence[Axes] | None = None, limits: tuple[float, float] | None = None
) -> Figure:
    """Grey-level images side by side on one scale.

    **Arguments**: `panels`: {title: image (rows, columns)}, the second line of a title goes below its image; `limits`:
    black and white levels (None: the range of the first image). Raises ValueError if there is no image.

    >>> import numpy as np, invhyper as ih
    >>> len(ih.plots.images({"flat": np.zeros((2, 2)), "chess": np.eye(2)}, limits=(0, 1)).axes)
    2
    """
    pictures = {title: np.asarray(image, float) for title, image in panels.items()}
    if not pictures:
        raise ValueError("plots.images was given no image: at least one is wanted")
    first = next(iter(pictures.values()))
    low, high = (first.min(), first.max()) if limits is None else limits
    if axes is None:
        axes = canvas(1, len(pictures), (2.6 * len(pictures), 3.0))[1][0]
    with mpl.rc_context(STYLE):
        for place, (title, image) in zip(axes, pictures.items(), strict=True):
            place.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
            name, _, note = title.partition("\n")
            place.set_title(name, fontsize=10, loc="center")
            place.set_xlabel(note)
    return axes[0].figure


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


def _counted(label, vector):
    nonzero = int(np.count_nonzero(vector))
    return f"{label} ({nonzero} of {vector.size} nonzero)" if nonzero < vector.size else label


def _star(axes, x, y, label, **place):
    axes.plot([x], [y], "*", ms=14, color=ORANGE, mec="black", mew=0.8, zorder=7, label=label, clip_on=False, **place)


def _scale(set_scale, grid):
    """A log axis where the grid spans more than a factor of thirty."""
    if np.min(grid) > 0 and np.max(grid) / np.min(grid) > 30:
        set_scale("log")


def _history(report, names):
    """One row a step: the weights, F."""
    missing = [name for name in names if name not in report.theta or np.size(report.theta[name]) != 1]
    if missing:
        raise ValueError(
            f"plots.criterion: the report has no scalar weight {missing[0]!r}: it can't be drawn on this axis"
        )
    return np.array([[*(float(np.squeeze(step.theta[name])) for name in names), step.value] for step in report.history])
