"""What the searches do at a kink of F: look ahead to it, take the slopes of both sides, say what stands there."""

import jax
import numpy as np

from invhyper.certificate.interval import Interval, interval
from invhyper.certificate.one_sided import OneSided, one_sided
from invhyper.parameters import Vector
from invhyper.search.objective import Ended, Failed, Objective, Point

# How often a kink that is known to first order is predicted anew.
PREDICTIONS = 4
# What F may rise by on the way to a kink, relative: rounding.
ROUNDING = 1e-13


def ahead(objective: Objective, point: Point, d: Vector) -> Vector | None:
    """Where the first kink stands on the way from a point along d, in a straight line of natural theta.

    None where no strata are known, where none changes on the way, and beyond the bounds of the search.
    """
    found = _interval(objective, point, d)
    return None if found is None else _end(objective, found.above, found.upper, found.at_upper)


def around(objective: Objective, point: Point) -> tuple[float, float]:
    """Of one hyperparameter: where the next kinks stand on both sides of a point; NaN for `ahead`'s None."""
    found = _interval(objective, point, np.ones(1))
    if found is None:
        return np.nan, np.nan
    ends = (-found.below, found.lower, found.at_lower), (found.above, found.upper, found.at_upper)
    left, right = (_end(objective, *each) for each in ends)
    return np.nan if left is None else float(left[0]), np.nan if right is None else float(right[0])


def sides(objective: Objective, point: Point, d: Vector) -> OneSided | None:
    """The slopes of F on both sides of a point along d of the search scale; None where they are not known."""
    evaluation = objective.evaluation(point)
    dtheta = _natural(objective, point, d)
    if evaluation is None or dtheta is None or not objective.problem.lower.host:
        return None
    try:
        return one_sided(objective.problem, point.theta, dtheta, evaluation=evaluation)
    except (TypeError, ValueError):
        return None


def jumped(point: Point, trial: Point) -> bool:
    """Whether F rises at the trial away from the point, no less than a tenth as fast as it fell at the point."""
    moved = trial.u - point.u
    return float(trial.slope @ moved) > -0.1 * float(point.slope @ moved) > 0


def stop(objective: Objective) -> str | None:
    """The sentence that says that F has a minimum at the kink down the slope of the best point; None if it has not.

    The kink is evaluated on the way (it is the best point then), once for lower levels whose solution is linear on its
    strata. Where F falls beyond it, or does not fall as far as it, there is nothing to stop for.
    """
    point = objective.best
    try:
        for _ in range(PREDICTIONS):
            d = objective.downhill(point)
            if point.certificate.kink or not np.any(d):
                break
            u = ahead(objective, point, d)
            if u is None:
                return None
            trial = objective(u)
            if trial.value > point.value + ROUNDING * abs(point.value):
                return None
            point = trial
    except (Ended, Failed):
        return None
    if not point.certificate.kink:
        return None
    d = np.ones(1) if point.u.size == 1 else d
    found = sides(objective, point, d)
    return stopped(objective, point, found.left, found.right) if found is not None and found.minimum else None


def stopped(objective: Objective, point: Point, left: float, right: float) -> str:
    """How a search says that it stands at a kink: slopes in natural theta if it is a scalar, else down the slope."""
    if point.u.size > 1:
        return (
            f"stopped at a kink: left slope {left:.6g}, right slope {right:.6g} down the slope of the search scale: "
            "this is a minimum along it"
        )
    stretch = float(objective.parameters.pull(point.u, _ones(point))[0])
    left, right = (left / stretch, right / stretch) if stretch > 0 else (right / stretch, left / stretch)
    return f"stopped at a kink: left slope {left:.6g}, right slope {right:.6g}: this is a local minimum"


def _interval(objective: Objective, point: Point, d: Vector) -> Interval | None:
    """The interval of the strata of a point, while its evaluation is held; None where it is not known."""
    evaluation = objective.evaluation(point)
    dtheta = _natural(objective, point, d)
    if evaluation is None or dtheta is None or not objective.problem.lower.host:
        return None
    try:
        found = interval(objective.problem, point.theta, dtheta, evaluation=evaluation)
    except (TypeError, ValueError):  # no strata, or a vertex of too many of them
        return None
    return None if found.limited_to else found


def _end(objective: Objective, distance: float, theta, what: str) -> Vector | None:
    """An end of an interval on the search scale, if it is a kink within the bounds."""
    if not 0 < distance < np.inf or "bound" in what:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        u = objective.parameters.search(theta)
    inside = np.all(np.isfinite(u)) and np.all(u >= objective.lower) and np.all(u <= objective.upper)
    return u if inside else None


def _natural(objective: Objective, point: Point, d: Vector):
    """The direction of natural theta that belongs to d, J d, for scales of one number each."""
    if any(leaf.width != leaf.start.size for leaf in objective.parameters.leaves):
        return None
    stretched = objective.parameters.pull(point.u, _ones(point)) * d
    leaves, structure = jax.tree.flatten(point.theta)
    cuts = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    parts = np.split(stretched, cuts)
    dtheta = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, dtheta) if np.any(stretched) else None


def _ones(point: Point):
    return jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), point.theta)
