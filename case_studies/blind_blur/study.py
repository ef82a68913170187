"""Blind deblurring: the width of the blur and the weight of total variation tuned together, from wrong starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import invhyper as ih

CORNER, WIDTH = (40, 150), 160  # the photographer's head, in a picture of 512 x 512
BLUR, NOISE = 1.2, 0.01  # standard deviations: of the Gaussian blur in pixels, of the noise
STARTS = {"sharp": (0.5, 0.004), "wide": (2.0, 0.0005)}  # width, weight


@dataclass(frozen=True)
class Scene:
    """The sharp picture and two blurred, noisy exposures of it."""

    truth: np.ndarray
    y: np.ndarray
    second: np.ndarray


def scene(side: int, seed: int) -> Scene:
    """Two exposures of `side` x `side` pixels, blurred by a Gaussian of width `BLUR` with periodic ends."""
    try:
        from skimage import data, transform
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "blind_blur needs the test image of scikit-image, which is not installed: pip install 'invhyper[imaging]'"
        ) from None
    rows, columns = CORNER
    patch = data.camera()[rows : rows + WIDTH, columns : columns + WIDTH] / 255.0
    truth = transform.resize(patch, (side, side), anti_aliasing=True)
    rng = np.random.default_rng(seed)
    blurred = ih.Blur(width=BLUR, shape=truth.shape).mv(truth)
    y, second = (blurred + NOISE * rng.standard_normal(truth.shape) for _ in range(2))
    return Scene(truth, y, second)


def blur(theta: dict) -> ih.Blur:
    """The operator, a function of theta."""
    return ih.Blur(width=theta["width"])


def in_noise(prediction, y):
    """Squared error in units of the noise's variance: where nothing but noise is left its mean is 1."""
    return ((prediction - y) / NOISE) ** 2


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune width and weight by the truth from two wrong starts, and by a second exposure, without the truth.

    **Arguments**: `quick`: 20 x 20 pixels for 40 x 40, a coarse map; `seed`: of the noise; `watch`: as in `tune`.
    The report is that of the search without the truth; the others are in the findings.
    """
    side, points = (20, 5) if quick else (40, 11)
    view = scene(side, seed)
    lower = ih.TotalVariation(view.y, blur, isotropic=True, boundary="periodic")
    by_truth = ih.Bilevel(lower, ih.Truth(view.truth))
    by_second = ih.Bilevel(lower, ih.HeldOut(blur, view.second, in_noise))

    def tuned(problem, start):
        width, weight = STARTS[start]
        box = ih.Parameters(width=ih.log(width, 0.3, 4.0, unit="pixels"), weight=ih.log(weight, 1e-5, 5e-3))
        tol = 1e-3 if start == "sharp" else 1e-5  # relative to F at the start, which is a hundred times as large there
        return ih.tune(problem, box, ih.Implicit(), ih.LBFGSB(), watch=watch, seed=seed, tol=tol)

    report = tuned(by_second, "sharp")
    oracle = {name: tuned(by_truth, name) for name in (("sharp",) if quick else STARTS)}

    widths, weights = np.geomspace(0.45, 2.4, points), np.geomspace(1e-4, 5e-3, points)
    second, truth = maps(lower, (by_second.criterion, by_truth.criterion), widths, weights)
    width, weight = STARTS["sharp"]
    pictures = {
        "blurred": view.y,
        "start": ih.solve(lower, {"width": width, "weight": weight}).x,
        "held-out": report.solution.x,
        "oracle": oracle["sharp"].solution.x,
        "truth": view.truth,
    }
    pictures = {name: np.asarray(picture) for name, picture in pictures.items()}
    findings = {
        "true_width": BLUR,
        "held_out_loss": report.value,
        "held_out_width": float(report.theta["width"]),
        "held_out_weight": float(report.theta["weight"]),
        "held_out_solves": report.history[-1].solves,
        "oracle_loss": oracle["sharp"].value,
        "oracle_width": float(oracle["sharp"].theta["width"]),
        "oracle_weight": float(oracle["sharp"].theta["weight"]),
        "oracle_solves": oracle["sharp"].history[-1].solves,
        "oracle_widths": np.array([float(found.theta["width"]) for found in oracle.values()]),
        "psnr": {name: ih.psnr(picture, view.truth) for name, picture in pictures.items() if name != "truth"},
        "pixels": side**2,
        "widths": widths,
        "weights": weights,
        "held_out_map": second,
        "truth_map": truth,
        "held_out_path": path(report),
        "oracle_paths": {name: path(found) for name, found in oracle.items()},
        "pictures": pictures,
    }
    findings |= {f"{name.replace('-', '_')}_psnr": value for name, value in findings["psnr"].items()}
    return replace(report, findings={**findings, "summary": summary(findings)})


def path(report: ih.Report) -> np.ndarray:
    """One row a step: width, weight, F."""
    return np.array([[step.theta["width"], step.theta["weight"], step.value] for step in report.history])


def maps(lower: ih.LowerLevel, criteria: Sequence[Callable], widths, weights) -> np.ndarray:
    """The criteria over a grid of widths and weights, one solve a point for all of them; NaN where a solve fails."""
    values, solution = np.full((len(criteria), widths.size, weights.size), np.nan), None
    for i, width in enumerate(widths):
        along = range(weights.size) if i % 2 == 0 else reversed(range(weights.size))
        for j in along:
            theta = {"width": float(width), "weight": float(weights[j])}
            try:
                solution = ih.solve(lower, theta, start=solution)
            except ih.NotConverged:
                continue
            values[:, i, j] = [float(criterion(solution.x, theta)) for criterion in criteria]
    return values


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    width, weight = STARTS["sharp"]
    rows = (
        ("blurred", "blurred", None, None),
        ("start", "start", width, weight),
        ("held-out", "tuned by a second exposure", found["held_out_width"], found["held_out_weight"]),
        ("oracle", "tuned by the truth", found["oracle_width"], found["oracle_weight"]),
    )
    lines = [f"{'':28}{'width':>10}{'weight':>12}{'PSNR / dB':>12}"]
    for name, label, wide, heavy in rows:
        numbers = " " * 22 if wide is None else f"{wide:10.4f}{heavy:12.4g}"
        lines.append(f"{label:28}{numbers}{found['psnr'][name]:12.3f}")
    lines.append(
        f"true width {found['true_width']:g}; {found['held_out_solves']} solves without the truth, "
        f"{found['oracle_solves']} with it; {found['pixels']} pixels"
    )
    return lines
