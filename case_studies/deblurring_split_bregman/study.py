"""Deblurring by total variation, its weight tuned by the truth and, without it, by a second exposure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import invhyper as ih

CORNER, WIDTH = (40, 150), 160  # the photographer's head, in a picture of 512 x 512
BLUR, NOISE = 1.5, 0.01  # standard deviations: of the Gaussian blur in pixels, of the noise
START, LEAST, MOST = 1e-4, 5e-5, 3e-3  # of the weight: where the searches start, the least and the most tried


@dataclass(frozen=True)
class Scene:
    """The sharp picture, the blur, and two noisy exposures of the same view."""

    truth: np.ndarray
    blur: ih.Blur
    y: np.ndarray
    second: np.ndarray


def scene(side: int, seed: int) -> Scene:
    """Two exposures, periodically blurred, of `side` x `side` pixels."""
    try:
        from skimage import data, transform
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "deblurring_split_bregman needs the test image of scikit-image, which is not installed: "
            "pip install 'invhyper[imaging]'"
        ) from None
    rows, columns = CORNER
    patch = data.camera()[rows : rows + WIDTH, columns : columns + WIDTH] / 255.0
    truth = transform.resize(patch, (side, side), anti_aliasing=True)
    blur = ih.Blur(width=BLUR, shape=truth.shape, boundary="periodic")
    rng = np.random.default_rng(seed)
    y, second = (blur.mv(truth) + NOISE * rng.standard_normal(truth.shape) for _ in range(2))
    return Scene(truth, blur, y, second)


def in_noise(prediction, y):
    """Squared error in units of the noise's variance: where nothing but noise is left its mean is 1."""
    return ((prediction - y) / NOISE) ** 2


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune the weight twice: by how well the first exposure foretells the second, and by the truth.

    **Arguments**: `quick`: 20 x 20 pixels for 64 x 64; `seed`: of the noise; `watch`: as in `tune`.
    The report is that of the search without the truth; the other is in the findings.
    """
    side, points = (20, 7) if quick else (64, 19)
    view = scene(side, seed)
    lower = ih.TotalVariation(view.y, view.blur, isotropic=True, boundary="periodic")
    by_second = ih.Bilevel(lower, ih.HeldOut(view.blur, view.second, in_noise))
    by_truth = ih.Bilevel(lower, ih.Truth(view.truth))
    weight = ih.Parameters(weight=ih.log(START, LEAST, MOST))
    report, oracle = (
        ih.tune(problem, weight, ih.Implicit(), ih.Bracket(), watch=watch, seed=seed, tol=1e-3)
        for problem in (by_second, by_truth)
    )

    grid = np.geomspace(MOST, LEAST, points)
    second, truth = curves(lower, (by_second.criterion, by_truth.criterion), grid)
    start = ih.solve(lower, {"weight": START})
    pictures = {
        "blurred": view.y,
        "start": start.x,
        "held-out": report.solution.x,
        "oracle": oracle.solution.x,
        "truth": view.truth,
    }
    pictures = {name: np.asarray(picture) for name, picture in pictures.items()}
    findings = {
        "held_out_loss": report.value,
        "held_out_weight": float(report.theta["weight"]),
        "held_out_solves": report.history[-1].solves,
        "oracle_loss": oracle.value,
        "oracle_weight": float(oracle.theta["weight"]),
        "oracle_solves": oracle.history[-1].solves,
        "psnr": {name: ih.psnr(picture, view.truth) for name, picture in pictures.items() if name != "truth"},
        "ssim": {name: ih.ssim(picture, view.truth) for name, picture in pictures.items() if name != "truth"},
        "pixels": side**2,
        "result": oracle.solution.result,
        "grid": grid[::-1],
        "held_out_curve": second[::-1],
        "oracle_curve": truth[::-1],
        "held_out_path": path(report),
        "oracle_path": path(oracle),
        "pictures": pictures,
    }
    findings |= {f"{name.replace('-', '_')}_psnr": value for name, value in findings["psnr"].items()}
    return replace(report, findings={**findings, "summary": summary(findings)})


def path(report: ih.Report) -> np.ndarray:
    """One row a step: the weight, F."""
    return np.array([[step.theta["weight"], step.value] for step in report.history])


def curves(lower: ih.LowerLevel, criteria: Sequence[Callable], grid: np.ndarray) -> np.ndarray:
    """The criteria along a grid of weights, one solve a weight for all of them; NaN where a solve fails."""
    values, solution = np.full((len(criteria), grid.size), np.nan), None
    for i, weight in enumerate(grid):
        theta = {"weight": float(weight)}
        try:
            solution = ih.solve(lower, theta, start=solution)
        except ih.NotConverged:
            continue
        values[:, i] = [float(criterion(solution.x, theta)) for criterion in criteria]
    return values


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [f"{'':26}{'weight':>14}{'PSNR / dB':>12}{'SSIM':>8}{'solves':>8}"]
    rows = (
        ("blurred", "blurred", None, None),
        ("start", "start", START, None),
        ("held-out", "tuned by second exposure", found["held_out_weight"], found["held_out_solves"]),
        ("oracle", "tuned by the truth", found["oracle_weight"], found["oracle_solves"]),
    )
    for name, label, weight, solves in rows:
        weight, solves = (f"{weight:14.5g}" if weight else " " * 14), (f"{solves:8d}" if solves else "")
        lines.append(f"{label:26}{weight}{found['psnr'][name]:12.3f}{found['ssim'][name]:8.3f}{solves}")
    lines.append(
        f"not knowing the truth costs {found['oracle_psnr'] - found['held_out_psnr']:.3f} dB; {found['pixels']} pixels"
    )
    lines.append(found["result"])
    return lines
