"""Figures of the study, from its report alone."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from invhyper import Report, plots

COLOURS = {"defaults": plots.GREY, "random": plots.BLUE, "three": plots.ORANGE, "learned": plots.VERMILION}
NAMES = {
    "defaults": "optax's defaults",
    "random": "best of the random search",
    "three": "alpha, beta1, beta2 learned",
    "learned": "30 alphas, beta1, beta2 learned",
}


def draw(report: Report, folder: Path) -> list[Path]:
    """Cost of both searches, the random search over alpha, training curves, learned step sizes; the files written."""
    with mpl.rc_context(plots.STYLE):
        figures = {
            "descent": descent(report),
            "criterion": criterion(report),
            "training": training(report),
            "step_sizes": step_sizes(report),
        }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def descent(report: Report):
    """The best validation loss so far over the training runs spent."""
    found = report.findings
    figure, grid = plots.canvas(size=(6.8, 4.4))
    axes = grid[0, 0]
    spent, first = found["runs_spent"], found["first"]
    turn = np.sqrt(spent[first - 1] * spent[first])
    low, high = sorted(found["runs_per_hypergradient"])
    axes.step(spent, np.fmin.accumulate(found["path"]), where="post", color=COLOURS["learned"], label="learned")
    axes.plot(spent, found["path"], "o", color=COLOURS["learned"], ms=3.5, alpha=0.6)
    axes.axvline(turn, color=plots.GREY, lw=1, ls=":")
    axes.annotate("from here on\n30 step sizes", (turn, 0.9), xytext=(6, 0), textcoords="offset points", fontsize=9)
    draws = np.arange(1, len(found["random"]) + 1)
    axes.step(draws, np.fmin.accumulate(found["random"]), where="post", color=COLOURS["random"], label="random search")
    axes.set(xscale="log", yscale="log", ylim=(0.8 * min(found["path"]), 2.5))
    counts = f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} or {high:.0f}"
    axes.set(xlabel=f"training runs spent (a hypergradient takes the time of {counts})")
    axes.set(ylabel="best validation loss so far")
    plots.log_ticks(axes.xaxis)
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


def criterion(report: Report):
    """Every random draw over its alpha, and what was learned."""
    found = report.findings
    figure, grid = plots.canvas(size=(6.8, 4.4))
    axes = grid[0, 0]
    axes.plot(
        found["random_alpha"], found["random"], ".", color=COLOURS["random"], ms=3.5, alpha=0.5, label="random draws"
    )
    axes.plot(1e-3, found["defaults_loss"], "s", color=COLOURS["defaults"], ms=8, label=NAMES["defaults"])
    axes.plot(found["three"]["alpha"], found["three_loss"], "D", color=COLOURS["three"], ms=8, label=NAMES["three"])
    axes.axhline(found["learned_loss"], color=COLOURS["learned"], lw=1.8, ls="--", label=NAMES["learned"])
    axes.set(xscale="log", yscale="log", ylim=(0.8 * found["learned_loss"], 4.0))
    axes.set(xlabel="alpha", ylabel="validation loss after 300 steps")
    plots.log_ticks(axes.xaxis)
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=9)
    return figure


def training(report: Report):
    """The validation loss over the steps of the four ways to train."""
    found = report.findings
    figure, grid = plots.canvas(size=(6.8, 4.4))
    axes = grid[0, 0]
    for way, values in zip(found["ways"], found["curves"], strict=True):
        axes.plot(np.arange(1, len(values) + 1), values, color=COLOURS[way], lw=1.6, label=NAMES[way])
    axes.set(yscale="log", ylim=(0.8 * found["learned_loss"], 3.0), xlabel="step", ylabel="validation loss")
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="upper right", fontsize=9)
    return figure


def step_sizes(report: Report):
    """The thirty learned step sizes over the run, beside the constant ones."""
    found = report.findings
    steps = found["curves"].shape[1]
    edges = np.linspace(0, steps, len(found["alphas"]) + 1)
    figure, grid = plots.canvas(size=(6.8, 4.0))
    axes = grid[0, 0]
    axes.stairs(found["alphas"], edges, color=COLOURS["learned"], lw=2, baseline=None, label=NAMES["learned"])
    for way, alpha in (("defaults", 1e-3), ("random", found["best"]["alpha"]), ("three", found["three"]["alpha"])):
        axes.axhline(alpha, color=COLOURS[way], lw=1.6, ls="--", label=NAMES[way])
    axes.set(yscale="log", ylim=(7e-4, None), xlabel="step", ylabel="step size alpha")
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="center left", fontsize=9, bbox_to_anchor=(0.0, 0.28))
    return figure
