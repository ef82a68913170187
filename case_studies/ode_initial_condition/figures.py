"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots

WAYS = (("start", "start_q", "start_p"), ("tuned", "q", "p"))


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion and slope beside the closed form, the errors, the fits; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion_and_slope(report), folder / "criterion.png"),
        plots.save(errors(report), folder / "errors.png"),
        plots.save(fits(report), folder / "fits.png"),
    ]


def criterion_and_slope(report: Report):
    """F and dF/dq over q: dots from simulation and adjoint, lines from the closed form, the way of the search."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (6.8, 6.8), sharex=True)
    above, below = grid[:, 0]
    dots = {"ls": "", "marker": "o", "ms": 4.5, "color": plots.BLUE, "zorder": 3}
    star = {"ls": "", "marker": "*", "ms": 15, "color": plots.ORANGE, "mec": "black", "mew": 0.8, "zorder": 7}
    above.plot(found["grid"], found["closed_curve"], color=plots.SKY, lw=2.4, label="closed form")
    above.plot(found["grid"], found["curve"], **dots, label="simulated")
    path = np.array([[float(step.theta["q"]), step.value] for step in report.history])
    above.plot(*path[:-1].T, "o", color=plots.VERMILION, ms=8, zorder=5, label="search, step by step")
    above.plot(*path[-1], **star, label=f"its end: q = {found['q']:.4f}")
    for number, place in enumerate(path):
        above.annotate(f"{number}", place, (9, 7), textcoords="offset points", color=plots.VERMILION, weight="bold")
    above.set(ylabel="held-out sum of squares F")
    above.legend(loc="upper center", frameon=False)
    below.plot(found["grid"], found["closed_slopes"], color=plots.SKY, lw=2.4, label="closed form")
    below.plot(found["grid"], found["slopes"], **dots, label="adjoint")
    below.axhline(0.0, color=plots.GREY, lw=0.8)
    below.plot(found["q"], 0.0, **star)
    below.set(xlabel="initial condition q", ylabel="hypergradient dF/dq")
    below.legend(loc="upper left", frameon=False)
    return figure


def errors(report: Report):
    """How far each slope is from the closed form, and how far its certificate says it may be."""
    found = report.findings
    figure, grid = plots.canvas(size=(6.8, 4.0))
    axes = grid[0, 0]
    size = np.max(np.abs(found["closed_slopes"]))
    true = np.maximum(np.abs(found["slopes"] - found["closed_slopes"]) / size, 1e-17)
    axes.plot(
        found["grid"], found["estimates"] / size, "o-", color=plots.ORANGE, ms=4, label="estimate of the certificate"
    )
    axes.plot(found["grid"], true, "o-", color=plots.BLUE, ms=4, label="true error (closed form)")
    axes.set(xlabel="initial condition q", ylabel="error of dF/dq, relative to the steepest", yscale="log")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=2)
    return figure


def fits(report: Report):
    """The data that chose p, those that chose q, and x(t) with the wrong q and with the tuned one."""
    found = report.findings
    figure, grid = plots.canvas(size=(7.6, 4.6))
    labels = {name: f"q = {found[q]:.3g}, p* = {found[p]:.3f} ({name})" for name, q, p in WAYS}
    axes = grid[0, 0]
    axes.plot(found["fine"], found["fits"]["start"], color=plots.GREY, ls="--", label=labels["start"])
    axes.plot(found["fine"], found["truth"], color="black", lw=1.0, label="truth")
    axes.plot(found["fine"], found["fits"]["tuned"], color=plots.VERMILION, label=labels["tuned"])
    inside = {"ls": "", "marker": "o", "ms": 5.5, "zorder": 3}
    axes.plot(found["times"][::2], found["data"][::2], color=plots.BLUE, **inside, label="fitted (choose p)")
    axes.plot(
        found["times"][1::2], found["data"][1::2], mfc="white", mec=plots.BLUE, **inside, label="held out (choose q)"
    )
    axes.set(xlabel="time t", ylabel="x(t)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=3)
    return figure
