"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion over a shared weight, coefficients, losses on fresh rows; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(shared_curve(report), folder / "criterion.png"),
        plots.save(coefficients(report), folder / "coefficients.png"),
        plots.save(fresh_rows(report), folder / "fresh_rows.png"),
    ]


def shared_curve(report: Report):
    """The validation loss over one shared weight, and the level that thirty weights reach."""
    found = report.findings
    figure = plots.criterion(
        {"l2": found["grid"]}, found["curve"], path=found["shared_path"], label="one shared weight"
    )
    axes = figure.axes[0]
    axes.axhline(found["each_loss"], color=plots.VERMILION, lw=1.6, ls="--", label="thirty weights, tuned")
    axes.set(
        xlabel="shared weight decay l2", ylabel="validation loss (odd rows)", ylim=(0.9 * found["each_loss"], None)
    )
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return figure


def coefficients(report: Report):
    """Coefficients with one weight and with thirty; the thirty weights below them."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (9.0, 6.4), sharex=True, height_ratios=(1.5, 1))
    above, below = grid[:, 0]
    plots.coefficients(
        found["before"], found["after"], found["names"], labels=("one weight", "thirty weights"), axes=above
    )
    above.tick_params(axis="x", labelbottom=False)
    places = np.arange(found["weights"].size)
    below.plot(places, found["weights"], "o", color=plots.VERMILION, ms=5, label="thirty weights")
    below.axhline(found["shared_weight"], color=plots.GREY, lw=1.2, ls="--", label="one weight")
    below.set(yscale="log", ylabel="weight decay l2")
    below.grid(axis="x", visible=False)
    below.tick_params(axis="x", labelrotation=90, labelsize=8)
    below.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure


def fresh_rows(report: Report):
    """Each random split: the loss that was minimised, and the loss on rows that no level saw."""
    found = report.findings
    repeats = found["repeats"]
    figure, grid = plots.canvas(1, 2, (9.0, 4.2), sharey=True)
    titles = ("rows that chose the weights", "fresh rows")
    colours = (plots.BLUE, plots.VERMILION, plots.SKY, plots.ORANGE)
    for column, (axes, title) in enumerate(zip(grid[0], titles, strict=True)):
        losses = repeats[:, :, column]
        ways = len(found["ways"])
        for pair in (slice(0, 2), slice(2, 4))[: ways // 2]:
            axes.plot(np.arange(ways)[pair], losses[:, pair].T, color="#C4C9D0", lw=0.8, zorder=1)
        for way, colour in enumerate(colours[:ways]):
            axes.plot(np.full(len(losses), way), losses[:, way], "o", color=colour, ms=5, alpha=0.8)
            axes.plot([way - 0.22, way + 0.22], [losses[:, way].mean()] * 2, color="black", lw=2.2, zorder=4)
        axes.set_xticks(range(ways), [way.replace(", ", "\n") for way in found["ways"]], fontsize=9)
        axes.set(title=title, yscale="log", xlim=(-0.5, ways - 0.5))
        axes.grid(axis="x", visible=False)
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    grid[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    grid[0, 0].set_ylabel("mean log-loss (bar: mean over the splits)")
    return figure
