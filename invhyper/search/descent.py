"""Gradient steps under a decreasing lower-level tolerance."""

import equinox as eqx
import jax
import numpy as np

from invhyper.search.objective import Ended, Failed, Objective, Point, Search

SUFFICIENT = 1e-4
TRUSTED = 0.3


class Descent(Search):
    """Projected gradient steps whose lower-level tolerance decreases and which know their own inexactness.

        u_{k+1} = P(u_k - step_k g_k),   accepted if   F_{k+1} <= M_k - 1e-4 g_k.(u_k - u_{k+1}) + e_k + e_{k+1}

    M_k is the largest of the last `memory` values and e_k = c tol_k |F_k| the inexactness of F_k: c is learned whenever
    a point is solved again more tightly. A refused step is shortened by interpolation; an accepted one sets the next
    length by Barzilai and Borwein's quotient. tol_{k+1} is the lesser of `decay` tol_k and a tenth of the relative
    projected gradient, down to the run's `lower_tol`. Where the certificate has an `error_estimate` above 0.3 of the
    gradient, the point is solved again ten times more tightly before a step is taken from it. For lower levels whose
    cost grows with the accuracy asked.

    **Arguments**: `first`: the first tolerance; `decay`: its factor per step; `steps`: evaluations; `memory`: 1 for a
    descent that never rises; `failures`: lower-level failures in a row before it gives up, each of which halves the
    step.

    It ends when the projected gradient is within tol at `lower_tol`, or when no step decreases F (a kink).

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.Descent())
    >>> round(float(report.theta["l2"]), 4)
    0.25

    Pedregosa (2016), proceedings.mlr.press/v48/pedregosa16; step lengths and M_k: Birgin, Martinez and Raydan (2000),
    doi:10.1137/S1052623497330963.
    """

    first: float = eqx.field(static=True, default=1e-2)
    decay: float = eqx.field(static=True, default=0.5)
    steps: int = eqx.field(static=True, default=200)
    memory: int = eqx.field(static=True, default=5)
    failures: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if not 0 < self.first < 1:
            raise ValueError(f"Descent first = {self.first!r}: a tolerance between 0 and 1 is wanted")
        if not 0 < self.decay < 1:
            raise ValueError(f"Descent decay = {self.decay!r}: a factor between 0 and 1 is wanted")
        for name in ("steps", "memory", "failures"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Descent {name} = {value!r}: a whole number, at least 1, is wanted")

    def run(self, objective: Objective) -> str:
        floor = objective.lower_tol
        tol = max(self.first, floor)
        point = objective(objective.start, tol)
        length = 1.0 / max(float(np.linalg.norm(point.slope)), np.finfo(float).tiny)
        inexactness, failed, recent = 1.0, 0, [point.value]
        while len(objective.history) < self.steps:
            done, small = objective.stationary(point), length * np.max(np.abs(point.slope)) < 1e-12
            if point.tol <= floor and done:
                return objective.stationary_sentence(point)
            if point.tol <= floor and small:
                size = objective.gradient_norm(point)
                return (
                    f"no gradient step decreases F further (a kink?): projected gradient {size:.1e} on the search scale"
                )
            if done or small or (point.tol > floor and _doubtful(objective, point)):
                tol = floor if done or small else max(floor, 0.1 * min(tol, point.tol))
                again = objective(point.u, tol)
                seen = abs(again.value - point.value) / (point.tol * max(abs(again.value), np.finfo(float).tiny))
                inexactness = max(seen, 0.1 * inexactness)
                length = 1.0 / max(float(np.linalg.norm(again.slope)), np.finfo(float).tiny) if small else length
                point, recent = again, [again.value]
                continue
            relative = objective.gradient_norm(point) / objective.scale
            tol = max(floor, min(self.decay * tol, 0.1 * relative))
            u = np.clip(point.u - length * point.slope, objective.lower, objective.upper)
            try:
                trial = objective(u, tol)
            except Failed as failure:
                failed += 1
                if failed >= self.failures:
                    raise Ended(f"the lower level failed {failed} times in a row: {failure}") from failure
                length *= 0.5
                continue
            failed = 0
            decrease = SUFFICIENT * float(point.slope @ (point.u - u))
            slack = inexactness * (point.tol + trial.tol) * max(abs(point.value), abs(trial.value))
            if trial.value <= max(recent) - decrease + slack:
                length, point = _next_length(point, trial, length), trial
                recent = [*recent[1 - self.memory :], trial.value] if self.memory > 1 else [trial.value]
            else:
                length *= _shortening(point, trial)
        return self._finish(objective)

    def _finish(self, objective: Objective) -> str:
        best = objective.best
        if best.tol > objective.lower_tol:
            best = objective(best.u, objective.lower_tol)
        size = objective.gradient_norm(best)
        return f"Descent took its {self.steps} steps; projected gradient {size:.1e}: raise steps to go on"


def _doubtful(objective: Objective, point: Point) -> bool:
    """Whether the certificate's error estimate, carried to the search scale, is a large part of the gradient."""
    error = point.certificate.error_estimate
    if error is None:
        return False
    ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), point.theta)
    stretch = float(np.max(np.abs(objective.parameters.pull(point.u, ones))))
    return stretch * error > TRUSTED * objective.gradient_norm(point)


def _shortening(point: Point, trial: Point) -> float:
    """Where the parabola through F and its slope here and F there is smallest, kept between a tenth and a half."""
    down = float(point.slope @ (trial.u - point.u))
    bend = trial.value - point.value - down
    return float(np.clip(-0.5 * down / bend, 0.1, 0.5)) if bend > 0 else 0.5


def _next_length(point: Point, trial: Point, length: float) -> float:
    """Barzilai and Borwein's step, within a factor ten of the last; twice the last where F curves downwards."""
    moved, turned = trial.u - point.u, trial.slope - point.slope
    curvature = float(moved @ turned)
    if curvature <= 0:
        return 2.0 * length
    return float(np.clip(float(moved @ moved) / curvature, 0.1 * length, 10.0 * length))
