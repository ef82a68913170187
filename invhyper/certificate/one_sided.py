"""The two slopes of F at a kink."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.hypergradient.adjoint import value_and_pull
from invhyper.hypergradient.implicit import KINK, Implicit
from invhyper.problem import Evaluation, LowerLevel
from invhyper.problem import solve as solve_lower


@dataclass(frozen=True)
class OneSided:
    """The slopes of F along a direction d of theta, on both sides of theta.

        left = lim (F(theta) - F(theta - h d)) / h,   right = lim (F(theta + h d) - F(theta)) / h,   h falling to 0

    `degenerate` names the conditions that make theta a kink (none: F is smooth, left = right). `verdict` says what
    stands there: a local minimum, a local maximum, or a turn on the way. A side that theta's bounds exclude has the
    slope NaN, and the verdict says so.
    """

    left: float
    right: float
    degenerate: tuple[str, ...]
    verdict: str

    @property
    def minimum(self) -> bool:
        """Whether theta is a kink from which F falls to neither side."""
        return bool(self.degenerate) and self.left <= 0 <= self.right


def one_sided(
    problem: Bilevel,
    theta: PyTree,
    direction: PyTree | None = None,
    *,
    evaluation: Evaluation | None = None,
    tolerance: float = KINK,
    tol: float = 1e-10,
) -> OneSided:
    """The one-sided derivatives of F at theta along a direction.

        F'(theta; d) = grad_theta C.d + grad_x C.dx(d),   left = -F'(theta; -d),   right = F'(theta; d)

    dx(d) solves the quadratic programme of `critical_cone` over the conditions that are degenerate at theta, those
    whose relative value is below `tolerance`. Where there are none this is the hypergradient times d.

    **Arguments**: `direction`: a tree like theta, natural scale (None: 1, for a theta of one scalar); `evaluation`: an
    earlier one at this theta, whose solution is then used; `tol`: of the lower level.

    **Raises** ValueError for a direction that is zero or shaped unlike theta, for more than 20 degenerate conditions,
    and where x* is not unique on one side; TypeError at a kink of a lower level whose critical cone is not known.

    >>> import numpy as np, invhyper as ih
    >>> one = ih.Bilevel(ih.BPDN(np.eye(1), np.array([1.0])), ih.Truth(np.array([0.5])))
    >>> slopes = ih.certificate.one_sided(one, {"weight": 1.0})
    >>> slopes.left, slopes.right, slopes.degenerate
    (0.5, 0.0, ('coefficient 0 enters the support',))

    Bonnans and Shapiro (2000), doi:10.1007/978-1-4612-1394-9, ch. 5.
    """
    theta = problem.check(theta)
    direction = as_direction(theta, direction)
    lower = problem.lower
    if evaluation is None:
        solution = solve_lower(lower, theta, tol=tol)
    else:
        solution = evaluation.solution
    _, (along_x, along_theta) = value_and_pull(problem.criterion, solution.x, theta)
    linearisation = lower.linearise(solution, theta)
    if linearisation.degenerate is None:
        return _smooth(problem, theta, direction, linearisation, tolerance)
    cone = linearisation.degenerate(tolerance, thorough=True)

    def slope(d):
        return float(tree.dot(along_theta, d) + tree.dot(along_x, cone.move(d).dx))

    backwards = jax.tree.map(np.negative, direction)
    left = -slope(backwards) if _inside(lower, theta, backwards) else np.nan
    right = slope(direction) if _inside(lower, theta, direction) else np.nan
    verdict = said(left, right, bool(cone.names))
    verdict += "" if cone.complete else f"; looked at {cone.limited_to}"
    return OneSided(left, right, tuple(cone.names), verdict)


def margin(
    problem: Bilevel | LowerLevel, theta: PyTree, *, evaluation: Evaluation | None = None, tol: float = 1e-10
) -> tuple[float, str]:
    """The relative distance to the nearest kink, and what stands there, whatever it costs.

    As `certificate.margin` and `margin_of` of an evaluation, but for images under total variation: their multipliers
    are not unique, and how far regions are from splitting is the best over all of them, a flow problem (up to 20,000
    edges):

        max t   subject to   D^T p = -g on every flat region,   |p_e| <= (1 - t) w_e

    >>> import numpy as np, invhyper as ih
    >>> step = np.repeat([[0.0, 1.0]], 4, axis=0).repeat(3, axis=1)  # 4 x 6, two halves
    >>> round(ih.certificate.margin(ih.TotalVariation(step), {"weight": 2.0})[0], 6)
    0.25
    """
    lower = problem.lower if isinstance(problem, Bilevel) else problem
    theta = lower.check(theta)
    solution = solve_lower(lower, theta, tol=tol) if evaluation is None else evaluation.solution
    linearisation = lower.linearise(solution, theta)
    known = float(linearisation.margin), linearisation.margin_of
    if linearisation.degenerate is None or "merging only" not in known[1]:
        return known
    cone = linearisation.degenerate(0.0, thorough=True)
    return cone.conditions.margin() if cone.complete else known


def said(left: float, right: float, kink: bool) -> str:
    """What two slopes mean."""
    if np.isnan(left) or np.isnan(right):
        side, other = ("left", right) if np.isnan(left) else ("right", left)
        return f"theta is at its bound, F is not defined to the {side}; the other slope is {other:.6g}"
    if not kink:
        return f"no kink: slope {right:.6g}"
    both = f"left slope {left:.6g}, right slope {right:.6g}"
    if left < 0 < right or left == 0 < right or left < 0 == right:
        return f"{both}: this is a local minimum"
    if left > 0 > right or left == 0 > right or left > 0 == right:
        return f"{both}: this is a local maximum"
    if left == right:
        return f"{both}: no turn in this direction"
    return f"{both}: F turns and goes on {'rising' if right > 0 else 'falling'}"


def as_direction(theta: PyTree, direction: PyTree | None) -> PyTree:
    """The direction as a tree of arrays like theta; ValueError if it is unlike it, not finite, or zero."""
    if direction is None:
        if tree.size(theta) != 1:
            raise ValueError(f"theta has {tree.size(theta)} entries: say along which direction, a tree like theta")
        return jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), theta)
    if jax.tree.structure(direction) != jax.tree.structure(theta):
        raise ValueError(f"direction is {direction!r}: a tree like theta is wanted, with the keys {tree.paths(theta)}")
    direction = jax.tree.map(lambda d: np.asarray(d, float), direction)
    for name, d, leaf in zip(tree.paths(theta), jax.tree.leaves(direction), jax.tree.leaves(theta), strict=True):
        if d.shape != np.shape(leaf) or not np.all(np.isfinite(d)):
            raise ValueError(
                f"direction {name!r} is {d.tolist()!r}: finite numbers of theta's shape {np.shape(leaf)} are wanted"
            )
    if not tree.norm(direction) > 0:
        raise ValueError("direction is zero: slopes are taken along a direction of theta that is not")
    return direction


def _inside(lower, theta, direction) -> bool:
    """Whether theta + h d respects the bounds for small h > 0."""
    low, high = lower.bounds(theta)
    parts = (jax.tree.leaves(each) for each in (theta, direction, low, high))
    return not any(np.any((d < 0) & (t <= a)) or np.any((d > 0) & (t >= b)) for t, d, a, b in zip(*parts, strict=True))


def _smooth(problem, theta, direction, linearisation, tolerance) -> OneSided:
    """A lower level without a critical cone: one slope, unless it stands at a kink."""
    name = type(problem.lower).__name__
    if float(linearisation.margin) < tolerance:
        raise TypeError(
            f"{name} is at a kink ({linearisation.margin_of}); one-sided derivatives are not known for it: compare the "
            "slopes at theta moved by a relative 1e-6 to either side"
        )
    slope = float(tree.dot(Implicit()(problem, theta).gradient, direction))
    return OneSided(slope, slope, (), said(slope, slope, False))
