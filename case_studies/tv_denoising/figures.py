"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots

COLOURS = {"anisotropic": plots.BLUE, "isotropic": plots.VERMILION}


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, the criterion over the weight with both paths, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion(report: Report):
    """F over the weight for both kinds, where each search looked, and the slopes that it was given there."""
    found = report.findings
    figure, grid = plots.canvas(size=(7.2, 4.8))
    axes = grid[0, 0]
    for kind, colour in COLOURS.items():
        path = found[f"{kind}_path"]
        weight, curve = np.r_[found["grid"], path[:, 0]], np.r_[found[f"{kind}_curve"], path[:, 1]]
        order = np.argsort(weight)
        best = path[np.argmin(path[:, 1])]
        label = f"{kind}: best weight {best[0]:.4f}, {found[f'{kind}_psnr']:.2f} dB"
        axes.plot(weight[order], curve[order], color=colour, lw=1.6, alpha=0.7)
        for at, value, slope in path[np.abs(np.log(path[:, 0] / best[0])) > 0.1]:
            stretch = np.exp(np.array([-0.2, 0.2]))
            axes.plot(at * stretch, value * stretch ** (slope * at / value), color="black", lw=1.2, zorder=3)
        axes.plot(path[:, 0], path[:, 1], "o", ms=5, mfc="white", mec=colour, mew=1.3, zorder=4)
        axes.plot(*best[:2], "*", ms=15, color=colour, mec="black", mew=0.8, zorder=5, label=label)
    axes.plot([], [], "o", color="black", mfc="white", mew=1.3, label="looked at by the search")
    axes.plot([], [], color="black", lw=1.2, label="slope that it was given")
    axes.set(xscale="log", yscale="log", xlabel="weight", ylabel="criterion F = 1/2 |x - truth|$^2$")
    plots.log_ticks(axes.xaxis)
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.5, frameon=False)
    plots.decibels(axes, found["pixels"])
    return figure


def pictures(report: Report):
    """The noisy photograph, far too large a weight, the tuned weights, and the truth."""
    found, shown = report.findings, report.findings["pictures"]
    start = report.history[0].theta["weight"]
    panels = {f"noisy\n{found['noisy_psnr']:.2f} dB": shown["noisy"]}
    panels[f"before: weight {start:g}\n{found['anisotropic_before_psnr']:.2f} dB"] = shown["anisotropic_before"]
    for kind in COLOURS:
        weight, psnr, ssim = (found[f"{kind}_{what}"] for what in ("weight", "psnr", "ssim"))
        panels[f"{kind}: weight {weight:.4f}\n{psnr:.2f} dB, SSIM {ssim:.3f}"] = shown[f"{kind}_after"]
    panels["truth\n"] = shown["truth"]
    n = len(shown["truth"])
    detail = (slice(round(0.12 * n), round(0.44 * n)), slice(round(0.32 * n), round(0.64 * n)))
    return plots.images(panels, limits=(0.0, 1.0), detail=detail)
