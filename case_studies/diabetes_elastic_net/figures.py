"""Figures of the study, from its report alone."""

from pathlib import Path

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, criterion map with the paths, coefficients before and after; returns the files written."""
    found = report.findings
    coefficients = plots.coefficients(found["before"], found["after"], found["names"])
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion_map(report), folder / "criterion.png"),
        plots.save(coefficients, folder / "coefficients.png"),
    ]


def criterion_map(report: Report):
    """The validation loss over both weights, every start's path, and where ElasticNetCV ended."""
    found = report.findings
    figure = plots.criterion(found["grid"], found["values"], report, label="validation loss")
    axes = figure.axes[0]
    others = [path for path, end in zip(found["paths"], found["ends"], strict=True) if end != report.value]
    for number, path in enumerate(map(plots.improving, others)):
        (line,) = axes.plot(
            path[:, 0], path[:, 1], "D-", color="black", lw=1.0, ms=6, mfc=plots.GREY, mec="white", markevery=[0]
        )
        line.set_label("_" if number else "other starts")
    theirs, floor = found["sklearn_theta"], found["grid"]["l2"][0]
    label = f"ElasticNetCV: {found['sklearn_validation_loss']:.5g}"
    place = theirs["l1"], max(theirs["l2"], floor)
    axes.plot(*place, "P", color=plots.SKY, mec="black", mew=0.8, ms=7, zorder=8, clip_on=False, label=label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure
