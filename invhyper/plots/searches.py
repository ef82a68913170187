"""How searches went, step by step."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from invhyper.plots.style import BLUE, GREEN, GREY, PURPLE, SERIES, STYLE, VERMILION, canvas, log_ticks, star


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
        star(above, k[best], 0.0, f"best: F = {value[best]:.6g}", transform=foot)
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
            log_ticks(axes.yaxis)
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, columnspacing=1.2, handlelength=1.4)
    return above.figure


def progress(runs: Mapping[str, ArrayLike], axes: Axes | None = None, label: str = "criterion F") -> Figure:
    """The best F so far over the lower-level solves, one line a search.

    **Arguments**: `runs`: {name: F of each solve (solves,)}; `label`: of F. Raises ValueError if a run has no solve.

    >>> import numpy as np, invhyper as ih
    >>> figure = ih.plots.progress({"one weight": [3.0, 2.0, 2.5], "two": [3.0, 1.0]})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [3.0, 2.0, 2.0]
    """
    values = {name: np.asarray(run, float) for name, run in runs.items()}
    for name, run in values.items():
        if run.ndim != 1 or run.size == 0:
            raise ValueError(f"plots.progress was given {name!r} of shape {run.shape}: (solves,) is wanted")
    if axes is None:
        axes = canvas(size=(6.8, 4.4))[1][0, 0]
    with mpl.rc_context(STYLE):
        for (name, run), colour in zip(values.items(), itertools.cycle(SERIES), strict=False):
            best = np.fmin.accumulate(run)
            solves = np.arange(1, run.size + 1)
            axes.step(solves, best, where="post", color=colour)
            axes.plot(solves[-1:], best[-1:], "o", ms=6, color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel="lower-level solves", ylabel=label)
        log_ticks(axes.xaxis)
        log_ticks(axes.yaxis)
        axes.legend(loc="lower left")
    return axes.figure


def waterfall(
    fits,
    converged: ArrayLike | None = None,
    *,
    within: float = 5e-3,
    axes: Axes | None = None,
    label: str = "objective",
) -> Figure:
    """What all starts of a fit reached, sorted: objective above the best over the rank; steps are minima.

    **Arguments**: `fits`: the `Fits` of `fit_from`, or the objectives (n,), not finite where a start failed;
    `converged`: (n,), which of them did (a `Fits` knows); `within`: so close to the best counts as the best. Raises
    ValueError if no start reached a finite objective.

    >>> import numpy as np, invhyper as ih
    >>> figure = ih.plots.waterfall(np.array([2.0, 1.0, np.inf, 1.0]))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['2 reached the best, 1', '1 elsewhere', '1 failed']
    """
    values = np.asarray(getattr(fits, "values", fits), float)
    converged = getattr(fits, "converged", converged)
    converged = np.isfinite(values) if converged is None else np.asarray(converged, bool) & np.isfinite(values)
    if values.ndim != 1 or not converged.any():
        raise ValueError(f"plots.waterfall was given objectives of shape {values.shape}: (n,), one finite, is wanted")
    order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    values, converged = values[order], converged[order]
    rank, best = np.arange(1, values.size + 1), values[converged].min()
    above = np.maximum(values - best, within / 3)
    if axes is None:
        axes = canvas(size=(6.4, 4.0))[1][0, 0]
    reached, failed = converged & (values <= best + within), ~np.isfinite(values)
    kinds = (
        (reached, f"{{}} reached the best, {best:.6g}", {"color": VERMILION, "marker": "o"}),
        (converged & ~reached, "{} elsewhere", {"color": BLUE, "marker": "o"}),
        (~converged & ~failed, "{} not converged", {"color": BLUE, "marker": "o", "mfc": "white"}),
    )
    with mpl.rc_context(STYLE):
        axes.plot(rank[~failed], above[~failed], color="#C9CED6", lw=1.0, zorder=1)
        axes.axhspan(within / 6, within, color=VERMILION, alpha=0.08, lw=0)
        size = float(np.clip(200 / values.size, 3.0, 6.5))
        for which, said, look in kinds:
            if which.any():
                axes.plot(rank[which], above[which], ls="", ms=size, label=said.format(np.sum(which)), **look)
        if failed.any():
            top = axes.get_xaxis_transform()
            axes.plot(rank[failed], np.full(failed.sum(), 0.95), "x", color=GREY, ms=size, mew=1.4, transform=top,
                      label=f"{np.sum(failed)} failed")  # fmt: skip
        axes.set(yscale="log", xlabel="rank of the start", ylabel=f"{label} above the best")
        axes.set_ylim(within / 6, 4 * max(above[~failed].max(), 10 * within))
        log_ticks(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2, handletextpad=0.3)
    return axes.figure


def improving(path: ArrayLike) -> np.ndarray:
    """The rows of a path (steps, weights + 1) whose F, the last column, is below all before: what a search kept.

    >>> improving(np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 4.0]])).tolist()
    [[1.0, 5.0], [3.0, 4.0]]
    """
    path = np.asarray(path, float)
    before = np.r_[np.inf, np.fmin.accumulate(path[:, -1])[:-1]]
    return path[path[:, -1] < before]
