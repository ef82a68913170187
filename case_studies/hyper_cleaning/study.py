"""Half of the training labels are wrong: one weight for each sample, learned from a small clean validation set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import invhyper as ih

TRAIN, VALIDATE = 1000, 200  # the other 597 digits test
RATE, RIDGE, STEPS = 4.0, 1e-3, 100
WAYS = ("all samples", "validation alone", "all and validation", "cleaned", "kept and validation", "clean alone")


@dataclass(frozen=True)
class Digits:
    """Features (pixels less their mean over the training set, and a one) and labels of the three sets."""

    A: np.ndarray
    given: np.ndarray
    true: np.ndarray
    A_val: np.ndarray
    y_val: np.ndarray
    A_test: np.ndarray
    y_test: np.ndarray
    images: np.ndarray

    @property
    def corrupted(self) -> np.ndarray:
        """Which training labels are wrong."""
        return self.given != self.true


def digits(seed: int) -> Digits:
    """A random split of scikit-learn's digits; half of the training labels are replaced by one of the other nine."""
    data, rng = load_digits(), np.random.default_rng(seed)
    train, validate, test = np.split(rng.permutation(len(data.target)), [TRAIN, TRAIN + VALIDATE])
    pixels = data.data / 16.0
    A = np.hstack([pixels - pixels[train].mean(axis=0), np.ones((len(pixels), 1))])
    true = data.target[train]
    wrong = rng.choice(TRAIN, TRAIN // 2, replace=False)
    given = true.copy()
    given[wrong] = (true[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return Digits(
        A[train], given, true, A[validate], data.target[validate], A[test], data.target[test], data.images[train]
    )


class Weighted(eqx.Module):
    """1/n sum_i w_i cross-entropy_i(x) + RIDGE/2 |x|^2, softmax regression with coefficients x (65, 10)."""

    A: jax.Array
    y: jax.Array

    def __call__(self, x, theta):
        return jnp.sum(theta["w"] * cross_entropy(x, self.A, self.y)) / self.y.size + 0.5 * RIDGE * jnp.sum(x**2)


class Validation(eqx.Module):
    """The mean cross-entropy of the validation set."""

    A: jax.Array
    y: jax.Array

    def __call__(self, x, theta):
        return jnp.mean(cross_entropy(x, self.A, self.y))


def cross_entropy(x, A, y):
    """-log of the probability that softmax regression gives to the label, for each row."""
    return -jnp.take_along_axis(jax.nn.log_softmax(A @ x), y[:, None], axis=1)[:, 0]


def training(A, y) -> ih.GradientDescent:
    """Gradient descent of a fixed step size from x = 0."""
    return ih.GradientDescent(Weighted(jnp.asarray(A), jnp.asarray(y)), np.zeros((65, 10)), ih.Constant(RATE))


def problem(data: Digits) -> ih.Bilevel:
    """Validation loss of the run over the weights of its samples."""
    return ih.Bilevel(training(data.A, data.given), Validation(jnp.asarray(data.A_val), jnp.asarray(data.y_val)))


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn a weight for each training sample, split after split; train on other sets for comparison.

    **Arguments**: `quick`: one split for 10, half the outer steps, no implicit hypergradient; `seed`: of the first
    split; `watch`: as in `tune`. The report is that of the first split.
    """
    data = digits(seed)
    report = clean(data, 30 if quick else 60, watch)
    splits = [judged(data, report)]
    for i in range(1, 1 if quick else 10):
        other = digits(seed + i)
        splits.append(judged(other, clean(other)))
    weights = np.asarray(report.theta["w"])
    lowest = np.argsort(weights)[:24]
    findings = {
        "splits": len(splits),
        "below_median": float(np.mean([split["below_median"] for split in splits])),
        "least_below_median": min(split["below_median"] for split in splits),
        "accuracy": {way: float(np.mean([split["accuracy"][way] for split in splits])) for way in WAYS},
        "least_gain": min(split["accuracy"]["cleaned"] - split["accuracy"]["all samples"] for split in splits),
        "accuracies": np.array([[split["accuracy"][way] for way in WAYS] for split in splits]),
        "first": [splits[0]["below_median"], splits[0]["accuracy"]["cleaned"]],
        "below_medians": np.array([split["below_median"] for split in splits]),
        "weights": weights,
        "corrupted": data.corrupted,
        "lowest": {key: getattr(data, key)[lowest] for key in ("images", "given", "true")},
        "outer": outer(data, report),
        **({} if quick else {"implicit": by_implicit(data)}),
    }
    findings |= {"cleaned": findings["accuracy"]["cleaned"], "all": findings["accuracy"]["all samples"]}
    provenance = report.provenance | {"seed": seed}
    return replace(report, provenance=provenance, findings={**findings, "summary": summary(findings)})


def clean(data: Digits, steps: int = 60, watch: Sequence[Callable] = (), hypergradient=None, **options) -> ih.Report:
    """The weights tuned by Adam through the whole run, from 1/2 each."""
    weights = ih.Parameters(w=ih.logit(np.full(len(data.given), 0.5)))
    through = ih.Unrolled(STEPS) if hypergradient is None else hypergradient
    return ih.tune(problem(data), weights, through, ih.Adam(rate=0.2, steps=steps), watch=watch, **options)


def judged(data: Digits, report: ih.Report) -> dict:
    """How many wrong labels were found, and the test accuracy beside that of training on other sets."""
    weights = np.asarray(report.theta["w"])
    none, each = np.zeros(TRAIN), np.ones(VALIDATE)
    sets = {
        "all samples": (none + 1, 0 * each),
        "clean alone": (~data.corrupted, 0 * each),
        "validation alone": (none, each),
        "all and validation": (none + 1, each),
        "kept and validation": (weights > 0.5, each),
    }
    found = {way: accuracy(trained(data, np.concatenate(parts).astype(float)), data) for way, parts in sets.items()}
    return {
        "below_median": float(np.mean(weights[data.corrupted] < np.median(weights))),
        "accuracy": {**found, "cleaned": accuracy(report.solution.x, data)},
    }


def trained(data: Digits, mask: np.ndarray) -> np.ndarray:
    """x after the same run on the mean loss of the samples in `mask`, from the training and validation sets."""
    A, y = np.vstack([data.A, data.A_val]), np.concatenate([data.given, data.y_val])
    return _ran(training(A, y), {"w": jnp.asarray(mask * (mask.size / mask.sum()))})


@eqx.filter_jit
def _ran(iteration, theta):
    return ih.layer(iteration, ih.Unrolled(STEPS))(theta)


def accuracy(x, data: Digits) -> float:
    """Share of the test digits that are recognised."""
    return float(np.mean(np.argmax(data.A_test @ np.asarray(x), axis=1) == data.y_test))


def outer(data: Digits, report: ih.Report) -> np.ndarray:
    """(validation loss, test accuracy, share of wrong labels below the median) at each outer step."""
    descent, found = training(data.A, data.given), []
    for step in report.history:
        w = np.asarray(step.theta["w"])
        below = np.mean(w[data.corrupted] < np.median(w)) if np.ptp(w) > 0 else np.nan
        found.append((step.value, accuracy(_ran(descent, {"w": jnp.asarray(w)}), data), below))
    return np.array(found)


def by_implicit(data: Digits) -> dict:
    """The same weights at the minimum of the loss, which is strongly convex, instead of after a run."""
    lower = ih.Smooth(Weighted(jnp.asarray(data.A), jnp.asarray(data.given)), np.zeros((65, 10)))
    weights = ih.Parameters(w=ih.logit(np.full(TRAIN, 0.5)))
    it = ih.Bilevel(lower, problem(data).criterion)
    report = ih.tune(it, weights, ih.Implicit(), ih.Adam(rate=0.2, steps=60), lower_tol=1e-6)
    found = judged(data, report)
    return {"below_median": found["below_median"], "cleaned": found["accuracy"]["cleaned"], "value": report.value}


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [
        f"{found['splits']} random split{'s' * (found['splits'] > 1)}: {100 * found['below_median']:.1f} % of the wrong"
        f" labels get a weight below the median, {100 * found['least_below_median']:.1f} % at least",
        "test accuracy, mean: "
        + ", ".join(f"{100 * value:.1f} % {way}" for way, value in found["accuracy"].items() if way != "clean alone")
        + f"; {100 * found['accuracy']['clean alone']:.1f} % if one knew which labels are right and used them alone",
    ]
    if "implicit" in found:
        implicit = found["implicit"]
        lines.append(
            f"first split, weights at the minimum by Implicit(): {100 * implicit['below_median']:.1f} % below the"
            f" median, test accuracy {100 * implicit['cleaned']:.1f} %; through the run {100 * found['first'][0]:.1f} %"
            f" and {100 * found['first'][1]:.1f} %"
        )
    return lines
