"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion map with the paths, coefficients before and after; returns the files written."""
    found = report.findings
    size = np.abs(found["before"]) + np.abs(found["after"])
    shown = np.sort(np.argsort(-size, kind="stable")[:40])
    names = [found["names"][i] for i in shown]
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion_map(report), folder / "criterion.png"),
        plots.save(
            plots.coefficients(found["before"][shown], found["after"][shown], names), folder / "coefficients.png"
        ),
    ]


def criterion_map(report: Report):
    """The validation loss over both weights, every start's path, and where ElasticNetCV ended."""
    found = report.findings
    figure = plots.criterion(found["grid"], found["values"], report, label="validation loss")
    axes = figure.axes[0]
    for path in found["paths"]:
        axes.plot(path[:, 0], path[:, 1], "-", color="white", lw=1.0, alpha=0.9, zorder=2)
        axes.plot(*path[0], "D", color=plots.GREY, mec="white", ms=6, zorder=3)
    theirs = found["sklearn_theta"]
    floor = found["grid"]["l2"][0]
    axes.plot(theirs["l1"], max(theirs["l2"], floor), "P", color=plots.SKY, mec="black", ms=9, zorder=6, clip_on=False,
              label=f"ElasticNetCV: {found['sklearn_validation_loss']:.5g}")  # fmt: skip
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
