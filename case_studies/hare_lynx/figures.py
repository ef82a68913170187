"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Identifiability, Report, plots

SPECIES = (("hare", plots.BLUE), ("lynx", plots.VERMILION))
SIDES = 1.96  # of a normal distribution, 95 % within
NOISE = 0.25


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, fit with bands, criterion over weight and first winter, waterfall, profiles; returns the files."""
    found = report.findings
    waterfall = plots.waterfall(found["fits"], found["fits_converged"])
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(fit(report), folder / "fit.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(waterfall, folder / "waterfall.png"),
        plots.save(profiles(report), folder / "profiles.png"),
    ]


def fit(report: Report):
    """Pelts of both species, the fitted curve, and where the curve and a year's pelts lie in 95 of 100 cases."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (8.2, 5.8), sharex=True)
    year, held = found["years"][0] + found["t"], found["held"].astype(bool)
    for k, (axes, (name, colour)) in enumerate(zip(grid[:, 0], SPECIES, strict=True)):
        mean, spread = found["mean"][:, k], SIDES * found["deviation"][:, k]
        wide = SIDES * np.hypot(found["deviation"][:, k], NOISE)
        axes.fill_between(year, np.exp(mean - wide), np.exp(mean + wide), color=colour, alpha=0.12, lw=0,
                          label="95 %: a year's pelts")  # fmt: skip
        axes.fill_between(year, np.exp(mean - spread), np.exp(mean + spread), color=colour, alpha=0.35, lw=0,
                          label="95 %: the curve")  # fmt: skip
        axes.plot(year, np.exp(mean), color=colour, label="fit")
        counts = found["counts"][:, k]
        axes.plot(found["years"][~held], counts[~held], "o", color="black", ms=5, label="fitted years")
        axes.plot(found["years"][held], counts[held], "o", mfc="white", mec="black", mew=1.3, ms=6, label="held out")
        axes.set(yscale="log", ylabel=f"{name} / thousand pelts", ylim=((5, 150), (2.5, 110))[k])
        plots.log_ticks(axes.yaxis)
    grid[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, columnspacing=1.2, frameon=False)
    axes.set(xlabel="year", xlim=(year[0] - 0.5, year[-1] + 0.5), xticks=np.arange(1900, 1921, 4))
    return figure


def criterion(report: Report):
    """The held-out misfit over the prior's weight, and over the first winter with the path of the search."""
    found = report.findings
    figure, grid = plots.canvas(1, 2, (12.0, 4.8))
    left, right = grid[0]
    best = np.array([[found["weight"], found["held_out_misfit"]]])
    plots.criterion({"weight of the prior": found["weights"]}, found["curve"], path=best, axes=left,
                    label="held-out misfit")  # fmt: skip
    marks = [line for line in left.lines if not line.get_label().startswith("evaluated")]
    left.legend(handles=marks, loc="upper left", frameon=False)
    path = found["path"]
    (hare, lynx), ends = (found["winter"][name] for name in ("hare", "lynx")), path[:, [0, 1, 3]]
    inside = (ends[:, 0] >= hare[0]) & (ends[:, 0] <= hare[-1]) & (ends[:, 1] >= lynx[0]) & (ends[:, 1] <= lynx[-1])
    plots.criterion({"hares in 1900 / thousand pelts": hare, "lynxes in 1900 / thousand pelts": lynx}, found["winters"],
                    path=ends[inside], axes=right, label="held-out misfit")  # fmt: skip
    return figure


def profiles(report: Report):
    """How well each rate is known, on its logarithm."""
    known = Identifiability.of(report.findings["identifiability"])
    figure = plots.profiles(known, columns=2)
    for axes, name in zip(figure.axes, known.profiles, strict=False):
        axes.set_xlabel(f"ln {name}")
    return figure
