"""Figures of the study, from its report alone."""

from pathlib import Path

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, the criterion over the solves for each number of weights, maps, pictures; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(weights(report), folder / "weights.png"),
        plots.save(pictures(report), folder / "pictures.png"),
    ]


def criterion(report: Report):
    """The best F so far over the lower-level solves, for each number of weights; and what is left on other noise."""
    found = report.findings
    figure, grid = plots.canvas(1, 2, (11.0, 4.6), width_ratios=(1.45, 1))
    left, right = grid[0]
    runs = {
        f"{_counted(patches)}: {found[f'psnr_{patches}']:.2f} dB": found["values"][str(patches)]
        for patches in found["patches"]
    }
    plots.progress(runs, left, label="criterion F = 1/2 |x - truth|$^2$")
    plots.decibels(left, found["pixels"])
    count = [patches**2 for patches in found["patches"]]
    for what, label, colour in (
        ("psnr", "the noise that they were learned on", plots.VERMILION),
        ("fresh_psnr", "other noise", plots.BLUE),
    ):
        right.plot(count, [found[f"{what}_{patches}"] for patches in found["patches"]], "o-", color=colour, label=label)
    right.set(xscale="log", xlabel="weights", ylabel="PSNR / dB")
    right.set_xticks(count, [f"{each:,}" for each in count])
    right.minorticks_off()
    right.legend(loc="upper left", frameon=False)
    for axes, title in zip(grid[0], ("Best so far", "The learned weights, denoising"), strict=True):
        axes.set_title(title, loc="left", fontweight="bold")
    return figure


def weights(report: Report):
    """The learned weights on one logarithmic colour scale."""
    found = report.findings
    panels = {
        f"{_counted(patches)}\n{found[f'psnr_{patches}']:.2f} dB": found["maps"][str(patches)]
        for patches in found["patches"]
        if patches > 1
    }
    return plots.maps(panels)


def pictures(report: Report):
    """The noisy photograph, what one weight makes of it, what many do, and the truth."""
    found, shown = report.findings, report.findings["pictures"]
    panels = {f"noisy\n{found['noisy_psnr']:.2f} dB": shown["noisy"]}
    for patches in (1, 16, found["patches"][-1]):
        psnr, ssim = found[f"psnr_{patches}"], found[f"ssim_{patches}"]
        panels[f"{_counted(patches)}\n{psnr:.2f} dB, SSIM {ssim:.3f}"] = shown[str(patches)]
    panels["truth"] = shown["truth"]
    n = len(shown["truth"])
    detail = (slice(round(0.12 * n), round(0.44 * n)), slice(round(0.32 * n), round(0.64 * n)))
    return plots.images(panels, limits=(0.0, 1.0), detail=detail)


def _counted(patches: int) -> str:
    return "one weight" if patches == 1 else f"{patches} × {patches} weights"
