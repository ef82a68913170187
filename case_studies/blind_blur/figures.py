"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter

from invhyper import Report, plots

LABELS = {"held-out": "by a second exposure", "sharp": "by the truth", "wide": "by the truth, other start"}
COLOURS = {"held-out": plots.BLUE, "sharp": plots.GREEN, "wide": plots.VERMILION}


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, the width step by step, both criterion maps, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(widths(report), folder / "widths.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion(report: Report):
    """Both criteria over width and weight, with the searches and the true width."""
    found = report.findings
    figure, grid = plots.canvas(1, 2, (12.6, 5.4))
    left, right = grid[0]
    axes_of = {"width": found["widths"], "weight": found["weights"]}
    plots.criterion(axes_of, found["held_out_map"], path=_inside(found, found["held_out_path"]), axes=left,
                    label="error on the second exposure")  # fmt: skip
    plots.criterion(axes_of, found["truth_map"], path=_inside(found, found["oracle_paths"]["sharp"]), axes=right,
                    label="error against the truth")  # fmt: skip
    for axes in (left, right):
        axes.axvline(found["true_width"], color="black", lw=1.2, ls="--")
        axes.annotate("true width", (found["true_width"], 0.02), (4, 0), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", fontsize=9)  # fmt: skip
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="width of the blur / pixels", ylabel="weight of total variation")
    return figure


def _inside(found, path):
    """The steps within the map."""
    kept = np.ones(len(path), bool)
    for column, name in enumerate(("widths", "weights")):
        kept &= (path[:, column] >= found[name][0]) & (path[:, column] <= found[name][-1])
    return path[kept]


def widths(report: Report):
    """The width at every solve of every search."""
    found = report.findings
    paths = {"held-out": found["held_out_path"], **found["oracle_paths"]}
    figure, grid = plots.canvas(1, 1, (6.8, 3.9))
    axes = grid[0, 0]
    for name, path in paths.items():
        axes.plot(np.arange(1, len(path) + 1), path[:, 0], "o-", ms=4.5, lw=1.4, color=COLOURS[name],
                  label=f"{LABELS[name]}: {path[np.argmin(path[:, 2]), 0]:.3f}")  # fmt: skip
    axes.axhline(found["true_width"], color="black", lw=1.2, ls="--", label=f"true width: {found['true_width']:g}")
    axes.set(xlabel="lower-level solves", ylabel="width of the blur / pixels")
    axes.legend(loc="best", frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def pictures(report: Report):
    """Blurred, before, after, truth."""
    found = report.findings
    heads = {
        "blurred": "blurred, noisy",
        "start": "before: wrong width",
        "held-out": "tuned by 2nd exposure",
        "oracle": "tuned by the truth",
        "truth": "truth",
    }
    used = {"start": found["held_out_path"][0, 0], "held-out": found["held_out_width"], "oracle": found["oracle_width"]}
    notes = {name: f"{value:.2f} dB" for name, value in found["psnr"].items()}
    notes |= {name: f"width {width:.2f}, {notes[name]}" for name, width in used.items()}
    notes["truth"] = f"width {found['true_width']:.2f}"
    shown = {f"{head}\n{notes[name]}": found["pictures"][name] for name, head in heads.items()}
    return plots.images(shown, limits=(0.0, 1.0))
