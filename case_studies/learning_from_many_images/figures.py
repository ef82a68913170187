"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from invhyper import Report, plots

COLOURS = (plots.BLUE, plots.VERMILION, plots.GREEN, plots.ORANGE, plots.PURPLE, plots.SKY)


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion, gain of each image, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(gains(report), folder / "gains.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion(report: Report):
    """The training error over one weight with the path of the search; what each image loses away from its own best."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (6.6, 6.4), sharex=True)
    above, below = grid[:, 0]
    curves, weights = found["curves"], found["grid"]
    total = curves.sum(axis=0)
    inside = found["one_path"][(found["one_path"][:, 0] > weights[0]) & (found["one_path"][:, 0] < weights[-1])]
    plots.criterion({"weight": weights}, total, path=inside, axes=above, label="error of all training images")
    above.set(ylim=(0.9 * total.min(), 2.2 * total.min()), xlabel="")
    for name, curve, own, colour in zip(found["names"], curves, found["own_losses"], COLOURS, strict=False):
        below.plot(weights, 10 * np.log10(curve / own), color=colour, lw=1.5, label=name)
    below.axvline(found["one_weight"], color="black", lw=1.2, ls="--", label="learned")
    below.set(xlabel="weight", ylabel="dB lost to the image's own best", ylim=(-0.05, 2.0))
    below.set_xscale("log")
    below.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    below.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    below.xaxis.set_minor_formatter(NullFormatter())
    below.legend(loc="lower left", fontsize=9, frameon=False)
    return figure


def gains(report: Report):
    """PSNR of every image: noisy, with the weights learned from the training images, with its own best ones."""
    found = report.findings
    names, decibels, training = found["names"], found["decibels"], found["training"]
    figure, grid = plots.canvas(1, 1, (7.2, 0.9 + 0.42 * len(names)))
    axes = grid[0, 0]
    place = -(np.arange(len(names)) + np.where(np.arange(len(names)) >= training, 0.7, 0.0))
    axes.hlines(place, decibels["noisy"], decibels["two_learned"], color="#C9CED6", lw=5, zorder=1)
    axes.plot(decibels["noisy"], place, "o", ms=7, mfc="white", mec=plots.GREY, mew=1.4, label="noisy")
    axes.plot(decibels["one_learned"], place, "o", ms=7, color=plots.SKY, label="one weight, learned")
    axes.plot(decibels["two_learned"], place, "o", ms=9, color=plots.BLUE, label="two weights, learned")
    axes.plot(decibels["two_own"], place, "|", ms=17, mew=2.2, color=plots.VERMILION,
              label="two weights, tuned by the image's own truth")  # fmt: skip
    axes.set_yticks(place, names)
    axes.grid(axis="y", visible=False)
    axes.axhline(0.5 * (place[training - 1] + place[training]), color=plots.GREY, lw=0.8)
    right = axes.get_yaxis_transform()
    for first, kind in ((0, "training"), (training, "test")):
        axes.text(0.995, place[first], kind, transform=right, ha="right", va="center", color=plots.GREY, style="italic")
    axes.set(xlabel="PSNR / dB", xlim=(None, max(decibels["two_own"]) + 1.5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, columnspacing=1.5, frameon=False)
    return figure


def pictures(report: Report):
    """Test images that no weight was learned from: noisy, before, learned, truth."""
    found = report.findings
    training, shown, decibels = found["training"], found["pictures"], found["decibels"]
    rows = {
        "noisy": "noisy",
        "two_start": "before: the start",
        "one_learned": "one weight, learned",
        "two_learned": "two weights, learned",
        "truth": "truth",
    }
    chosen = range(training, min(len(found["names"]), training + 4))
    figure, grid = plots.canvas(len(chosen), len(rows), (2.15 * len(rows), 2.35 * len(chosen)))
    for places, i in zip(grid, chosen, strict=True):
        notes = {key: f"{decibels[key][i]:.2f} dB" if key in decibels else found["names"][i] for key in rows}
        heads = {key: head if i == training else " " * (1 + k) for k, (key, head) in enumerate(rows.items())}
        plots.images({f"{heads[key]}\n{notes[key]}": shown[key][i] for key in rows}, places, limits=(0.0, 1.0))
    return figure
