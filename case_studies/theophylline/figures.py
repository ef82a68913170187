"""Figures of the study, from its report alone."""

from pathlib import Path

from invhyper import Drawn, Report, plots

EFFECTS = ("clearance, random effect", "absorption rate, random effect")
TIME, SEEN = "time (h)", "theophylline (mg/L)"


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, individual fits, observed against predicted, predictive check, shrinkage; returns the files written."""
    fit = Drawn.of(report.findings["drawn"])
    individual = plots.individual_fits(fit)
    for axes in individual.axes:
        if axes.get_xlabel():
            axes.set_xlabel(TIME)
    individual.supylabel(SEEN)
    both = plots.observed_predicted(fit)
    both.axes[0].set_ylabel(SEEN)
    for axes in both.axes:
        axes.set_xlabel(f"{axes.get_xlabel()} (mg/L)")
    check = plots.predictive_check(fit)
    check.axes[0].set(xlabel=TIME, ylabel=SEEN)
    figures = {
        "descent": plots.descent(report),
        "individual_fits": individual,
        "observed_predicted": both,
        "predictive_check": check,
        "shrinkage": plots.shrinkage(fit, labels=EFFECTS),
    }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
