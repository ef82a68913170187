"""Total-variation denoising of a photograph, its weight tuned by the truth: anisotropic and isotropic."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import invhyper as ih

NOISE = 0.1  # standard deviation; the picture's greys lie between 0 and 1
START, LOWEST = 0.2, 0.005  # the start smooths far too much, the lowest weight too little
WEIGHT = ih.Parameters(weight=ih.log(START, LOWEST, START))
KINDS = {"anisotropic": False, "isotropic": True}


def camera(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The photographer, `side` x `side` pixels, and the same under noise."""
    try:
        from skimage import data, transform
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "tv_denoising needs the test image of scikit-image, which is not installed: pip install 'invhyper[imaging]'"
        ) from None
    truth = transform.resize(data.camera() / 255, (side, side), anti_aliasing=True)
    return truth, truth + NOISE * np.random.default_rng(seed).standard_normal(truth.shape)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune the weight of either kind of total variation.

    **Arguments**: `quick`: 48 x 48 pixels for 128 x 128; `seed`: of the noise; `watch`: as in `tune`.
    The report is that of the anisotropic search; the other is in the findings.
    """
    side, points = (48, 8) if quick else (128, 11)
    truth, noisy = camera(side, seed)
    grid = np.geomspace(LOWEST, START, points)
    findings = {"pixels": side**2, "noisy_psnr": ih.psnr(noisy, truth), "grid": grid}
    pictures, reports = {"noisy": noisy, "truth": truth}, {}
    for kind, isotropic in KINDS.items():
        lower = ih.TotalVariation(noisy, isotropic=isotropic)
        problem = ih.Bilevel(lower, ih.Truth(truth))
        report = reports[kind] = ih.tune(problem, WEIGHT, watch=watch, seed=seed)
        after, path = report.solution.x, report.history
        findings |= {
            f"{kind}_weight": float(report.theta["weight"]),
            f"{kind}_loss": report.value,
            f"{kind}_psnr": ih.psnr(after, truth),
            f"{kind}_ssim": ih.ssim(after, truth),
            f"{kind}_solves": path[-1].solves,
            f"{kind}_path": np.array([[step.theta["weight"], step.value, step.gradient["weight"]] for step in path]),
            f"{kind}_curve": ih.sweep(problem, {"weight": grid})[0],
        }
        before = ih.solve(lower, {"weight": START}).x
        findings[f"{kind}_before_psnr"] = ih.psnr(before, truth)
        pictures |= {f"{kind}_before": before, f"{kind}_after": after}
    findings["pictures"] = pictures
    return replace(reports["anisotropic"], findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [f"{'total variation':18}{'weight':>12}{'PSNR / dB':>12}{'SSIM':>8}{'solves':>8}"]
    for kind in KINDS:
        weight, psnr, ssim, solves = (found[f"{kind}_{what}"] for what in ("weight", "psnr", "ssim", "solves"))
        lines.append(f"{kind:18}{weight:12.6f}{psnr:12.3f}{ssim:8.4f}{solves:8d}")
    bad = ", ".join(f"{found[f'{kind}_before_psnr']:.2f}" for kind in KINDS)
    lines.append(f"noisy: {found['noisy_psnr']:.2f} dB; at the start, weight {START:g}: {bad} dB")
    return lines
