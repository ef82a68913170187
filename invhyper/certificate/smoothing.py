"""The hypergradient of smoothed problems as the smoothing goes to nothing: what an exact one is the limit of."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.optimize import brentq

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.certificate.audit import directions
from invhyper.certificate.one_sided import one_sided
from invhyper.hypergradient.implicit import Implicit
from invhyper.problem import Evaluation

# Differences of gradients below this, relative, are rounding.
ROUNDING = 1e-12
# So many scalars of a gradient are written out in a sentence, of more their norm.
LISTED = 4
# The orders of convergence looked for.
ORDERS = (0.05, 8.0)


@dataclass(frozen=True)
class SmoothingPath:
    """The hypergradients of problems smoothed by `eps`, where they lead, and the exact one beside it.

    `values` (k,) and `gradients` (the tree of theta, every leaf with a first axis of length k) belong to `eps` (k,).
    `limit` is the gradient extrapolated to eps = 0 from the last three, which approach it like eps^`order` (NaN: they
    no longer move, or don't settle yet; then it is the last of them). `exact`: the evaluation of the problem itself. At
    a kink whose one-sided slopes are known, `sides` holds {direction: (left, right, slope of the limit)}. `verdict`
    in words.
    """

    eps: Float[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]
    gradients: PyTree
    limit: PyTree
    order: float
    exact: Evaluation
    sides: dict[str, tuple[float, float, float]] | None
    verdict: str


def smoothing_path(
    problem: Bilevel,
    theta: PyTree,
    eps: Sequence[float] | Float[Array, " k"],
    *,
    tol: float = 1e-10,
) -> SmoothingPath:
    """Follow the hypergradient while every norm is smoothed less and less.

        x_eps(theta) = argmin_x  f(x, theta) + sum_g w_g (sqrt(|(D x)_g|^2 + eps^2) - eps),   grad F_eps for falling eps

    Off kinks grad F_eps tends to the exact hypergradient, like eps or faster. At a kink F has two slopes and F_eps has
    one: it tends to a value of its own, which lies between the two if a single coefficient (or group) stands there: a
    third of the way from the side where it is zero. If several do, it may also lie outside. It gets there like
    eps^(2/3), or eps^(1/3) where it shares its data with other coefficients at zero, which eps moves a little.

    **Arguments**: `problem`: its lower level is an `ElasticNet`, a `BPDN` without constraints, one of the TV family
    without bounds, or a `Together` of these (`KFold`). `eps` falls, in the units of what the norms are taken of; each
    solve starts from the one before, and any eps down to 1e-10 of the scale of x is solved to rounding. `tol`: of all
    solves.

    **Raises** ValueError for an eps that is not positive or does not fall, TypeError for a lower level with nothing to
    smooth, and what the hypergradient raises.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Lasso(np.eye(1), np.array([1.0])), ih.Truth(np.array([-1.0])))
    >>> smooth = ih.certificate.smoothing_path(problem, {"weight": 0.4}, [1e-2, 1e-3, 1e-4])
    >>> round(float(smooth.limit["weight"]), 7), round(float(smooth.exact.gradient["weight"]), 7)
    (-1.6, -1.6)
    >>> kink = ih.certificate.smoothing_path(problem, {"weight": 1.0}, [1e-5, 1e-6, 1e-7])  # slopes -1 and 0
    >>> round(float(kink.limit["weight"]), 4), round(kink.order, 2)
    (-0.3333, 0.67)

    Chan, Golub and Mulet (1999), doi:10.1137/S1064827596299767 (the solver).
    """
    eps = _checked(eps)
    theta = problem.check(theta)
    smoothed = [Bilevel(problem.lower.smoothed(each), problem.criterion) for each in eps]
    exact = Implicit()(problem, theta, tol=tol)
    found, warm = [], None
    for each in smoothed:
        warm = Implicit()(each, theta, warm=warm, tol=tol)
        found.append(warm)
    gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *(each.gradient for each in found))
    limit, order = _limit(eps, [each.gradient for each in found])
    slopes = _slopes(problem, theta, limit, exact) if exact.certificate.kink else None
    verdict = _verdict(found, limit, order, exact, slopes)
    values = np.array([each.value for each in found])
    return SmoothingPath(eps, values, gradients, limit, order, exact, slopes, verdict)


def _checked(eps) -> np.ndarray:
    wanted = "a falling sequence of positive numbers is wanted"
    try:
        found = np.asarray(eps, float)
    except (TypeError, ValueError):
        raise ValueError(f"smoothing_path eps = {eps!r}: {wanted}") from None
    if found.ndim != 1 or not found.size:
        raise ValueError(f"smoothing_path eps has shape {found.shape}: {wanted}")
    bad = found[~((found > 0) & np.isfinite(found))]
    if bad.size:
        raise ValueError(f"smoothing_path eps holds {bad[0]:g}: positive numbers are wanted")
    rises = np.flatnonzero(np.diff(found) >= 0)
    if rises.size:
        k = int(rises[0])
        raise ValueError(
            f"smoothing_path eps does not fall: {found[k]:g} is followed by {found[k + 1]:g}; give it in falling order"
        )
    return found


def _limit(eps: np.ndarray, gradients: list) -> tuple[PyTree, float]:
    """The gradient at eps = 0 if the last three follow g(eps) = g(0) + c eps^order, and the order."""
    last = gradients[-1]
    if eps.size < 3:
        return last, float("nan")
    first, second = (tree.subtract(b, a) for a, b in zip(gradients[-3:-1], gradients[-2:], strict=True))
    before, after = float(tree.norm(first)), float(tree.norm(second))
    if after <= ROUNDING * float(tree.norm(last)) or after >= before:
        return last, float("nan")
    a, b, c = eps[-3:] / eps[-3]

    def excess(order):
        return (b**order - c**order) / (a**order - b**order) - after / before

    if excess(ORDERS[0]) <= 0 or excess(ORDERS[1]) >= 0:
        return last, float("nan")
    order = brentq(excess, *ORDERS)
    return tree.axpy(c**order / (b**order - c**order), second, last), float(order)


def _slopes(problem, theta, limit, exact) -> dict[str, tuple[float, float, float]] | None:
    """Along every direction within the bounds: the one-sided slopes, and that of the limit; None if not known."""
    slopes = {}
    for name, direction in directions(theta, seed=0).items():
        try:
            found = one_sided(problem, theta, direction, evaluation=exact)
        except (TypeError, ValueError):  # no critical cone, or a vertex of too many conditions
            return None
        if np.isfinite(found.left) and np.isfinite(found.right):
            slopes[name] = found.left, found.right, float(tree.dot(limit, direction))
    return slopes or None


def _verdict(found, limit, order, exact, slopes) -> str:
    last = found[-1].gradient
    left = float(tree.norm(tree.subtract(limit, last)))
    said = f"the smoothed hypergradient tends to {_shown(limit)}"
    if np.isfinite(order):
        said += f", like eps^{order:.2g}, {left:.1e} from the last"
    elif not _settled(found):
        said = f"the smoothed hypergradient has not settled, its last value is {_shown(limit)}: go on to smaller eps"
    certificate = exact.certificate
    if not certificate.kink:
        size = float(tree.norm(exact.gradient))
        gap = float(tree.norm(tree.subtract(limit, exact.gradient)))
        return f"{said}; the exact one is {_shown(exact.gradient)}, {gap / size if size else gap:.1e} away" + (
            " (relative)" if size else ""
        )
    said += f"; theta is at a kink ({certificate.margin_of}), where F has two slopes"
    if slopes is None:
        return f"{said}: the limit is neither of them but lies between, if nothing else stands at a kink there"
    outside = [name for name, (a, b, c) in slopes.items() if not _between(c, a, b, left)]
    if outside:
        a, b, c = slopes[outside[0]]
        return (
            f"{said}: along {outside[0]} the limit {c:.6g} lies outside its one-sided slopes {a:.6g} and {b:.6g}, "
            "as it may where several coefficients stand at their kinks at once"
        )
    if len(slopes) == 1:
        ((a, b, c),) = slopes.values()
        return f"{said}: the limit {c:.6g} lies between the slope on the left, {a:.6g}, and on the right, {b:.6g}"
    return f"{said}: the limit lies between the one-sided slopes in all {len(slopes)} directions"


def _between(slope, left, right, slack) -> bool:
    slack = slack + 1e-9 * max(abs(left), abs(right))
    return min(left, right) - slack <= slope <= max(left, right) + slack


def _settled(found) -> bool:
    """Whether the last gradients agree to rounding, or there is just one."""
    if len(found) < 2:
        return True
    moved = tree.norm(tree.subtract(found[-1].gradient, found[-2].gradient))
    return bool(moved <= ROUNDING * tree.norm(found[-1].gradient))


def _shown(gradient) -> str:
    if tree.size(gradient) == 1:
        return f"{float(np.asarray(jax.tree.leaves(gradient)[0]).squeeze()):.8g}"
    pairs = list(zip(tree.paths(gradient), jax.tree.leaves(gradient), strict=True))
    if len(pairs) <= LISTED and all(np.ndim(leaf) == 0 for _, leaf in pairs):
        return f"({', '.join(f'{name} {float(leaf):.6g}' for name, leaf in pairs)})"
    return f"a gradient of norm {float(tree.norm(gradient)):.8g}"
