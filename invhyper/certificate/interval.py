"""How far theta may move until the stratum of its solution changes: the next kinks."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.certificate.one_sided import as_direction
from invhyper.hypergradient.implicit import KINK
from invhyper.problem import Evaluation, LowerLevel
from invhyper.problem import solve as solve_lower

# A kink this near to a bound, relatively, is the bound itself.
TIE = 1e-12


@dataclass(frozen=True)
class Interval:
    """The stratum stays for theta + t d with `below` < t < `above`.

    `lower`, `upper`: theta at the two ends (natural scale); `at_lower`, `at_upper`: what happens there. `exact`: the
    solution moves linearly on the stratum, so that the ends are the kinks themselves; else they are known to first
    order. `limited_to` says which conditions were not looked at, if any.
    """

    below: float
    above: float
    lower: PyTree
    upper: PyTree
    at_lower: str
    at_upper: str
    exact: bool
    limited_to: str = ""


def interval(
    problem: Bilevel | LowerLevel,
    theta: PyTree,
    direction: PyTree | None = None,
    *,
    evaluation: Evaluation | None = None,
    tolerance: float = KINK,
    tol: float = 1e-10,
) -> Interval:
    """The interval around theta, along a direction, on which the stratum of the solution stays.

        t+ = min over i with dv_i < 0 of  v_i / (-dv_i),      v_i >= 0 the conditions of the stratum, dv_i their rates

    and t- the same for -d. Exact where x* is linear in t: the l1 weights of lasso and elastic net, total variation of
    signals. At a kink itself the two sides are those of the two one-sided solutions, so that a path can be followed
    from kink to kink. A bound of theta ends the interval as well.

    **Arguments**: as in `one_sided`; `problem` may be the lower level alone.

    **Raises** TypeError for a lower level whose strata have no such conditions (smooth ones, cone programmes).

    >>> import numpy as np, invhyper as ih
    >>> found = ih.certificate.interval(ih.BPDN(np.eye(2), np.array([3.0, 1.0])), {"weight": 2.0})
    >>> print(found.lower["weight"], found.upper["weight"], found.at_lower)
    1.0 3.0 coefficient 1 enters the support

    Efron, Hastie, Johnstone and Tibshirani (2004), doi:10.1214/009053604000000067.
    """
    lower = problem.lower if isinstance(problem, Bilevel) else problem
    theta = tree.to_numpy(lower.check(theta))
    direction = as_direction(theta, direction)
    solution = solve_lower(lower, theta, tol=tol) if evaluation is None else evaluation.solution
    linearisation = lower.linearise(solution, theta)
    if linearisation.degenerate is None:
        raise TypeError(
            f"{type(lower).__name__} gives no conditions of its stratum: intervals are known for l1 regressions and "
            "total variation"
        )
    cone = linearisation.degenerate(tolerance)
    backwards = jax.tree.map(np.negative, direction)
    below, at_lower = _until(lower, theta, backwards, *cone.next_kink(backwards))
    above, at_upper = _until(lower, theta, direction, *cone.next_kink(direction))
    return Interval(
        -below,
        above,
        _moved(theta, backwards, below),
        _moved(theta, direction, above),
        at_lower,
        at_upper,
        cone.straight(direction),
        cone.limited_to,
    )


def _until(lower, theta, direction, t: float, what: str) -> tuple[float, str]:
    """The lesser of t and of where theta + t d meets its bounds."""
    low, high = lower.bounds(theta)
    parts = (jax.tree.leaves(each) for each in (theta, direction, low, high))
    for name, at, d, a, b in zip(tree.paths(theta), *parts, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(d > 0, (b - at) / d, np.where(d < 0, (a - at) / d, np.inf))
        if np.min(room) <= t * (1 + TIE):
            t, what = max(float(np.min(room)), 0.0), f"{name} reaches its bound"
    return t, what


def _moved(theta, direction, t: float):
    def moved(at, d):
        return at + np.where(d != 0, t * d, 0.0) if np.isinf(t) else at + t * d

    return jax.tree.map(moved, theta, direction)
