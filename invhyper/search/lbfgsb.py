"""L-BFGS-B over scipy, on the search scale."""

import sys

import equinox as eqx
import numpy as np
import scipy.optimize

from invhyper.search import kinks
from invhyper.search.bundle import bundle
from invhyper.search.objective import Ended, Failed, Objective, Point, Search


class LBFGSB(Search):
    """Limited-memory quasi-Newton steps within bounds: the default for two hyperparameters or more.

        u+ = P(u - step H dF/du),   H from the last `memory` steps, P the projection on the bounds

    **Arguments**: `memory`: pairs kept; `bundle`: steps that take the slopes nearby together, where the line search
    finds no more decrease (F has kinks); `restarts`: how often it starts afresh after they gained; `failures`:
    lower-level failures in a row before it gives up, each of them backing off towards the best point.

    It ends when the projected gradient is within tol, or at a kink: when the slopes around the best point together
    foretell no decrease above tol^2 of F. Where the strata of the lower level foretell that kink, the best point is
    moved onto it, and its slopes to both sides are said.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.LBFGSB())
    >>> round(float(report.theta["l2"]), 4)
    0.25

    Byrd, Lu, Nocedal and Zhu (1995), doi:10.1137/0916069; bundle steps: Kiwiel (1990), doi:10.1007/BF01585731.
    """

    memory: int = eqx.field(static=True, default=10)
    restarts: int = eqx.field(static=True, default=1)
    bundle: int = eqx.field(static=True, default=25)
    failures: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        for name, least in (("memory", 1), ("restarts", 0), ("bundle", 1), ("failures", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"LBFGSB {name} = {value!r}: a whole number, at least {least}, is wanted")

    def run(self, objective: Objective) -> str:
        in_a_row, points = 0, []

        def value_and_slope(u):
            nonlocal in_a_row
            try:
                point = objective(u)
            except Failed as failure:
                in_a_row += 1
                if in_a_row >= self.failures:
                    raise Ended(f"the lower level failed {in_a_row} times in a row: {failure}") from failure
                return _wall(u, objective.best)
            in_a_row = 0
            points.append(point)
            if point.u.size == 1 and len(points) > 1 and kinks.jumped(points[-2], point):
                said = kinks.stop(objective)
                if said is not None:
                    raise Ended(said)
            if point.value <= objective.best.value and objective.stationary(point):  # not on a plateau above the best
                raise Ended(objective.stationary_sentence(point))
            return point.value, point.slope

        u = objective.start
        for _ in range(self.restarts + 1):
            scipy.optimize.minimize(
                value_and_slope,
                u,
                jac=True,
                method="L-BFGS-B",
                bounds=scipy.optimize.Bounds(objective.lower, objective.upper),
                options={
                    "maxcor": self.memory,
                    "ftol": objective.tol**2,
                    "gtol": 0.0,
                    "maxls": 10,
                    "maxfun": sys.maxsize,
                    "maxiter": sys.maxsize,
                },
            )
            before = objective.best.value
            said = bundle(objective, points, self.bundle)
            u = objective.best.u
            if objective.stationary(objective.best) or before - objective.best.value <= objective.tol * abs(before):
                break
        return (None if objective.stationary(objective.best) else kinks.stop(objective)) or said


def _wall(u: np.ndarray, best: Point) -> tuple[float, np.ndarray]:
    """A value and a slope that send a line search from a failed u back towards the best point: its interpolation
    then tries about a third of the way."""
    away = u - best.u
    distance = float(away @ away)
    rise = max(abs(float(best.slope @ away)), 1e-3 * abs(best.value), np.finfo(float).tiny)
    slope = 3.0 * rise * away / distance if distance else np.zeros_like(u)
    return best.value + rise, slope
