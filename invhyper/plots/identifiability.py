"""Profile likelihoods with their limits and verdicts, and the spectrum of the Fisher information."""

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from invhyper.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE, VERMILION, canvas, log_ticks, scale, star

# A profile is drawn from so far below the fit to so far above it, in rises at which the interval ends.
FLOOR, TOP = -0.08, 1.6
COLOURS = {
    "identifiable": GREEN,
    "practically non-identifiable": ORANGE,
    "structurally non-identifiable": VERMILION,
}


def profiles(found, *, columns: int = 3, size: tuple[float, float] | None = None) -> Figure:
    """A panel for each parameter: its profile likelihood, the rise at which the interval ends, the parabola that the
    standard error foretells, and the verdict.

    **Arguments**: `found`: what `identify` returned; `columns`: panels side by side; `size`: of the figure, in inches.
    A parameter that spans more than a factor of thirty is drawn on a logarithmic axis.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> decay = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["rate"] * x, initial=lambda p, theta: 2.0,
    ...     observe=lambda t, x, p, theta: x, times=t, data=2 * np.exp(-0.7 * t), noise=0.1, start={"rate": 1.0},
    ... )
    >>> ih.plots.profiles(ih.identify(decay, {})).axes[0].get_title('left')
    'rate: identifiable'
    """
    columns = min(columns, len(found.profiles))
    rows = -(-len(found.profiles) // columns)
    figure, grid = canvas(rows, columns, size or (4.2 * columns, 3.3 * rows + 0.5))
    for axes in grid.ravel()[len(found.profiles) :]:
        axes.remove()
    for axes, name in zip(grid.ravel(), found.profiles, strict=False):
        with mpl.rc_context(STYLE):
            _profile(axes, found.profiles[name], found.verdicts[name])
    for axes in grid[:, 0]:
        axes.set_ylabel("objective above the fit")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    with mpl.rc_context(STYLE):
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _profile(axes: Axes, profile, verdict):
    colour = COLOURS[verdict.kind]
    limit = profile.limit - profile.objective[profile.fit]
    low, high = profile.values[[0, -1]]
    span = high - low
    edges = [
        end if np.isinf(side) else end + outwards * 0.12 * span
        for end, side, outwards in zip((low, high), profile.interval, (-1, 1), strict=True)
    ]
    if edges[0] <= 0 < low:
        edges[0] = min(low, max(0.7 * low, low - 0.12 * span))
    inside = np.clip(profile.interval, *edges)
    axes.axvspan(*inside, color=colour, alpha=0.10, lw=0, label="_interval")
    axes.axhline(limit, color=GREY, ls="--", lw=1.2, label=f"limit at {100 * profile.level:g} %")
    fine = _between(profile)
    if np.isfinite(verdict.standard_error):
        wide = np.linspace(*edges, 400) if not _is_wide(profile.values) else np.geomspace(*edges, 400)
        parabola = 0.5 * ((wide - profile.best) / verdict.standard_error) ** 2
        axes.plot(wide, parabola, color=GREY, ls=":", lw=1.6, label="foretold by the standard error")
    axes.plot(fine, profile.through(fine), color=BLUE, label="profile likelihood")
    axes.plot(profile.values, profile.rise, "o", ms=4, mfc="white", mec=BLUE, mew=1.2, label="refits")
    star(axes, profile.best, 0.0, "fit")
    for end in profile.interval:
        if np.isfinite(end):
            axes.vlines(end, FLOOR * limit, limit, color=colour, lw=1.2)
    axes.set(ylim=(FLOOR * limit, TOP * limit), xlim=edges, xlabel=profile.name)
    scale(axes.xaxis, profile.values)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(f"{profile.name}: {verdict.kind}", color=colour)
    if verdict.reason:
        axes.text(
            0.5, 0.97, _wrapped(verdict.reason), transform=axes.transAxes, ha="center", va="top", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip


def _wrapped(reason):
    """Lines of a panel's width, that do not break between a name and its number."""
    kept = reason.replace(": ", ":\N{NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    return textwrap.fill(kept, 38)


def _is_wide(values):
    return values[0] > 0 and values[-1] / values[0] > 30


def _between(profile):
    """Twenty points to each gap between refits."""
    pairs = zip(profile.values[:-1], profile.values[1:], strict=True)
    return np.concatenate([np.linspace(a, b, 20, endpoint=False) for a, b in pairs] + [profile.values[-1:]])


def spectrum(fisher, *, size: tuple[float, float] | None = None) -> Figure:
    """The eigenvalues of the Fisher information, scaled to a unit diagonal, above what each direction is made of.

    Below the dashed line an eigenvalue is zero to the simulation's accuracy, and drawn on the line of zeros if it is
    that. The map shows the share of each parameter in each direction: squares of components, which add up to one.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> decay = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["rate"] * x, initial=lambda p, theta: 2.0,
    ...     observe=lambda t, x, p, theta: p["gain"] * x,
    ...     times=t, data=6 * np.exp(-0.7 * t), noise=0.1, start={"rate": 1.0, "gain": 1.0},
    ... )
    >>> found = ih.fisher(decay, {}, ih.Solution({"gain": 3.0, "rate": 0.7}))
    >>> ih.plots.spectrum(found).axes[0].get_ylabel()
    'eigenvalue'
    """
    count = len(fisher.names)
    size = size or (max(5.6, 1.4 + 0.9 * count), 3.4 + 0.42 * count)
    figure, grid = canvas(2, 1, size, sharex=True, height_ratios=[2.4, 0.42 * count])
    above, below = grid[:, 0]
    number = np.arange(1, count + 1)
    bottom = min(fisher.threshold, fisher.eigenvalues[max(fisher.rank - 1, 0)]) / 30
    values = np.maximum(fisher.eigenvalues, bottom)
    seen = number <= fisher.rank
    parts = fisher.directions * fisher.scales[:, None]
    parts = np.where(np.any(parts != 0, axis=0), parts, fisher.directions)
    shares = parts**2 / np.sum(parts**2, axis=0)
    with mpl.rc_context(STYLE):
        above.axhspan(bottom / 10, fisher.threshold, color=GREY, alpha=0.10, lw=0)
        above.axhline(fisher.threshold, color=GREY, ls="--", lw=1.2, label="zero to the simulation's accuracy")
        for mask, colour, label in ((seen, BLUE, "seen"), (~seen, VERMILION, "not seen")):
            if np.any(mask):
                above.vlines(number[mask], bottom / 10, values[mask], color=colour, lw=2.2)
                above.plot(number[mask], values[mask], "o", color=colour, ms=8, label=label)
        above.set(yscale="log", ylim=(bottom / 3, 10 * values.max()), ylabel="eigenvalue")
        log_ticks(above.yaxis)
        above.set_title("Fisher information, scaled to a unit diagonal")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3, columnspacing=1.2)
        picture = below.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=(0.5, count + 0.5, count, 0))
        for (i, k), share in np.ndenumerate(shares):
            if share > 0.005:
                sign = "+" if fisher.directions[i, k] > 0 else "\N{MINUS SIGN}"
                ink = "white" if share > 0.55 else "black"
                below.text(k + 1, i + 0.5, f"{sign} {share:.2f}", ha="center", va="center", color=ink, fontsize=9)
        below.set(
            yticks=np.arange(count) + 0.5, yticklabels=fisher.names, xticks=number, xlabel="direction, best known first"
        )
        below.grid(False)
        below.tick_params(length=0)
        bar = figure.colorbar(picture, ax=below, pad=0.02)
        bar.set_label("share")
        bar.outline.set_visible(False)
    return figure
