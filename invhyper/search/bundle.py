"""Steps at a kink of several hyperparameters: the slopes seen nearby, taken together."""

import numpy as np
import scipy.optimize

from invhyper.search.objective import Failed, Objective, Point

NEAREST = 20
FEW = 50
SERIOUS = 0.1


def bundle(objective: Objective, points: list[Point], steps: int) -> str:
    """Proximal bundle steps from the best point; the sentence that says how they end.

        d = argmin_d  max_i (g_i.d - a_i) + |d|^2 / (2 r)

    over the nearest points u_i: g_i is the slope there and a_i = F - F_i - g_i.(u - u_i) by how much its tangent lies
    below F at the best point u (a point whose tangent lies above is left out: F is not convex between them). The model
    foretells the decrease -max_i (g_i.d - a_i): a step that brings a tenth of it moves the best point, one that brings
    less adds its slope to the bundle. Where no decrease is foretold the slopes on all sides of a kink balance, as they
    do at its minimum. Kiwiel (1990), doi:10.1007/BF01585731.
    """
    best, combined = objective.best, float("nan")
    if not any(point is best for point in points):  # a kink that was looked at on the way
        points.append(best)
    radius = _first_radius(best, points)
    for _ in range(steps):
        near = _nearest(best, points, 1e-12 * objective.scale)
        d, foretold = _step(objective, best, near, radius)
        combined = float(np.linalg.norm(d)) / radius
        if foretold <= objective.tol**2 * objective.scale:
            return f"no step decreases F further: the slopes around the best point combine to {combined:.1e}"
        try:
            trial = objective(best.u + d)
        except Failed:
            radius *= 0.1
            continue
        points.append(trial)
        if objective.stationary(trial):
            return objective.stationary_sentence(trial)
        gained = best.value - trial.value
        if gained >= SERIOUS * foretold:
            radius *= 2.0 if gained >= 0.5 * foretold else 1.0
            best = trial
        elif not 0 <= _miss(best, trial) <= foretold:
            radius *= 0.3
    return f"the slopes around the best point combine to {combined:.1e}: raise LBFGSB's bundle to go on"


def _nearest(best: Point, points: list[Point], slack: float) -> list[Point]:
    """The points nearest to the best one, and the latest, whose tangents lie below F there."""
    known = [point for point in points if _miss(best, point) >= -slack]
    nearest = sorted(known, key=lambda point: float(np.sum((point.u - best.u) ** 2)))[:NEAREST]
    latest = [point for point in known[-NEAREST:] if not any(point is other for other in nearest)]
    return nearest + latest


def _first_radius(best: Point, points: list[Point]) -> float:
    """So that a step along the slope of the best point reaches as far as the last points are from it."""
    reach = max((float(np.linalg.norm(point.u - best.u)) for point in points[-NEAREST:]), default=0.0) or 1.0
    return reach / max(float(np.linalg.norm(best.slope)), np.finfo(float).tiny)


def _miss(best: Point, point: Point) -> float:
    """By how much the tangent at a point lies below F at the best one."""
    return float(best.value - point.value - point.slope @ (best.u - point.u))


def _step(objective: Objective, best: Point, near: list[Point], radius: float) -> tuple[np.ndarray, float]:
    """d and the decrease foretold. Up to `FEW` unknowns the bounds are part of the problem; beyond, d is sought in the
    span of the slopes and cut at the bounds.

    Entries at a bound that the best point's slope points to stay there.
    """
    held = (best.slope > 0) & (best.u <= objective.lower) | (best.slope < 0) & (best.u >= objective.upper)
    slopes = np.where(held, 0.0, np.array([point.slope for point in near]))
    misses = np.array([max(_miss(best, point), 0.0) for point in near])
    # In units of the reach and of the decrease that the best slope foretells there, SLSQP meets numbers of order one.
    size = max(float(np.linalg.norm(best.slope)), np.finfo(float).tiny)
    reach = radius * size
    n = best.u.size
    basis = np.eye(n) if n <= FEW else np.linalg.qr(slopes.T)[0]
    along, k = slopes @ basis / size, basis.shape[1]
    room = [(None, None)] * k
    if n <= FEW:
        room = list(zip((objective.lower - best.u) / reach, (objective.upper - best.u) / reach, strict=True))
    found = scipy.optimize.minimize(
        lambda z: (z[k] + 0.5 * z[:k] @ z[:k], np.append(z[:k], 1.0)),
        np.zeros(k + 1),
        jac=True,
        method="SLSQP",
        bounds=[*room, (None, None)],
        constraints={
            "type": "ineq",
            "fun": lambda z: z[k] - along @ z[:k] + misses / (size * reach),
            "jac": lambda z: np.hstack([-along, np.ones((len(near), 1))]),
        },
        options={"ftol": 1e-12, "maxiter": 100},
    )
    u = np.clip(best.u + reach * (basis @ found.x[:k]), objective.lower, objective.upper)
    return u - best.u, -float(found.x[k]) * size * reach
