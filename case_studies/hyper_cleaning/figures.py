"""Figures of the study, from its report alone."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MultipleLocator, PercentFormatter

from invhyper import Report, plots

SHORT = {
    "all samples": "all samples,\nhalf of them wrong",
    "validation alone": "validation set\nalone",
    "all and validation": "all and\nvalidation set",
    "cleaned": "learned weights",
    "kept and validation": "weights above 1/2\nand validation set",
    "clean alone": "right labels alone\n(oracle)",
}
COLOURS = (plots.GREY, plots.SKY, plots.GREY, plots.VERMILION, plots.ORANGE, plots.BLUE)


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, outer steps, learned weights and accuracies, the digits trusted least; returns the files written."""
    with mpl.rc_context(plots.STYLE):
        figures = {
            "descent": plots.descent(report),
            "criterion": outer(report),
            "weights": weights(report),
            "digits": lowest(report),
        }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def weights(report: Report):
    """Learned weights of right and wrong labels; test accuracy of each way of training, split by split."""
    found = report.findings
    figure, grid = plots.canvas(1, 2, (11.0, 4.4), width_ratios=(1, 1.25))
    left, right = grid[0]
    edges = np.linspace(0, 1, 26)
    for wrong, colour, label in ((False, plots.BLUE, "right label"), (True, plots.VERMILION, "wrong label")):
        chosen = found["weights"][found["corrupted"] == wrong]
        left.hist(chosen, edges, color=colour, alpha=0.75, label=f"{label} ({chosen.size})", edgecolor="white", lw=0.4)
    left.axvline(np.median(found["weights"]), color="black", lw=1.2, ls="--", label="median")
    left.set(xlabel="learned weight of the sample", ylabel="training samples", xlim=(0, 1))
    left.legend(loc="center", bbox_to_anchor=(0.62, 0.7))
    left.set_title("Weights tell wrong labels from right ones")
    table, names = found["accuracies"], list(found["accuracy"])
    rows = np.arange(len(names))[::-1]
    for row, name, values, colour in zip(rows, names, table.T, COLOURS, strict=True):
        bold = "bold" if name == "cleaned" else "normal"
        right.plot(values, np.full(values.size, row), "o", color=colour, mec="white", ms=6, alpha=0.8)
        right.plot([values.mean()] * 2, [row - 0.28, row + 0.28], color="black", lw=2.2)
        right.text(1.005, row, f"{100 * values.mean():.1f} %", fontsize=9, va="center", weight=bold)
    right.set_yticks(rows, [SHORT[name] for name in names], fontsize=9)
    right.set(xlabel="test accuracy (bar: mean over the splits)", xlim=(table.min() - 0.01, 1.0))
    right.xaxis.set_major_locator(MultipleLocator(0.02))
    right.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    right.grid(axis="y", visible=False)
    right.set_title("Accuracy on digits that no level saw")
    return figure


def outer(report: Report):
    """Validation loss, test accuracy and wrong labels found over the outer steps."""
    value, accuracy, below = report.findings["outer"].T
    steps = np.arange(value.size)
    figure, grid = plots.canvas(1, 2, (9.6, 3.9))
    left, right = grid[0]
    left.plot(steps, value, color=plots.BLUE)
    left.set(xlabel="outer step", ylabel="validation loss", xlim=(0, steps[-1]))
    right.plot(steps, below, color=plots.VERMILION, label="wrong labels with a weight below the median")
    right.plot(steps, accuracy, color=plots.BLUE, label="test accuracy")
    right.axhline(0.5, color=plots.GREY, lw=1.0, ls=":", label="below the median, by chance")
    right.set(xlabel="outer step", xlim=(0, steps[-1]), ylim=(0.48, 1.0))
    right.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    right.legend(loc="center right")
    return figure


def lowest(report: Report):
    """The training digits of least weight, with the label given; in blue where that was right after all."""
    found = report.findings["lowest"]
    columns = 12
    rows = len(found["given"]) // columns
    figure, grid = plots.canvas(rows, columns, (11.0, 1.2 * rows + 0.6))
    figure.suptitle(
        "Least trusted samples, with the label given (red: wrong, blue: right)",
        fontsize=11,
        weight="bold",
        x=0.0,
        ha="left",
    )
    for axes, image, given, true in zip(grid.ravel(), found["images"], found["given"], found["true"], strict=True):
        axes.imshow(image, cmap="gray_r", interpolation="bilinear")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        colour = plots.VERMILION if given != true else plots.BLUE
        axes.set_title(f"“{given}”", color=colour, loc="center", fontsize=13)
        for side in axes.spines.values():
            side.set(visible=True, color="#C4C9D0", lw=0.8)
    return figure
