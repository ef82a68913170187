"""A rate inside, an initial condition outside: the smallest hierarchical ODE problem, beside its closed form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

import invhyper as ih

TIMES = np.linspace(0.0, 5.0, 51)
TRUE_P, TRUE_Q, NOISE = 1.2, 0.9, 0.02
WRONG_Q, LOWER, UPPER = -1.0, -1.5, 3.0
KNOWN_Q = 0.4  # where p* = 1.43672283939 and dF/dq = -2.12846620416 are known for seed 0
TOLERANCE = 1e-10
EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


def shapes(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """e^-t and k(t) of x = q e^-t + p k(t), the solution of x' = -x + p sin 3t, x(0) = q."""
    decay = np.exp(-t)
    return decay, (np.sin(3 * t) - 3 * np.cos(3 * t) + 3 * decay) / 10


@dataclass(frozen=True)
class ClosedForm:
    """p*(q), F(q), dF/dq and the best q, by linear algebra: p* is linear in q, and F a parabola."""

    data: np.ndarray

    def _miss(self):
        """The held-out residual as a line in q: y - (intercept + slope q)."""
        decay, k = shapes(TIMES)
        inner, outer = (k[EVEN], decay[EVEN]), (k[ODD], decay[ODD])
        at_zero, along = inner[0] @ self.data[EVEN], -inner[0] @ inner[1]
        at_zero, along = (value / (inner[0] @ inner[0]) for value in (at_zero, along))
        return at_zero, along, self.data[ODD] - at_zero * outer[0], -(outer[1] + along * outer[0])

    def p(self, q):
        at_zero, along, _, _ = self._miss()
        return at_zero + along * q

    def value(self, q):
        _, _, miss, slope = self._miss()
        return np.sum((miss + np.multiply.outer(q, slope)) ** 2, axis=-1)

    def slope(self, q):
        _, _, miss, slope = self._miss()
        return 2 * (miss @ slope + np.asarray(q) * (slope @ slope))

    def best(self) -> float:
        _, _, miss, slope = self._miss()
        return float(-(miss @ slope) / (slope @ slope))


def measure(seed: int) -> np.ndarray:
    """x at all times with noise."""
    decay, k = shapes(TIMES)
    return TRUE_Q * decay + TRUE_P * k + NOISE * np.random.default_rng(seed).standard_normal(TIMES.size)


def calibration(times: np.ndarray, data: np.ndarray) -> ih.Calibration:
    """p of x' = -x + p sin 3t by least squares, x(0) = q given."""
    return ih.Calibration(
        rhs=lambda t, x, p, theta: -x + p * jnp.sin(3 * t),
        initial=lambda p, theta: theta["q"],
        observe=lambda t, x, p, theta: x,
        times=times,
        data=data,
        noise=1.0,
        start=0.0,
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune q from a wrong start: p fits the even times, F judges the odd ones; then walk over q beside the closed form.

    **Arguments**: `quick`: 10 points on the curve for 28; `seed`: of the noise; `watch`: as in `tune`.
    """
    data = measure(seed)
    exact = ClosedForm(data)
    lower = calibration(TIMES[EVEN], data[EVEN])
    problem = ih.Bilevel(lower, ih.Misfit(calibration(TIMES[ODD], data[ODD])))
    start = ih.Parameters(q=ih.linear(WRONG_Q, LOWER, UPPER))
    report = ih.tune(problem, start, search=ih.LBFGSB(), watch=watch, seed=seed)

    grid = np.linspace(LOWER, UPPER, 10 if quick else 28)
    walk = along(problem, grid)
    (known,) = along(problem, [KNOWN_Q])
    slopes = np.array([float(each.gradient["q"]) for each in walk])
    steepest = np.max(np.abs(slopes))
    fine = np.linspace(0.0, TIMES[-1], 301)
    simulate = jax.jit(lambda p, q: lower.simulate(p, {"q": q}, fine))
    fits = {"start": WRONG_Q, "tuned": float(report.theta["q"])}
    optima = {name: float(exact.p(q)) for name, q in fits.items()} | {"tuned": float(report.solution.x)}
    findings = {
        "q": fits["tuned"],
        "p": optima["tuned"],
        "loss": report.value,
        "solves": report.history[-1].solves,
        "closed_form_q": exact.best(),
        "closed_form_loss": float(exact.value(exact.best())),
        "p_at_known": float(known.solution.x),
        "slope_at_known": float(known.gradient["q"]),
        "start_q": WRONG_Q,
        "start_p": optima["start"],
        "start_loss": report.history[0].value,
        "worst_slope_error": float(np.max(np.abs(slopes - exact.slope(grid))) / steepest),
        "grid": grid,
        "curve": np.array([each.value for each in walk]),
        "slopes": slopes,
        "inner": np.array([float(each.solution.x) for each in walk]),
        "estimates": np.array([each.certificate.error_estimate for each in walk]),
        "closed_curve": exact.value(grid),
        "closed_slopes": exact.slope(grid),
        "closed_inner": exact.p(grid),
        "times": TIMES,
        "data": data,
        "fine": fine,
        "fits": {name: np.asarray(simulate(optima[name], q)) for name, q in fits.items()},
        "truth": TRUE_Q * shapes(fine)[0] + TRUE_P * shapes(fine)[1],
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def along(problem: ih.Bilevel, grid: Sequence[float]) -> list[ih.Evaluation]:
    """F, its slope and their certificate along q, each solve started from the last."""
    evaluations = []
    for q in grid:
        warm = evaluations[-1] if evaluations else None
        evaluations.append(ih.Implicit()(problem, {"q": float(q)}, warm=warm))
    return evaluations


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    return [
        f"{'':14}{'q':>14}{'p*':>14}{'held-out F':>14}",
        f"{'start':14}{WRONG_Q:14.8g}{found['start_p']:14.8g}{found['start_loss']:14.8g}",
        f"{'tuned':14}{found['q']:14.8g}{found['p']:14.8g}{found['loss']:14.8g}",
        f"{'closed form':14}{found['closed_form_q']:14.8g}{'':14}{found['closed_form_loss']:14.8g}",
        f"{'made with':14}{TRUE_Q:14.8g}{TRUE_P:14.8g}",
        f"{found['solves']} lower-level solves; at q = {KNOWN_Q}: p* = {found['p_at_known']:.11f}, dF/dq ="
        f" {found['slope_at_known']:.11f}; slopes along q within {found['worst_slope_error']:.1e} of the steepest",
    ]
