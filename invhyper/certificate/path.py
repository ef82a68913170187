"""All kinks of F between two points of theta, followed from one to the next."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.certificate.interval import interval
from invhyper.certificate.one_sided import one_sided
from invhyper.hypergradient.implicit import Implicit

MOST = 10_000


@dataclass(frozen=True)
class Path:
    """F at theta(t) = start + t (end - start): its kinks, and its slopes in t on both sides of each.

    `t` runs from 0 to 1, both included; `values` is F, `left` and `right` the slopes dF/dt (NaN beyond the ends), `at`
    what happens there. `theta(t)` gives the hyperparameters.
    """

    start: PyTree
    end: PyTree
    t: Float[np.ndarray, " m"]
    values: Float[np.ndarray, " m"]
    left: Float[np.ndarray, " m"]
    right: Float[np.ndarray, " m"]
    at: tuple[str, ...]

    def theta(self, t: float) -> PyTree:
        """The hyperparameters at t."""
        return jax.tree.map(lambda a, b: a + t * (b - a), self.start, self.end)


def path(problem: Bilevel, start: PyTree, end: PyTree) -> Path:
    """Every kink of F on the way from `start` to `end`, exactly.

        t_{k+1} = t_k + min over i with dv_i < 0 of  v_i / (-dv_i)

    For lower levels whose solution is piecewise linear along the way: the l1 weights of lasso and elastic net (also
    with linear constraints), total variation of signals. One lower-level solve a kink.

    **Raises** ValueError where the solution is not linear between kinks, and beyond 10,000 of them.

    >>> import numpy as np, invhyper as ih
    >>> one = ih.Bilevel(ih.BPDN(np.eye(2), np.array([3.0, 1.0])), ih.Truth(np.zeros(2)))
    >>> found = ih.certificate.path(one, {"weight": 4.0}, {"weight": 0.5})
    >>> [float(found.theta(t)["weight"]) for t in found.t]
    [4.0, 3.0, 1.0, 0.5]

    Osborne, Presnell and Turlach (2000), doi:10.1093/imanum/20.3.389.
    """
    start, end = (tree.to_numpy(problem.check(theta)) for theta in (start, end))
    direction = tree.subtract(end, start)
    ts, evaluations, slopes, at, t = [], [], [], [], 0.0
    while True:
        theta = jax.tree.map(lambda a, d: a + t * d, start, direction) if t < 1 else end  # noqa: B023
        evaluation = Implicit()(problem, theta, warm=evaluations[-1] if evaluations else None)
        ahead = interval(problem, theta, direction, evaluation=evaluation)
        if not ahead.exact:
            raise ValueError(
                f"path wants a solution that is linear between kinks; that of {type(problem.lower).__name__} along "
                f"{tree.paths(direction)} is not: follow interval step by step, or sample F by sweep"
            )
        found = one_sided(problem, theta, direction, evaluation=evaluation)
        ts.append(t)
        evaluations.append(evaluation)
        slopes.append((found.left, found.right))
        at.append("; ".join(found.degenerate))
        if t >= 1:
            break
        if len(ts) > MOST:
            raise ValueError(f"more than {MOST} kinks between start and end: choose a shorter way")
        t = min(1.0, t + ahead.above) if t + ahead.above > t else 1.0
    left, right = np.array(slopes).T
    left[0] = right[-1] = np.nan
    return Path(start, end, np.array(ts), np.array([e.value for e in evaluations]), left, right, tuple(at))
