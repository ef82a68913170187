"""The weight of basis pursuit denoising for a compressed image, tuned by the truth and by held-out measurements."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

import invhyper as ih

CORNER, WIDTH = (54, 164), 144  # the photographer's head, in a picture of 512 x 512
NOISE = 0.2  # standard deviation, relative to that of the measurements


@dataclass(frozen=True)
class Camera:
    """Measurements of an image through random masks, in the coordinates of its cosine transform.

    `A` (measurements, pixels) maps DCT coefficients to mask sums, `y` are these with noise; the mean grey is measured
    apart (all mirrors on). `truth` holds the coefficients of `image` without its mean.
    """

    image: np.ndarray
    mean: float
    truth: np.ndarray
    A: np.ndarray
    y: np.ndarray

    def picture(self, x: np.ndarray) -> np.ndarray:
        """The image that has the coefficients x."""
        return scipy.fft.idctn(x.reshape(self.image.shape), norm="ortho") + self.mean


def camera(side: int, measurements: int, seed: int) -> Camera:
    """A single-pixel camera: random +-1 masks, `side` x `side` pixels, noise of 20 %."""
    try:
        from skimage import data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "bpdn_weight needs the test image of scikit-image, which is not installed: pip install 'invhyper[imaging]'"
        ) from None
    rows, columns = CORNER
    patch = data.camera()[rows : rows + WIDTH, columns : columns + WIDTH] / 255.0
    cell = WIDTH // side
    image = patch.reshape(side, cell, side, cell).mean(axis=(1, 3))
    mean = float(image.mean())
    truth = scipy.fft.dctn(image - mean, norm="ortho").ravel()
    rng = np.random.default_rng(seed)
    masks = rng.choice([-1.0, 1.0], (measurements, side, side)) / np.sqrt(measurements)
    A = scipy.fft.dctn(masks, axes=(1, 2), norm="ortho").reshape(measurements, -1)
    clean = A @ truth
    y = clean + NOISE * clean.std() * rng.standard_normal(measurements)
    return Camera(image, mean, truth, A, y)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune the weight twice on the same fitted measurements: by those held out, and by the truth that no one has.

    **Arguments**: `quick`: 18 x 18 pixels for 48 x 48; `seed`: of the masks and the noise; `watch`: as in `tune`.
    The report is that of the search on held-out measurements; the other is in the findings.
    """
    side, points = (18, 19) if quick else (48, 37)
    measurements = 3 * side**2 // 5
    held = measurements // 6
    scene = camera(side, measurements, seed)
    lower = ih.BPDN(scene.A[held:], scene.y[held:])
    by_held_out = ih.Bilevel(lower, ih.HeldOut(scene.A[:held], scene.y[:held]))
    by_truth = ih.Bilevel(lower, ih.Truth(scene.truth))
    top = float(ih.weight_max(scene.A[held:], scene.y[held:]))
    weight = ih.Parameters(weight=ih.log(top / 10, top / 200, top))
    report, oracle = (ih.tune(problem, weight, watch=watch, seed=seed) for problem in (by_held_out, by_truth))

    grid = np.geomspace(top / 200, top / 3, points)[::-1]
    held_out, truth = curves(lower, by_held_out.criterion, by_truth.criterion, grid)
    start = ih.solve(lower, {"weight": top / 10}).x
    pictures = {
        "truth": scene.image,
        "start": scene.picture(start),
        "held-out": scene.picture(report.solution.x),
        "oracle": scene.picture(oracle.solution.x),
    }
    decibels = {name: psnr(picture, scene.image) for name, picture in pictures.items() if name != "truth"}
    findings = {
        "weight_max": top,
        "held_out_loss": report.value,
        "held_out_weight": float(report.theta["weight"]),
        "held_out_psnr": decibels["held-out"],
        "held_out_solves": report.history[-1].solves,
        "oracle_loss": oracle.value,
        "oracle_weight": float(oracle.theta["weight"]),
        "oracle_psnr": decibels["oracle"],
        "oracle_solves": oracle.history[-1].solves,
        "start_psnr": decibels["start"],
        "measurements": measurements - held,
        "held_out": held,
        "pixels": side**2,
        "nonzeros": int(np.count_nonzero(report.solution.x)),
        "noise_floor": float((NOISE * (scene.A @ scene.truth).std()) ** 2),
        "grid": grid[::-1],
        "held_out_curve": held_out[::-1],
        "truth_curve": truth[::-1],
        "oracle_path": np.array([[step.theta["weight"], step.value] for step in oracle.history]),
        "before": np.asarray(start),
        "after": np.asarray(report.solution.x),
        "coefficients": scene.truth,
        "pictures": pictures,
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def curves(lower, *rest):
    """The criteria along a descending grid of weights, one solve a weight for all of them."""
    *criteria, grid = rest
    values, solution = [], None
    for weight in grid:
        theta = {"weight": float(weight)}
        solution = ih.solve(lower, theta, start=solution)
        values.append([float(criterion(solution.x, theta)) for criterion in criteria])
    return np.array(values).T


def psnr(picture: np.ndarray, image: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, the peak being 1."""
    return float(-10 * np.log10(np.mean((picture - image) ** 2)))


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [f"{'weight tuned by':26}{'weight':>14}{'PSNR / dB':>12}{'solves':>8}"]
    for name, label in (("held_out", "held-out measurements"), ("oracle", "the truth")):
        lines.append(
            f"{label:26}{found[f'{name}_weight']:14.6g}{found[f'{name}_psnr']:12.3f}{found[f'{name}_solves']:8d}"
        )
    loss = found["oracle_psnr"] - found["held_out_psnr"]
    lines.append(
        f"not knowing the truth costs {loss:.3f} dB; {found['measurements']} measurements fitted and"
        f" {found['held_out']} held out for {found['pixels']} pixels; the start (a tenth of the largest useful weight)"
        f" has {found['start_psnr']:.2f} dB"
    )
    return lines
