"""Figures of the study, from its report alone."""

from pathlib import Path

from invhyper import Drawn, Report, plots

EFFECTS = ("fast rate, random effect", "slow amplitude, random effect")
UNITS = {"time": "time (h)", "observed": "indometacin (mg/L)"}


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, individual fits, observed against predicted, predictive check, shrinkage; returns the files written."""
    fit = Drawn.of(report.findings["drawn"])
    individual = plots.individual_fits(fit, columns=3)
    for axes in individual.axes:
        axes.set(yscale="log", ylim=(0.03, 4))
        plots.log_ticks(axes.yaxis)
        if axes.get_xlabel():
            axes.set_xlabel(UNITS["time"])
    individual.supylabel(UNITS["observed"])
    both = plots.observed_predicted(fit)
    for axes in both.axes:
        axes.set(xscale="log", yscale="log")
        plots.log_ticks(axes.xaxis)
        plots.log_ticks(axes.yaxis)
        axes.set_xlabel(f"{axes.get_xlabel()} (mg/L)")
    both.axes[0].set_ylabel(UNITS["observed"])
    check = plots.predictive_check(fit)
    check.axes[0].set(yscale="log", xlabel=UNITS["time"], ylabel=UNITS["observed"])
    plots.log_ticks(check.axes[0].yaxis)
    figures = {
        "descent": plots.descent(report),
        "individual_fits": individual,
        "observed_predicted": both,
        "predictive_check": check,
        "shrinkage": plots.shrinkage(fit, labels=EFFECTS),
    }
    return [plots.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
