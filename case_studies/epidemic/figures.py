"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Identifiability, Report, plots

KINDS = (("infective", plots.VERMILION), ("recovered", plots.BLUE))
SIDES = 1.96  # of a normal distribution, 95 % within
NOISE = 2.0


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, fit with bands, criterion over the first day, waterfall, profiles; returns the files written."""
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
    """Both counts, the fitted curves, and where a curve and a day's count lie in 95 of 100 cases."""
    found = report.findings
    figure, grid = plots.canvas(1, 1, (8.2, 4.6))
    axes, held = grid[0, 0], found["held"].astype(bool)
    for k, (name, colour) in enumerate(KINDS):
        mean, spread = found["mean"][:, k], SIDES * found["deviation"][:, k]
        wide = SIDES * np.hypot(found["deviation"][:, k], NOISE)
        axes.fill_between(found["t"], mean - wide, mean + wide, color=colour, alpha=0.10, lw=0)
        axes.fill_between(found["t"], mean - spread, mean + spread, color=colour, alpha=0.32, lw=0)
        axes.plot(found["t"], mean, color=colour, label=name)
        counts = found["counts"][:, k]
        axes.plot(found["days"][~held], counts[~held], "o", color=colour, mec="black", mew=0.6, ms=5.5)
        axes.plot(found["days"][held], counts[held], "o", mfc="white", mec=colour, mew=1.6, ms=6)
    axes.plot([], [], "o", color=plots.GREY, mec="black", mew=0.6, ms=5.5, label="fitted days")
    axes.plot([], [], "o", mfc="white", mec=plots.GREY, mew=1.6, ms=6, label="held out")
    axes.fill_between([], [], color=plots.GREY, alpha=0.45, lw=0, label="95 %: the curve")
    axes.fill_between([], [], color=plots.GREY, alpha=0.18, lw=0, label="95 %: a day's count")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, columnspacing=1.1, handlelength=1.4,
                frameon=False)  # fmt: skip
    axes.set(xlabel="day", ylabel="people", xlim=(0.5, 21.5), ylim=(-5, 44), xticks=np.arange(1, 22, 2))
    return figure


def criterion(report: Report):
    """The held-out misfit over the people of the first day, with the path of the search."""
    found = report.findings
    (across, up), path = (found["first"][name] for name in ("susceptible", "infective")), found["path"]
    inside = (path[:, 0] >= across[0]) & (path[:, 0] <= across[-1]) & (path[:, 1] >= up[0]) & (path[:, 1] <= up[-1])
    return plots.criterion(
        {"susceptible on the first day": across, "infective on the first day": up},
        found["values"],
        path=path[inside],
        label="held-out misfit",
    )


def profiles(report: Report):
    """How well each rate is known, on its logarithm."""
    known = Identifiability.of(report.findings["identifiability"])
    figure = plots.profiles(known, columns=2)
    for axes, name in zip(figure.axes, known.profiles, strict=False):
        axes.set_xlabel(f"ln {name}")
    return figure
