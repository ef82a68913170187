"""Weights learned on a training set of images and used on others: how much is lost for not tuning each by itself?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import invhyper as ih

NOISE = 0.1
TRAINING = ("camera", "coins", "astronaut", "brick", "coffee", "moon")
TEST = ("chelsea", "rocket", "page", "grass", "clock", "cell")
MODELS = ("one", "two")  # one weight: total variation; two: total variation and second differences
START = {"one": {"weight": 0.01}, "two": {"edges": 0.005, "bends": 0.005}}


@dataclass(frozen=True)
class Picture:
    """An image of scikit-image and its noisy copy."""

    name: str
    truth: np.ndarray
    noisy: np.ndarray


def pictures(names: Sequence[str], side: int, rng: np.random.Generator) -> list[Picture]:
    """The middle squares of images that scikit-image brings along, grey, resized, with Gaussian noise."""
    try:
        from skimage import color, data, transform
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "learning_from_many_images needs the test images of scikit-image, which is not installed: "
            "pip install 'invhyper[imaging]'"
        ) from None
    found = []
    for name in names:
        image = getattr(data, name)()
        image = color.rgb2gray(image) if image.ndim == 3 else image / 255.0
        short = min(image.shape)
        square = tuple(slice((size - short) // 2, (size - short) // 2 + short) for size in image.shape)
        truth = transform.resize(image[square], (side, side), anti_aliasing=True)
        found.append(Picture(name, truth, truth + NOISE * rng.standard_normal(truth.shape)))
    return found


def lower(model: str, noisy: np.ndarray) -> ih.LowerLevel:
    """Total variation, alone or together with second differences."""
    if model == "one":
        return ih.TotalVariation(noisy)
    bends = ih.Differences(noisy.shape, order=2)
    return ih.Composite(noisy, {"edges": ih.TV(), "bends": ih.L1(bends)})


def learn(model: str, chosen: Sequence[Picture], start: dict, tol: float, **options) -> ih.Report:
    """The weights that are best for all chosen pictures together."""
    weights = ih.Parameters(**{name: ih.log(float(weight), 1e-3, 1.0) for name, weight in start.items()})
    problem = ih.Bilevel(
        ih.Together([lower(model, picture.noisy) for picture in chosen]),
        ih.Truth(tuple(picture.truth for picture in chosen)),
    )
    return ih.tune(problem, weights, ih.Implicit(), ih.LBFGSB(), tol=tol, **options)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn one weight and two on training images, use them on test images, compare with each image's own best.

    **Arguments**: `quick`: 3 + 3 images of 32 x 32 for 6 + 6 of 64 x 64; `seed`: of the noise; `watch`: as in `tune`.
    The report is that of the two learned weights; the rest is in the findings.
    """
    side, count, points = (32, 3, 17) if quick else (64, 6, 33)
    rng = np.random.default_rng(seed)
    training, test = (pictures(names[:count], side, rng) for names in (TRAINING, TEST))
    one, two = (learn(model, training, START[model], 1e-3, watch=watch, seed=seed) for model in MODELS)
    learned = {"one": one.theta, "two": two.theta}
    chosen = training + test
    own = {model: [learn(model, [picture], learned[model], 1e-3, steps=12) for picture in chosen] for model in MODELS}

    decibels = {"noisy": [ih.psnr(picture.noisy, picture.truth) for picture in chosen]}
    shown = {"noisy": [picture.noisy for picture in chosen], "truth": [picture.truth for picture in chosen]}
    for model in MODELS:
        columns = {
            f"{model}_start": [ih.solve(lower(model, picture.noisy), START[model]).x for picture in chosen],
            f"{model}_learned": [ih.solve(lower(model, picture.noisy), learned[model]).x for picture in chosen],
            f"{model}_own": [report.solution.x[0] for report in own[model]],
        }
        shown |= columns
        for name, column in columns.items():
            decibels[name] = [ih.psnr(x, picture.truth) for x, picture in zip(column, chosen, strict=True)]
    decibels = {name: np.array(column) for name, column in decibels.items()}

    grid = np.geomspace(0.01, 0.2, points)
    curves = np.array([error_curve(picture, grid) for picture in training])
    findings = {
        "one_weight": float(one.theta["weight"]),
        "edges": float(two.theta["edges"]),
        "bends": float(two.theta["bends"]),
        "one_loss": one.value,
        "two_loss": two.value,
        "one_solves": one.history[-1].solves,
        "two_solves": two.history[-1].solves,
        "names": [picture.name for picture in chosen],
        "training": len(training),
        "decibels": decibels,
        **{f"test_psnr_{name}": float(column[len(training) :].mean()) for name, column in decibels.items()},
        "own_losses": np.array([report.value for report in own["one"]]),
        "own_weights": np.array([float(report.theta["weight"]) for report in own["one"]]),
        "grid": grid,
        "curves": curves,
        "one_path": np.array([[step.theta["weight"], step.value] for step in one.history]),
        "pictures": {name: np.array(column) for name, column in shown.items()},
    }
    return replace(two, findings={**findings, "summary": summary(findings)})


def error_curve(picture: Picture, grid: np.ndarray) -> np.ndarray:
    """The error of one image over the weight of its total variation."""
    problem = ih.Bilevel(lower("one", picture.noisy), ih.Truth(picture.truth))
    return ih.sweep(problem, {"weight": grid})[0]


def summary(found: dict) -> list[str]:
    """PSNR of every image before and after, learned and its own best, for a person."""
    columns = ("noisy", "one_learned", "one_own", "two_learned", "two_own")
    header = "".join(f"{name.replace('_', ', '):>14}" for name in columns)
    lines = [f"{'PSNR / dB':24}{header}"]
    decibels = found["decibels"]
    for i, name in enumerate(found["names"]):
        label = f"{name} ({'training' if i < found['training'] else 'test'})"
        lines.append(f"{label:24}" + "".join(f"{decibels[column][i]:14.2f}" for column in columns))
    lines.append(f"{'mean of the test images':24}" + "".join(f"{found[f'test_psnr_{name}']:14.2f}" for name in columns))
    lost = {model: found[f"test_psnr_{model}_own"] - found[f"test_psnr_{model}_learned"] for model in MODELS}
    lines.append(
        f"learned: weight {found['one_weight']:.4g}; edges {found['edges']:.4g} and bends {found['bends']:.4g}. "
        f"Tuning each test image by its own truth would gain {lost['one']:.2f} and {lost['two']:.2f} dB"
    )
    return lines
