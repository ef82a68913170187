"""Fitted populations: observed against predicted, individual fits, visual predictive check."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from invhyper.plots.style import BLUE, GREY, ORANGE, STYLE, VERMILION, canvas

PERCENTILES = (5, 50, 95)
DOTS = {"ls": "", "marker": "o", "ms": 3.5}


def observed_predicted(fit, *, size: tuple[float, float] = (8.4, 4.2)) -> Figure:
    """Measurements over predictions, typical ones and individual ones, beside the line where they are equal.

    **Arguments**: `fit`: what `MixedEffects.fit` returned.

    >>> import types, numpy as np, invhyper as ih
    >>> subjects = types.SimpleNamespace(values=np.array([[1.0, 2.0]]), mask=np.ones((1, 2), bool))
    >>> fit = types.SimpleNamespace(
    ...     individual=[np.array([1.1, 1.9])], typical=[np.array([1.3, 1.6])],
    ...     population=types.SimpleNamespace(subjects=subjects),
    ... )
    >>> [axes.get_xlabel() for axes in ih.plots.observed_predicted(fit).axes]
    ['predicted, typical subject', 'predicted, each subject']
    """
    subjects = fit.population.subjects
    observed = np.asarray(subjects.values)[np.asarray(subjects.mask)]
    figure, grid = canvas(1, 2, size, sharey=True)
    for axes, rows, name in zip(grid[0], (fit.typical, fit.individual), ("typical", "each"), strict=True):
        predicted = np.concatenate(rows)
        ends = [min(observed.min(), predicted.min()), max(observed.max(), predicted.max())]
        with mpl.rc_context(STYLE):
            axes.plot(ends, ends, color=GREY, lw=1.0)
            axes.plot(predicted, observed, **DOTS, color=BLUE, alpha=0.7)
            axes.set_xlabel(f"predicted, {name} subject")
    grid[0, 0].set_ylabel("observed")
    return figure


def individual_fits(fit, *, columns: int = 4, size: tuple[float, float] | None = None) -> Figure:
    """A panel for each subject: its measurements, its own curve and that of a typical subject with its covariates.

    **Arguments**: `fit`: what `MixedEffects.fit` returned; `columns`: panels side by side; `size`: in inches.

    >>> import types, numpy as np, invhyper as ih
    >>> subjects = types.SimpleNamespace(
    ...     times=np.array([[0.0, 1.0]]), values=np.array([[1.0, 2.0]]), mask=np.ones((1, 2), bool), names=("S1",)
    ... )
    >>> fit = types.SimpleNamespace(
    ...     population=types.SimpleNamespace(subjects=subjects), curves=lambda t: (1 + t[None], 1.2 + t[None])
    ... )
    >>> ih.plots.individual_fits(fit).axes[0].get_title("left")
    'S1'
    """
    subjects = fit.population.subjects
    times, mask = np.asarray(subjects.times), np.asarray(subjects.mask)
    fine = np.linspace(times[mask].min(), times[mask].max(), 200)
    own, typical = fit.curves(fine)
    columns = min(columns, len(subjects.names))
    rows = -(-len(subjects.names) // columns)
    figure, grid = canvas(rows, columns, size or (2.7 * columns, 2.2 * rows + 0.4), sharex=True, sharey=True)
    for axes in grid.ravel()[len(subjects.names) :]:
        axes.remove()
    for i, (name, axes) in enumerate(zip(subjects.names, grid.ravel(), strict=False)):
        with mpl.rc_context(STYLE):
            axes.plot(fine, typical[i], color=GREY, ls="--", label="typical subject")
            axes.plot(fine, own[i], color=VERMILION, label="individual fit")
            axes.plot(times[i][mask[i]], np.asarray(subjects.values)[i][mask[i]], **DOTS, color=BLUE, label="observed")
            axes.set_title(name, loc="left")
    with mpl.rc_context(STYLE):
        figure.legend(*grid.ravel()[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.supxlabel("time")
    return figure


def predictive_check(
    fit, *, replicates: int = 200, bins: int = 8, seed: int = 0, size: tuple[float, float] = (7.2, 4.4)
) -> Figure:
    """Percentiles of the measurements over time within those of populations that the fit simulates.

    Bins hold equally many measurements. Lines: the 5th, 50th and 95th percentile observed; bands: where 90 % of the
    simulated populations have theirs.

    **Arguments**: `fit`: what `MixedEffects.fit` returned; `replicates`, `seed`: of its `simulate`; `bins`: of time.

    >>> import types, numpy as np, invhyper as ih
    >>> rows = types.SimpleNamespace(
    ...     times=np.arange(20.0)[None], values=np.ones((1, 20)), mask=np.ones((1, 20), bool)
    ... )
    >>> fit = types.SimpleNamespace(
    ...     population=types.SimpleNamespace(subjects=rows), simulate=lambda n, seed: np.ones((n, 20))
    ... )
    >>> len(ih.plots.predictive_check(fit, bins=4).axes[0].lines)
    4
    """
    subjects = fit.population.subjects
    mask = np.asarray(subjects.mask)
    times, values = np.asarray(subjects.times)[mask], np.asarray(subjects.values)[mask]
    simulated = fit.simulate(replicates, seed)
    edges = np.unique(np.quantile(times, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
    held = [place == k for k in range(len(edges) - 1) if np.any(place == k)]
    middle = np.array([np.median(times[row]) for row in held])
    observed = np.array([np.percentile(values[row], PERCENTILES) for row in held])
    bands = np.array([np.percentile(simulated[:, row], PERCENTILES, axis=1) for row in held])
    low, high = np.percentile(bands, (5, 95), axis=2)
    figure, grid = canvas(1, 1, size)
    axes = grid[0, 0]
    with mpl.rc_context(STYLE):
        axes.plot(times, values, **DOTS, color=GREY, alpha=0.6, label="observed")
        for k, (percentile, colour) in enumerate(zip(PERCENTILES, (BLUE, ORANGE, BLUE), strict=True)):
            axes.fill_between(middle, low[:, k], high[:, k], color=colour, alpha=0.25, lw=0)
            style = "-" if percentile == 50 else "--"
            axes.plot(middle, observed[:, k], color=colour, ls=style, label=f"{percentile}th percentile")
        axes.set(xlabel="time", ylabel="observed")
        axes.legend(loc="best")
    return figure
