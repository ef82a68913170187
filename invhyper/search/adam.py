"""Adam over optax, on the search scale."""

import equinox as eqx
import numpy as np
import optax

from invhyper.search import kinks
from invhyper.search.objective import Ended, Failed, Objective, Search


class Adam(Search):
    """Gradient steps scaled by running moments, clipped to the bounds: for noisy criteria.

        m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   u+ = P(u - rate mhat / (sqrt(vhat) + eps))

    **Arguments**: `rate`: the step in search coordinates (0.1 in log scale moves a weight by 10 %); `steps`:
    evaluations; `b1`, `b2`: memory of the moments; `failures`: lower-level failures in a row before it gives up; each
    halves the step from the last point that could be evaluated, and the moments begin anew.

    It ends after `steps` evaluations, when the projected gradient is within tol, or, of one hyperparameter, at a kink
    that F rises from to both sides: it is looked for whenever the slope has jumped from one sign to the other.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.Adam(steps=200))
    >>> round(float(report.theta["l2"]), 2)
    0.25

    Kingma and Ba (2015), arXiv:1412.6980.
    """

    rate: float = eqx.field(static=True, default=0.1)
    steps: int = eqx.field(static=True, default=200)
    b1: float = eqx.field(static=True, default=0.9)
    b2: float = eqx.field(static=True, default=0.999)
    failures: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if not self.rate > 0:
            raise ValueError(f"Adam rate = {self.rate!r}: a positive number is wanted")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Adam {name} = {getattr(self, name)!r}: a number in [0, 1) is wanted")
        for name in ("steps", "failures"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Adam {name} = {value!r}: a whole number, at least 1, is wanted")

    def run(self, objective: Objective) -> str:
        rule = optax.adam(self.rate, b1=self.b1, b2=self.b2)
        point = objective(objective.start)
        state = rule.init(point.u)
        for _ in range(self.steps - 1):
            if objective.stationary(point):
                return objective.stationary_sentence(point)
            update, state = rule.update(point.slope, state, point.u)
            before = point
            point, failed = self._backing_off(objective, point.u, point.u + np.asarray(update))
            said = kinks.stop(objective) if point.u.size == 1 and kinks.jumped(before, point) else None
            if said is not None:
                return said
            if failed:
                state = rule.init(point.u)
        if objective.stationary(point):
            return objective.stationary_sentence(point)
        said = kinks.stop(objective)
        if said is not None:
            return said
        size = objective.gradient_norm(point)
        return (
            f"Adam took its {self.steps} steps; projected gradient {size:.1e} on the search scale: raise steps to go on"
        )

    def _backing_off(self, objective, good, u):
        for failed in range(self.failures):
            try:
                return objective(u), failed
            except Failed as failure:
                reason, u = failure, 0.5 * (good + u)
        raise Ended(f"the lower level failed {self.failures} times in a row: {reason}") from reason
