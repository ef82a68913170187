"""L-BFGS-B over scipy, on the search scale."""

import equinox as eqx
import numpy as np
import scipy.optimize

from invhyper.search.objective import Ended, Failed, Objective, Point, Search


class LBFGSB(Search):
    """Limited-memory quasi-Newton steps within bounds: the default for two hyperparameters or more.

        u+ = P(u - step H dF/du),   H from the last `memory` steps, P the projection on the bounds

    **Arguments**: `memory`: pairs kept; `restarts`: how often a line search that finds no decrease (F has kinks) may
    start afresh from the best point, as long as each time it still gains; `failures`: lower-level failures in a row
    before it gives up, each of them backing off towards the best point.

    It ends when the projected gradient is within tol, when F stops decreasing (relative decrease below tol^2), or at a
    kink where no direction it knows descends.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.LBFGSB())
    >>> round(float(report.theta["l2"]), 4)
    0.25

    Byrd, Lu, Nocedal and Zhu (1995), doi:10.1137/0916069.
    """

    memory: int = eqx.field(static=True, default=10)
    restarts: int = eqx.field(static=True, default=1)
    failures: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        for name, least in (("memory", 1), ("restarts", 0), ("failures", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"LBFGSB {name} = {value!r}: a whole number, at least {least}, is wanted")

    def run(self, objective: Objective) -> str:
        in_a_row = 0

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
            if objective.stationary(point):
                raise Ended(objective.stationary_sentence(point))
            return point.value, point.slope

        u, gained = objective.start, np.inf
        for _ in range(self.restarts + 1):
            found = scipy.optimize.minimize(
                value_and_slope,
                u,
                jac=True,
                method="L-BFGS-B",
                bounds=scipy.optimize.Bounds(objective.lower, objective.upper),
                options={
                    "maxcor": self.memory,
                    "ftol": objective.tol**2,
                    "gtol": 0.0,
                    "maxfun": 10**9,
                    "maxiter": 10**9,
                },
            )
            best = objective.best
            if found.success:
                return f"F decreases by less than {objective.tol**2:.1e} of its size: {_where(objective, best)}"
            if not gained - best.value > objective.tol * abs(best.value):
                break
            u, gained = best.u, best.value
        return f"no step from the best point decreases F further: {_where(objective, best)}"


def _wall(u: np.ndarray, best: Point) -> tuple[float, np.ndarray]:
    """A value and a slope that send a line search from a failed u back towards the best point: its interpolation
    then tries about a third of the way."""
    away = u - best.u
    distance = float(away @ away)
    rise = max(abs(float(best.slope @ away)), 1e-3 * abs(best.value), np.finfo(float).tiny)
    slope = 3.0 * rise * away / distance if distance else np.zeros_like(u)
    return best.value + rise, slope


def _where(objective: Objective, best: Point) -> str:
    certificate = best.evaluation.certificate
    size = f"projected gradient {objective.gradient_norm(best):.1e} on the search scale"
    if np.isfinite(certificate.margin) and certificate.margin < 1e-3:
        return f"{size}, the nearest kink at relative margin {certificate.margin:.1e}"
    return size
