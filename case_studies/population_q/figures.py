"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots

SHOWN = ("0", "5", "11", "26", "33", "42")  # cells: three that judge theta, three fresh
TRUE_Q, TRUE_SPREAD = 0.9, 0.4


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion over mean and spread, six cells, shrinkage; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(cells(report), folder / "cells.png"),
        plots.save(shrinkage(report), folder / "shrinkage.png"),
    ]


def criterion(report: Report):
    """The held-out misfit over mean and spread, with the path of the search."""
    found = report.findings
    grid, path = found["grid"], found["path"]
    inside = (path[:, 0] >= grid["q"][0]) & (path[:, 1] <= grid["spread"][-1]) & (path[:, 0] <= grid["q"][-1])
    return plots.criterion(
        {"mean of the first state": grid["q"], "spread between cells": grid["spread"]},
        found["values"],
        path=path[inside],
        label="held-out misfit",
    )


def curve(t, q, p):
    """x of x' = -x + p sin 3t, x(0) = q."""
    decay = np.exp(-t)
    return q * decay + p * (np.sin(3 * t) - 3 * np.cos(3 * t) + 3 * decay) / 10


def cells(report: Report):
    """Fits of six cells, each alone and as one of the population, with what judges them."""
    found = report.findings
    figure, grid = plots.canvas(2, 3, (9.6, 5.2))
    t = np.linspace(0.0, 5.0, 201)
    for axes, name in zip(grid.ravel(), SHOWN, strict=True):
        i = int(name)
        fitted, judging = found["cells"][name], found["judging"][name]
        axes.plot(t, curve(t, *found["fits_alone"][i]), color=plots.GREY, ls="--", label="alone")
        axes.plot(t, curve(t, *found["fits_learned"][i]), color=plots.BLUE, label="as one of the population")
        axes.plot(*fitted, "o", color=plots.BLUE, mec="black", mew=0.6, ms=6, label="fitted")
        axes.plot(*judging, "o", mfc="white", mec=plots.VERMILION, mew=1.3, ms=5, label="held out")
        axes.set(title=f"cell {i}, {'fresh' if i >= 25 else 'learned from'}", ylim=(-1.3, 2.3), xlim=(-0.1, 5.1))
    for axes in grid[-1]:
        axes.set_xlabel("time")
    for axes in grid[:, 0]:
        axes.set_ylabel("x")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    return figure


def shrinkage(report: Report):
    """First states against those that the cells were made with: each alone, and as one of the population."""
    found = report.findings
    figure, grid = plots.canvas(1, 1, (6.0, 5.2))
    axes = grid[0, 0]
    true, alone, learned = found["true_q"], found["fits_alone"][:, 0], found["fits_learned"][:, 0]
    for x, start, end in zip(true, alone, learned, strict=True):
        axes.plot([x, x], [start, end], color=plots.GREY, lw=0.8, alpha=0.6, zorder=1)
    axes.plot(true, alone, "o", mfc="white", mec=plots.GREY, ms=5, label="each cell alone")
    axes.plot(true, learned, "o", color=plots.BLUE, ms=5, label="as one of the population")
    ends = np.array([true.min() - 0.1, true.max() + 0.1])
    axes.plot(ends, ends, color="black", lw=1, label="exact")
    axes.axhline(found["q"], color=plots.VERMILION, lw=1, ls=":", label="mean learned")
    low, high = np.quantile(alone, [0.04, 0.96])
    axes.set(
        xlabel="first state that a cell was made with", ylabel="first state estimated",
        ylim=(min(low, true.min()) - 0.3, max(high, true.max()) + 0.3),
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")
    return figure
