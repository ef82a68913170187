"""Where the solution of an l1 regression leaves its stratum, and how it moves there."""

from functools import partial

import numpy as np

from invhyper.strata.critical_cone import Conditions, CriticalCone, Motion, check_count, minimise_over
from invhyper.strata.support import NormalEquations, SingularSupport

TINY = np.finfo(float).tiny


def conditions(design, y, found, spread) -> Conditions:
    """Penalised coefficients of the support are not zero; the others are not pulled harder than their weight.

        sign_j x_j s_j >= 0 on S, relative to max |x_j s_j|,     l1_j - c_j >= 0 and l1_j + c_j >= 0, to l1_j

    (on S that of the other sign alone: a coefficient may leave, and come back with it). Where the whole fit vanishes
    with its largest coefficient, the first are relative to its share |A x| / |y| as well.
    """
    S, signs = found.support.indices, found.support.signs
    on = S[signs != 0]
    sizes = np.abs(found.values)[signs != 0] * (1.0 if spread is None else spread[on])
    largest = sizes.max(initial=0.0)
    fitted = design.centre(y)
    left = fitted - found.misfit
    share = np.sqrt((design.weigh(left) @ left) / (design.weigh(fitted) @ fitted)) if on.size else 1.0
    share = max(float(share), TINY)
    off = np.ones(found.l1.size, bool)
    off[S] = False
    off = np.flatnonzero(off)
    weight, pull = found.l1[off], found.correlation[off]
    other = found.l1[on]
    values = np.concatenate([sizes, weight - pull, weight + pull, other + np.abs(found.correlation[on])])
    scales = np.concatenate([np.maximum(max(largest, TINY), sizes / share), weight, weight, other])

    def name(i: int) -> str:
        if i < on.size:
            return f"coefficient {int(on[i])} leaves the support"
        entering = np.concatenate([off, off, on])
        return f"coefficient {int(entering[i - on.size])} enters the support"

    return Conditions(values, scales, name)


def critical_cone(lower, design, found, tolerance: float) -> CriticalCone:
    """The critical cone of a minimiser: the support with the degenerate coefficients, these free to one side only."""
    spread = design.spread if lower.standardise else None
    here = conditions(design, lower.y, found, spread)
    degenerate = here.values <= tolerance * here.scales
    check_count(here, degenerate)
    S, signs = found.support.indices, found.support.signs
    on = S[signs != 0]
    off = np.setdiff1d(np.arange(found.l1.size), S)
    p, n_on, n_off = found.l1.size, on.size, off.size
    leaving, upwards, downwards, _ = np.split(degenerate, np.cumsum([n_on, n_off, n_off]))
    edge = np.concatenate([on[leaving], off[upwards | downwards]])
    held = np.concatenate([S[~np.isin(S, edge)], edge])
    x = np.zeros(p)
    x[S] = found.values
    # On the support as at its edge the pull has the size of the weight and the sign that x_j has or takes.
    pushed = np.sign(np.where(found.l1[held] > 0, found.correlation[held], x[held]))
    matrix = design.gram(columns := design.columns(held), columns, held, held)
    matrix = matrix.toarray() if hasattr(matrix, "toarray") else np.array(matrix)
    matrix[np.diag_indices_from(matrix)] += found.l2[held]
    try:
        equations = NormalEquations(matrix)
    except SingularSupport as reason:
        column = int(held[reason.positions[0]])
        raise ValueError(
            f"A is singular on the support with its degenerate coefficients: column {column} depends on the others, so "
            "x* is not unique to one side; add a little l2, or drop the column"
        ) from reason
    G = np.zeros((edge.size, held.size))
    G[np.arange(edge.size), held.size - edge.size + np.arange(edge.size)] = pushed[held.size - edge.size :]
    full = np.zeros(p)
    full[held] = pushed

    def move(dtheta):
        dl1, dl2 = _changes(lower, dtheta, design)
        c, _ = minimise_over(equations.solve, G, (dl1 * full + dl2 * x)[held])
        dx = np.zeros(p)
        dx[held] = c
        dpull = -design.correlate(design.predict(columns, held, c)) - found.l2 * dx - dl2 * x
        scale = 1.0 if spread is None else spread[on]
        other = (dl1 + full * dpull)[on]
        rates = np.concatenate([full[on] * dx[on] * scale, (dl1 - dpull)[off], (dl1 + dpull)[off], other])
        if lower.intercept:
            dx = np.append(dx, -design.means[held] @ c)
        return Motion(dx, rates)

    return CriticalCone(here, degenerate, move, partial(_straight, lower))


def _changes(lower, dtheta, design):
    """dl1_j s_j and dl2_j s_j^2, full length."""
    p = design.shape[1]
    dl1 = np.broadcast_to(np.asarray(dtheta[lower.l1_key], float), (p,))
    dl2 = np.zeros(p) if lower.l2_key is None else np.broadcast_to(np.asarray(dtheta[lower.l2_key], float), (p,))
    return (dl1 * design.spread, dl2 * design.spread**2) if lower.standardise else (dl1, dl2)


def _straight(lower, dtheta) -> bool:
    """x* is linear in l1 on a stratum, not in l2."""
    return lower.l2_key is None or not np.any(dtheta[lower.l2_key])
