"""The 1-D denoising benchmark of Ehrhardt and Roberts: one total-variation weight learned from ten signals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import invhyper as ih

SMOOTHING, RIDGE = 1e-3, 1e-3
START, LOWER, UPPER = 0.0, -6.0, 3.0
LEAST, WITHIN = 1.3714888338, 1e-8  # the least F, and how close to it counts as reached
PUBLISHED_TH, PUBLISHED_EVALUATIONS = -0.30893623971589346, 20  # where the authors' search spent its budget


@dataclass(frozen=True)
class Signals:
    """`truth` and `noisy`, a signal a row, on the `place`s of [-2, 2]."""

    truth: np.ndarray
    noisy: np.ndarray

    @property
    def place(self) -> np.ndarray:
        return np.linspace(-2.0, 2.0, self.truth.shape[1])


def published() -> Signals:
    """The ten signals of the benchmark."""
    folder = Path(__file__).parent / "data"
    return Signals(*(np.loadtxt(folder / f"er1d_{kind}.csv", delimiter=",") for kind in ("truth", "noisy")))


def signals(seed: int, count: int = 10) -> Signals:
    """Boxes of random place and width under noise 0.1, drawn as the benchmark's are; seed 0 draws those very ones."""
    rng, place = np.random.RandomState(seed), np.linspace(-2.0, 2.0, 256)
    centre_and_radius = rng.uniform((-1.0, -0.5), (1.0, -1.0), (count, 2))
    truth = np.array([(place - centre) ** 2 < radius**2 for centre, radius in centre_and_radius], float)
    return Signals(truth, truth + 0.1 * rng.standard_normal(truth.shape))


class Denoising(eqx.Module):
    """1/2 |x - y|^2 + 10^th sum_i sqrt((Dx)_i^2 + 1e-6) + 1e-3/2 |x|^2,   (Dx)_i = x_{i-1} - x_i,   x_{-1} = 0."""

    y: Float[Array, " n"]

    def __call__(self, x, theta):
        slope = jnp.diff(x, prepend=0.0)
        variation = jnp.sum(jnp.sqrt(slope**2 + SMOOTHING**2))
        return 0.5 * jnp.sum((x - self.y) ** 2) + 10 ** theta["th"] * variation + 0.5 * RIDGE * jnp.sum(x**2)


class SquaredError(eqx.Module):
    """The sum over the signals of |x - truth|^2."""

    truth: Float[Array, "signals n"]

    def __call__(self, x, theta):
        return jnp.sum((jnp.stack(x) - self.truth) ** 2)


def bilevel(data: Signals) -> ih.Bilevel:
    """Every signal denoised with one weight, judged against the truth."""
    lower = ih.Together([ih.Smooth(Denoising(jnp.asarray(y)), start=np.zeros(y.size)) for y in data.noisy])
    return ih.Bilevel(lower, SquaredError(jnp.asarray(data.truth)))


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn the weight from ten signals, and ask others what it is worth.

    **Arguments**: `quick`: a coarser curve, two fresh sets for twenty; `seed`: 0 for the benchmark's signals, others
    are drawn alike; `watch`: as in `tune`.
    """
    data = published() if seed == 0 else signals(seed)
    problem = bilevel(data)
    report = ih.tune(problem, ih.Parameters(th=ih.linear(START, LOWER, UPPER)), watch=watch, seed=seed)

    least = LEAST if seed == 0 else report.value
    values = np.array([step.value for step in report.history])
    coarse, fine = (19, 25) if quick else (73, 61)
    grid = np.linspace(LOWER, UPPER, coarse)
    near = float(report.theta["th"]) + np.linspace(-0.12, 0.12, fine)
    curve, slopes = ih.sweep(problem, {"th": np.union1d(grid, near)})
    at_start = ih.Implicit()(problem, {"th": START})
    at_published = ih.Implicit()(problem, {"th": PUBLISHED_TH})
    fresh = np.array([one_fresh_set(seed + i, float(report.theta["th"])) for i in range(1, 3 if quick else 21)])
    findings = {
        "th": float(report.theta["th"]),
        "value": report.value,
        "start_value": float(at_start.value),
        "noisy_value": float(np.sum((data.noisy - data.truth) ** 2)),
        "published_value": float(at_published.value),
        "published_slope": float(at_published.gradient["th"]),
        "published_evaluations": PUBLISHED_EVALUATIONS,
        "reached_in": int(np.argmax(values - least <= WITHIN)) + 1,
        "evaluations": len(values),
        "fresh_value": float(fresh[:, 0].mean()),
        "fresh_best": float(fresh[:, 1].mean()),
        "fresh": fresh,
        "grid": np.union1d(grid, near),
        "curve": curve,
        "slopes": slopes["th"],
        "path": np.array([[step.theta["th"], step.value, step.gradient["th"]] for step in report.history]),
        "least": least,
        "place": data.place,
        "truth": data.truth,
        "noisy": data.noisy,
        "before": np.stack(at_start.solution.x),
        "after": np.stack(report.solution.x),
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def one_fresh_set(seed: int, th: float) -> tuple[float, float, float]:
    """On ten other signals: the error of a weight learned elsewhere, the least there is, and the weight that has it."""
    problem = bilevel(signals(seed))
    best = ih.tune(problem, ih.Parameters(th=ih.linear(th, LOWER, UPPER)), search=ih.LBFGSB())
    return best.history[0].value, best.value, float(best.theta["th"])


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    error = {name: found[f"{name}_value"] for name in ("noisy", "start", "fresh")}
    return [
        f"sum of |x - truth|^2 over ten signals: noisy {error['noisy']:.4f}, th = 0 {error['start']:.4f}, tuned"
        f" {found['value']:.10f} at th = {found['th']:.6f}",
        f"within {WITHIN:g} of the least after {found['reached_in']} evaluations;"
        f" {found['evaluations'] - found['reached_in']} more looked for a better valley elsewhere",
        f"at the published end of a derivative-free search, {PUBLISHED_EVALUATIONS} evaluations: F ="
        f" {found['published_value']:.7f}, {found['published_value'] - found['least']:.1e} above the least",
        f"{len(found['fresh'])} sets of ten fresh signals: {error['fresh']:.4f} with the learned weight,"
        f" {found['fresh_best']:.4f} with the best of each",
    ]
