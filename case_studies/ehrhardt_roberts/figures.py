"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, the criterion with the search on it, signals before and after; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(signals(report), folder / "signals.png"),
    ]


def criterion(report: Report):
    """F over all of th, its valley with the slopes that the search was given, and how fast it closed in."""
    found = report.findings
    figure, grid = plots.canvas(1, 3, (12.6, 4.0))
    path, best = found["path"], found["path"][np.argmin(found["path"][:, 1])]
    whole_range(grid[0, 0], found, path, best)
    valley(grid[0, 1], found, path, best)
    race(grid[0, 2], found, path)
    return figure


def heading(axes, title: str):
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)


def whole_range(axes, found, path, best):
    first, later = path[: found["reached_in"]], path[found["reached_in"] :]
    axes.plot(found["grid"], found["curve"], color=plots.BLUE)
    axes.plot(
        later[:, 0], later[:, 1], "o", ms=5, mfc="white", mec=plots.GREY, mew=1.2, label="afterwards: a look around"
    )
    axes.plot(first[:, 0], first[:, 1], "o", ms=6, color=plots.VERMILION, label="descent from th = 0")
    axes.plot(*best[:2], "*", ms=14, color="black", mec="white", zorder=6)
    axes.set(xlabel="th = log10 of the weight", ylabel="F = sum of |x - truth|²", yscale="log")
    axes.legend(loc="upper left", frameon=False, fontsize=9, borderaxespad=0.1)
    heading(axes, "The whole range")


def valley(axes, found, path, best):
    """The descent's points within 0.08 of the best, each with its tangent."""
    reach = 0.08
    near = np.abs(found["grid"] - best[0]) <= 1.05 * reach
    axes.plot(found["grid"][near], found["curve"][near], color=plots.BLUE)
    for k, (th, value, slope) in enumerate(path[: found["reached_in"]]):
        if abs(th - best[0]) < reach:
            across = 0.35 * reach * np.array([-1.0, 1.0])
            axes.plot(th + across, value + slope * across, color=plots.VERMILION, lw=1.3)
            axes.plot(th, value, "o", ms=6, color=plots.VERMILION, zorder=5)
            if abs(th - best[0]) > 0.05 * reach:
                axes.annotate(f"{k + 1}", (th, value), (0, 8), textcoords="offset points", ha="center")
    axes.plot(*best[:2], "*", ms=14, color="black", mec="white", zorder=6)
    said = f"th = {best[0]:.6f}\nF = {best[1]:.10f}"
    axes.annotate(said, best[:2], (0.5, 0.86), textcoords="axes fraction", ha="center", va="center", fontsize=10,
                  arrowprops={"arrowstyle": "-", "color": plots.GREY, "lw": 0.8, "shrinkB": 8})  # fmt: skip
    axes.set(xlabel="th", xlim=best[0] + reach * np.array([-1.0, 1.0]))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    heading(axes, "Its valley, with the exact slopes")


def race(axes, found, path):
    digits = 5e-11  # the least is known to this
    excess = np.maximum(np.minimum.accumulate(path[:, 1]) - found["least"], digits)
    evaluation, reached = np.arange(1, len(path) + 1), found["reached_in"]
    axes.plot(evaluation[reached - 1 :], excess[reached - 1 :], color=plots.GREY, lw=1.2)
    axes.plot(evaluation[:reached], excess[:reached], "o-", color=plots.VERMILION, ms=6)
    axes.axhline(1e-8, color="black", lw=1.0, ls="--")
    axes.annotate("1e-8", (1.0, 1e-8), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                  ha="right", va="bottom", fontsize=9)  # fmt: skip
    theirs = found["published_evaluations"], found["published_value"] - found["least"]
    axes.plot(*theirs, "D", ms=7, color=plots.PURPLE)
    axes.annotate("derivative-free,\npublished end", theirs, (0, 9), textcoords="offset points", ha="center",
                  color=plots.PURPLE, fontsize=9)  # fmt: skip
    axes.set(xlabel="evaluations (ten signals each)", ylabel="best F so far, above the least", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    heading(axes, f"Within 1e-8 after {reached} evaluations")


def signals(report: Report):
    """Two of the signals above: data, truth, and what either weight makes of them; their errors below."""
    found = report.findings
    figure, grid = plots.canvas(2, 2, (9.6, 5.4), sharex=True, sharey="row", height_ratios=(1.5, 1))
    for k, (above, below) in zip((1, 2), grid.T, strict=True):
        truth = found["truth"][k]
        above.plot(found["place"], found["noisy"][k], ".", ms=4, color=plots.SKY, label="noisy")
        above.plot(found["place"], truth, color="black", lw=1.2, label="truth")
        below.axhline(0.0, color="black", lw=1.2)
        for name, label, colour in (
            ("before", "start, th = 0", plots.ORANGE),
            ("after", f"tuned, th = {found['th']:.4f}", plots.BLUE),
        ):
            above.plot(found["place"], found[name][k], color=colour, lw=1.8, label=label)
            below.plot(found["place"], found[name][k] - truth, color=colour, lw=1.8)
        error = [np.sum((found[name][k] - truth) ** 2) for name in ("noisy", "before", "after")]
        heading(above, f"|x - truth|²: {error[0]:.2f} noisy, {error[1]:.3f} start, {error[2]:.3f} tuned")
        below.set(xlabel="place", ylim=(-0.16, 0.16))
    grid[0, 0].set_ylabel("x")
    grid[1, 0].set_ylabel("x - truth")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
