"""Fitted populations: observed against predicted, individual fits, visual predictive check."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from invhyper.plots.style import BLUE, GREY, ORANGE, STYLE, VERMILION, canvas

PERCENTILES = (5, 50, 95)
DOTS = {"ls": "", "marker": "o", "ms": 3.5}


def observed_predicted(fit, *, size: tuple[float, float] = (8.4, 4.2)) -> Figure:
    """Measurements over predictions, typical ones and individual ones, beside the line where they are equal.

    **Arguments**: `fit`: what `MixedEffects.fit` returned, or its `drawn()`.

    >>> import types, numpy as np, invhyper as ih
    >>> subjects = types.SimpleNamespace(values=np.array([[1.0, 2.0]]), mask=np.ones((1, 2), bool))
    >>> fit = types.SimpleNamespace(
    ...     individual=[np.array([1.1, 1.9])], typical=[np.array([1.3, 1.6])], subjects=subjects,
    ... )
    >>> [axes.get_xlabel() for axes in ih.plots.observed_predicted(fit).axes]
    ['predicted, typical subject', 'predicted, each subject']
    """
    subjects = fit.subjects
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

    **Arguments**: `fit`: what `MixedEffects.fit` returned, or its `drawn()`; `columns`: panels side by side;
    `size`: in inches.

    >>> import types, numpy as np, invhyper as ih
    >>> subjects = types.SimpleNamespace(
    ...     times=np.array([[0.0, 1.0]]), values=np.array([[1.0, 2.0]]), mask=np.ones((1, 2), bool), names=("S1",)
    ... )
    >>> fit = types.SimpleNamespace(subjects=subjects, curves=lambda t: (1 + t[None], 1.2 + t[None]))
    >>> ih.plots.individual_fits(fit).axes[0].get_title("left")
    'S1'
    """
    subjects = fit.subjects
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
    for axes in grid[-1]:
        axes.set_xlabel("time")
    return figure


def predictive_check(
    fit, *, replicates: int = 200, bins: int = 8, seed: int = 0, size: tuple[float, float] = (7.2, 4.4)
) -> Figure:
    """Percentiles of the measurements over time within those of populations that the fit simulates.

    Bins hold equally many measurements. Lines: the 5th, 50th and 95th percentile observed; bands: where 90 % of the
    simulated populations have theirs.

    **Arguments**: `fit`: what `MixedEffects.fit` returned, or its `drawn()`; `replicates`, `seed`: of its
    `simulate`; `bins`: of time.

    >>> import types, numpy as np, invhyper as ih
    >>> rows = types.SimpleNamespace(
    ...     times=np.arange(20.0)[None], values=np.ones((1, 20)), mask=np.ones((1, 20), bool)
    ... )
    >>> fit = types.SimpleNamespace(subjects=rows, simulate=lambda n, seed: np.ones((n, 20)))
    >>> len(ih.plots.predictive_check(fit, bins=4).axes[0].lines)
    4
    """
    subjects = fit.subjects
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


def shrinkage(fit, *, labels=None, size: tuple[float, float] | None = None) -> Figure:
    """Random effects of each subject beside the normal density of the population that they were estimated under.

    **Arguments**: `fit`: what `MixedEffects.fit` returned, or its `drawn()`; `labels`: of the random effects.

    >>> import types, numpy as np, invhyper as ih
    >>> fit = types.SimpleNamespace(eta=np.array([[0.1], [-0.2]]), theta={"omega": np.array([[0.04]])})
    >>> ih.plots.shrinkage(fit, labels=["clearance"]).axes[0].get_xlabel()
    'clearance'
    """
    eta = np.asarray(fit.eta)
    omega = np.asarray(fit.theta["omega"] if hasattr(fit, "theta") else fit.omega)
    count = eta.shape[1]
    labels = [f"random effect {k}" for k in range(count)] if labels is None else labels
    figure, grid = canvas(1, count, size or (3.6 * count, 3.2))
    for k, (axes, label) in enumerate(zip(grid[0], labels, strict=True)):
        deviation = np.sqrt(omega[k, k])
        far = max(3 * deviation, 1.1 * np.abs(eta[:, k]).max(), np.finfo(float).tiny)
        x = np.linspace(-far, far, 201)
        shrunk = 1 - np.std(eta[:, k], ddof=1) / deviation if deviation > 0 and len(eta) > 1 else np.nan
        with mpl.rc_context(STYLE):
            axes.fill_between(x, np.exp(-0.5 * (x / deviation) ** 2), color=ORANGE, alpha=0.25, lw=0)
            axes.plot(eta[:, k], np.full(len(eta), 0.07), "|", color=BLUE, ms=16, mew=1.6)
            axes.set(xlabel=label, yticks=[], ylim=(0, 1.15), xlim=(-far, far))
            axes.set_title(f"shrinkage {100 * shrunk:.0f} %", loc="left")
    return figure
