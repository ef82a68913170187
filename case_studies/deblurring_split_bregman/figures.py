"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, both criterion curves, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion(report: Report):
    """The error on the second exposure above, the error against the truth below, each with its search and optimum."""
    found = report.findings
    figure, grid = plots.canvas(2, 1, (6.6, 6.4), sharex=True)
    above, below = grid[:, 0]
    for axes, name, label, colour in (
        (above, "held_out", "error on the second exposure", plots.BLUE),
        (below, "oracle", "error against the truth", plots.GREEN),
    ):
        path = found[f"{name}_path"]
        points = np.vstack([np.column_stack([found["grid"], found[f"{name}_curve"]]), path])
        points = points[np.isfinite(points[:, 1])]
        weights, curve = points[np.unique(points[:, 0], return_index=True)[1]].T
        plots.criterion({"weight": weights}, curve, path=path, axes=axes, label=label, colour=colour)
        low, high = curve.min(), curve.max()
        axes.set_ylim(low - 0.08 * (high - low), high + 0.05 * (high - low))
        axes.axvline(found["held_out_weight"], color=plots.BLUE, lw=1.0, alpha=0.6)
        axes.axvline(found["oracle_weight"], color=plots.GREEN, lw=1.0, alpha=0.6)
    above.set(xlabel="", ylabel="error on the second exposure\n(1: the noise)")
    return figure


def pictures(report: Report):
    """Blurred, before, after, truth."""
    found = report.findings
    heads = {
        "blurred": "blurred, noisy",
        "start": "before: the start",
        "held-out": "tuned by 2nd exposure",
        "oracle": "tuned by the truth",
        "truth": "truth",
    }
    notes = {name: f"{value:.2f} dB" for name, value in found["psnr"].items()} | {"truth": f"{found['pixels']} pixels"}
    shown = {f"{head}\n{notes[name]}": found["pictures"][name] for name, head in heads.items()}
    return plots.images(shown, limits=(0.0, 1.0))
