"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, both criterion curves, coefficients, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion_curves(report), folder / "criterion.png"),
        plots.save(coefficients(report), folder / "coefficients.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion_curves(report: Report):
    """Held-out error above, error against the truth below, over one weight axis: each with its optimum."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (6.6, 6.2), sharex=True)
    above, below = grid[:, 0]
    plots.criterion({"weight": found["grid"]}, found["held_out_curve"], report, axes=above, label="held-out error")
    plots.criterion({"weight": found["grid"]}, found["truth_curve"], axes=below, label="error against the truth",
                    colour=plots.GREEN, path=found["oracle_path"])  # fmt: skip
    for axes, curve in ((above, found["held_out_curve"]), (below, found["truth_curve"])):
        axes.set_ylim(0.9 * curve.min(), 2.0 * curve.min())
        axes.axvline(found["held_out_weight"], color=plots.BLUE, lw=1.0, alpha=0.5)
        axes.axvline(found["oracle_weight"], color=plots.GREEN, lw=1.0, alpha=0.5)
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    above.set_xlabel("")
    return figure


def coefficients(report: Report):
    """The largest coefficients, sorted by the truth: the start shrinks them, the tuned weight much less."""
    found = report.findings
    order = np.argsort(-np.abs(found["coefficients"]))[:80]
    sign = np.sign(found["coefficients"][order])
    figure = plots.coefficients(
        sign * found["before"][order], sign * found["after"][order], labels=("start", "tuned on held-out measurements")
    )
    axes = figure.axes[0]
    axes.plot(
        np.arange(order.size), sign * found["coefficients"][order], color="black", lw=1.2, label="truth", zorder=1
    )
    axes.set(xlabel="the 80 largest DCT coefficients, by size", ylabel="coefficient (sign of the truth)")
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return figure


def pictures(report: Report):
    """The patch, the start, and what either criterion makes of the measurements."""
    found = report.findings
    shown = found["pictures"]
    titles = {
        "truth": f"truth, {found['pixels']} pixels",
        "start": f"start\n{found['start_psnr']:.2f} dB",
        "held-out": f"held-out measurements\n{found['held_out_psnr']:.2f} dB",
        "oracle": f"truth known\n{found['oracle_psnr']:.2f} dB",
    }
    return plots.images({titles[name]: shown[name] for name in titles}, limits=(0.0, 1.0))
