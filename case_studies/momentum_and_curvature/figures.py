"""Figures of the study, from its report alone."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from invhyper import Report, plots

COLOURS = {"start": plots.GREY, "closed form": plots.BLUE, "learned": plots.VERMILION}
NAMES = {"start": "1/L and 0.5: the start", "closed form": "closed form", "learned": "learned"}


def draw(report: Report, folder: Path) -> list[Path]:
    """Cost of the search, the criterion, learned momentum over k, runs; returns the files written."""
    with mpl.rc_context(plots.STYLE):
        figures = {
            "descent": descent(report),
            "criterion": criterion(report),
            "momentum": momentum(report),
            "runs": runs(report),
        }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def cases(report: Report) -> list[dict]:
    """The findings of each case."""
    return [report.findings[f"case_{name.split(',')[0]}"] for name in report.findings["cases"]]


def descent(report: Report):
    """The best loss so far over the training runs spent, as a factor of the refined grid's."""
    figure, grid = plots.canvas(size=(6.8, 4.4))
    axes = grid[0, 0]
    for case, colour in zip(cases(report), (plots.SKY, plots.BLUE, plots.VERMILION), strict=False):
        spent, value = case["history"].T
        factor = np.exp(np.fmin.accumulate(value) - min(case["grid_log_losses"]))
        axes.step(np.maximum(spent, 1), factor, where="post", color=colour, label=f"k = {case['k']}, T = {case['T']}")
        axes.plot(spent[-1], factor[-1], "o", color=colour, ms=6)
        level = np.exp(case["closed_form_log_loss"] - min(case["grid_log_losses"]))
        axes.plot(1, level, ">", color=colour, ms=8, clip_on=False, zorder=5)
    axes.plot([], [], ">", color=plots.GREY, ms=8, label="closed form")
    axes.axhline(1.0, color="black", lw=1.0, ls="--")
    axes.plot(20_000, 1.0, "s", color="black", ms=8, label="100 x 100 grid, refined")
    axes.set(xscale="log", yscale="log", xlim=(1, 40_000), xlabel="training runs spent (a hypergradient counts as 3)")
    axes.set_ylabel("best loss so far / refined grid's")
    plots.log_ticks(axes.xaxis)
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="upper right")
    return figure


def criterion(report: Report):
    """The loss after T steps over eta and beta: from afar with the way of the search, and close to its end."""
    found = report.findings["maps"]
    k, case = found["k"], cases(report)[-1]
    root = np.sqrt(k)
    best = (2 / (root + 1)) ** 2 * k, ((root - 1) / (root + 1)) ** 2
    figure, grid = plots.canvas(1, 2, (11.0, 4.6))
    for axes, name in zip(grid[0], ("far", "near"), strict=True):
        map_ = found[name]
        across, up = map_["eta"] * k, 1 - map_["beta"]
        value = map_["log_loss"] / np.log(10)
        if name == "far":
            high = 0.5 * np.log10(np.sum(np.geomspace(1, k, 20)) / 2)
        else:
            high = case["closed_form_log_loss"] / np.log(10) + 0.5
        image = axes.pcolormesh(
            across, up, np.clip(value, None, high).T, cmap="viridis_r", shading="gouraud", rasterized=True
        )
        bar = figure.colorbar(image, ax=axes, pad=0.02, extend="max")
        bar.set_label(f"log10 f(x_T),  k = {k},  T = {found['T']}")
        bar.outline.set_visible(False)
        if name == "far":
            way = case["ladder"]
            way = np.vstack([[0, 1 / k, 0.5], way])
            for colour, width in (("white", 3.2), (plots.VERMILION, 1.5)):
                axes.plot(way[:, 1] * k, 1 - way[:, 2], "-", color=colour, lw=width)
            axes.plot(way[1:, 1] * k, 1 - way[1:, 2], "o", color=plots.VERMILION, mec="white", ms=5.5,
                      label="learned for shorter runs")  # fmt: skip
            for steps, eta, beta in way[1:-1]:
                axes.annotate(f"{steps:.0f}", (eta * k, 1 - beta), (8, -9), textcoords="offset points", fontsize=8,
                              color="white")  # fmt: skip
            axes.plot(way[0, 1] * k, 1 - way[0, 2], "D", color="black", mec="white", ms=7, label="start")
        for colour, width, label in (("white", 4.5, None), ("black", 2.2, "closed form")):
            axes.plot(best[0], 1 - best[1], "o", mfc="none", mec=colour, mew=width, ms=10, label=label)
        axes.plot(case["eta"] * k, 1 - case["beta"], "*", color=plots.ORANGE, mec="black", mew=0.8, ms=15,
                  label="learned")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="step size times L", xlim=(across.min(), across.max()))
        axes.set_ylim(up.max(), max(up.min(), 1e-2))
        axes.set_ylabel("momentum")
        _momentum_ticks(axes, up)
        axes.grid(False)
        axes.xaxis.set_minor_formatter(NullFormatter())
        plots.log_ticks(axes.xaxis)
    grid[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.0, handletextpad=0.3)
    grid[0, 1].set_title("close to the learned point")
    return figure


def _momentum_ticks(axes, rest):
    """Labels of beta on an axis of 1 - beta."""
    if rest.max() > 20 * rest.min():
        ticks = np.array([0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
    else:
        ticks = np.arange(0, 1, 0.01 if rest.max() - rest.min() < 0.05 else 0.02)
        ticks = ticks[(1 - ticks > rest.min()) & (1 - ticks < rest.max())]
    axes.yaxis.set_major_locator(FixedLocator(1 - ticks))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.set_yticks(1 - ticks, [f"{tick:g}" for tick in ticks.round(3)])


def momentum(report: Report):
    """Learned momentum and step size over the condition number, with the closed form."""
    k, _, eta, beta = report.findings["sweep"].T
    line = np.geomspace(1, k.max() * 1.5, 400)
    root = np.sqrt(line)
    figure, grid = plots.canvas(1, 2, (9.6, 4.0))
    left, right = grid[0]
    for axes, closed, learned in (
        (left, ((root - 1) / (root + 1)) ** 2, beta),
        (right, line * (2 / (root + 1)) ** 2, eta * k),
    ):
        axes.plot(line, closed, color=plots.BLUE, label="closed form, T to infinity")
        axes.plot(k, learned, "o", color=plots.VERMILION, mec="white", ms=8, label="learned, T about 6 sqrt(k)")
        axes.set(xscale="log", xlabel="condition number k = L / m", xlim=(1, line.max()))
        plots.log_ticks(axes.xaxis)
    left.set(ylabel="momentum", ylim=(0, 1.02))
    right.set(ylabel="step size times L", ylim=(0, 4.2))
    left.axhline(0.5, color=plots.GREY, lw=1.0, ls=":")
    right.axhline(1.0, color=plots.GREY, lw=1.0, ls=":", label="start of every search")
    right.legend(loc="lower right")
    left.set_title("Flat directions call for momentum")
    right.set_title("and for longer steps")
    return figure


def runs(report: Report):
    """f(x_t) along three runs for each case."""
    found = cases(report)
    figure, grid = plots.canvas(1, len(found), (4.0 * len(found) + 0.6, 4.0))
    for axes, case in zip(grid[0], found, strict=True):
        for name, curve in case["curves"].items():
            axes.plot(np.arange(curve.size), curve, color=COLOURS[name], label=NAMES[name])
            axes.plot(case["T"], curve[case["T"]], "o", color=COLOURS[name], mec="white", ms=8, zorder=4)
        axes.axvline(case["T"], color=plots.GREY, lw=1.0, ls=":")
        axes.set(yscale="log", xlabel="step t", xlim=(0, case["curves"]["learned"].size - 1))
        axes.set_title(f"k = {case['k']}, T = {case['T']}")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        plots.log_ticks(axes.yaxis)
    grid[0, 0].set_ylabel("loss f(x_t)")
    grid[0, 0].legend(loc="lower left")
    return figure
