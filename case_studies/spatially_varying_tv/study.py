"""Total variation with one weight, one a patch or one a pixel: what a map of weights gains where the truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import invhyper as ih

NOISE = 0.1  # standard deviation; the picture's greys lie between 0 and 1
START, LOWEST, HIGHEST = 0.06, 1e-4, 10.0
SOLVES = 70  # of the lower level, for each number of weights


def camera(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The photographer, `side` x `side` pixels, and the same under noise."""
    try:
        from skimage import data, transform
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "spatially_varying_tv needs the test image of scikit-image, which is not installed: "
            "pip install 'invhyper[imaging]'"
        ) from None
    truth = transform.resize(data.camera() / 255, (side, side), anti_aliasing=True)
    return truth, truth + NOISE * np.random.default_rng(seed).standard_normal(truth.shape)


def learn(truth: np.ndarray, noisy: np.ndarray, patches: int, solves: int, **options) -> ih.Report:
    """The weights of `patches` x `patches` equal patches of the image, on a log scale, by the default search."""
    problem = ih.Bilevel(ih.TotalVariation(noisy), ih.Truth(truth))
    weight = ih.log(np.full((patches, patches), START), LOWEST, HIGHEST)
    return ih.tune(problem, ih.Parameters(weight=weight), solves=solves, **options)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn ever finer maps of weights, each from one constant.

    **Arguments**: `quick`: 64 x 64 pixels and 30 solves each, for 128 x 128 and 70; `seed`: of the noise; `watch`: as
    in `tune`. The report is that of the search with a weight for every pixel; the others are in the findings.
    """
    side, solves, every = (64, 30, (1, 4, 16, 64)) if quick else (128, SOLVES, (1, 4, 16, 32, 128))
    truth, noisy = camera(side, seed)
    afresh = ih.TotalVariation(camera(side, seed + 1)[1])
    findings = {"pixels": side**2, "patches": list(every), "solves": solves, "noisy_psnr": ih.psnr(noisy, truth)}
    pictures, maps, values = {"noisy": noisy, "truth": truth}, {}, {}
    for patches in every:
        report = learn(truth, noisy, patches, solves, watch=watch, seed=seed)
        name = str(patches)
        pictures[name], maps[name] = report.solution.x, report.theta["weight"]
        values[name] = np.array([step.value for step in report.history])
        findings[f"psnr_{patches}"] = ih.psnr(report.solution.x, truth)
        findings[f"ssim_{patches}"] = ih.ssim(report.solution.x, truth)
        findings[f"fresh_psnr_{patches}"] = ih.psnr(ih.solve(afresh, report.theta).x, truth)
    findings |= {f"{what}_pixels": findings[f"{what}_{side}"] for what in ("psnr", "ssim", "fresh_psnr")}
    findings |= {"pictures": pictures, "maps": maps, "values": values}
    return replace(report, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [f"{'weights':>10}{'PSNR / dB':>12}{'SSIM':>9}{'on other noise':>17}{'solves':>8}{'from':>9}{'to':>9}"]
    for patches in found["patches"]:
        psnr, ssim, fresh = (found[f"{what}_{patches}"] for what in ("psnr", "ssim", "fresh_psnr"))
        low, high = np.quantile(found["maps"][str(patches)], (0.05, 0.95))
        solves = len(found["values"][str(patches)])
        lines.append(f"{patches**2:10,}{psnr:12.3f}{ssim:9.4f}{fresh:17.3f}{solves:8d}{low:9.4f}{high:9.4f}")
    lines.append(f"noisy: {found['noisy_psnr']:.2f} dB; from, to: 5 and 95 % of the weights")
    return lines
