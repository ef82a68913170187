"""Where the solution of a constrained l1 regression leaves its stratum, and how it moves there."""

import numpy as np

from invhyper.strata.critical_cone import Conditions, CriticalCone, Motion, check_count, minimise_over
from invhyper.strata.saddle import Saddle, Singular


def conditions(point) -> Conditions:
    """Five kinds of conditions, in this order.

    Coefficients of the support have their signs (relative to max |x|); the pull on all is above its lower limit and
    below its upper one (to the weight; on the support the opposite limit counts); active rows of G press (to the
    pulls); the others have slack.
    """
    problem, face = point.problem, point.face
    on, off, resting = _on(point), _off(point), _resting(point)
    sizes = np.abs(point.values[face.signs != 0])
    either = np.concatenate([off, on])
    height = np.where(problem.weight > 0, problem.weight, point.scale)[either]
    far = np.concatenate([np.zeros(off.size), face.signs[face.signs != 0]])
    press = face.pressure * _sizes(problem.G)[face.rows]
    moves = np.any(problem.G[:, face.support] != 0, axis=1)  # rows that no free coefficient enters stay as they are
    parts = (
        (sizes, np.maximum(sizes.max(initial=np.finfo(float).tiny), sizes / _share(point))),
        (np.where(far < 0, np.inf, (point.pull - problem.low)[either]), height),
        (np.where(far > 0, np.inf, (problem.high - point.pull)[either]), height),
        (np.where(moves[face.rows], press, np.inf), np.full(face.rows.size, point.scale)),
        (np.where(moves[resting], point.slack[resting], np.inf), point.heights[resting]),
    )
    values, scales = (np.concatenate(each) for each in zip(*parts, strict=True))
    edges = np.cumsum([part[0].size for part in parts])

    def name(i: int) -> str:
        if i < edges[0]:
            return f"coefficient {int(on[i])} leaves the support"
        if i < edges[2]:
            return f"coefficient {int(either[(i - edges[0]) % either.size])} enters the support"
        rows, said = (face.rows, "inactive") if i < edges[3] else (resting, "active")
        row = rows[i - edges[2 if i < edges[3] else 3]]
        return f"inequality {int(problem.rows[row])} is about to become {said}"

    return Conditions(values, scales, name)


def critical_cone(point, tolerance: float) -> CriticalCone:
    """The critical cone of a polished point: what is degenerate may move to one side only."""
    problem, face, design = point.problem, point.face, point.problem.design
    here = conditions(point)
    degenerate = here.values <= tolerance * here.scales
    check_count(here, degenerate)
    on, off, resting = _on(point), _off(point), _resting(point)
    either = np.concatenate([off, on])
    leaving, low, high, lifting, hitting = np.split(
        degenerate, np.cumsum([on.size, either.size, either.size, face.rows.size])
    )
    edge = np.concatenate([on[leaving], either[low | high]])
    free, entered = (np.any(problem.G[:, chosen] != 0, axis=1) for chosen in (face.support, edge))
    touched = entered & ~free  # by what may enter alone: of no account as conditions, but part of the cone
    lifting = lifting | touched[face.rows] & (face.pressure * _sizes(problem.G)[face.rows] <= tolerance * point.scale)
    hitting = hitting | touched[resting] & (point.slack <= tolerance * point.heights)[resting]
    loose = np.concatenate([face.rows[lifting], resting[hitting]])
    firm = face.rows[~lifting]
    held = np.concatenate([face.support[~np.isin(face.support, edge)], edge])
    k, p = held.size, problem.weight.size
    columns = design.columns(held)
    gram = design.gram(columns, columns, held, held)
    gram = gram.toarray() if hasattr(gram, "toarray") else gram
    normal = np.vstack([problem.C[:, held], problem.G[firm][:, held]])
    saddle = Saddle(np.block([[gram, normal.T], [normal, np.zeros((normal.shape[0],) * 2)]]))
    if _moves_freely(saddle, k):
        raise ValueError(
            "A is singular on the support with its degenerate coefficients: x* is not unique to one side; drop "
            "dependent columns of A"
        )
    side = np.zeros(p)  # the sign that x_j has or may take
    side[face.support] = np.sign(point.values)
    side[either[low]], side[either[high]] = -1.0, 1.0
    side[on] = face.signs[face.signs != 0]
    G = np.zeros((edge.size + loose.size, k))
    G[np.arange(edge.size), k - edge.size + np.arange(edge.size)] = side[edge]
    G[edge.size :] = -problem.G[loose][:, held]

    def respond(rhs):
        return saddle.solve(np.append(rhs, np.zeros(normal.shape[0])))

    def move(dtheta):
        weight = np.broadcast_to(np.asarray(dtheta["weight"], float), (p,))
        q = (side * weight)[held]
        c, multipliers = minimise_over(lambda rhs: respond(rhs)[:k], G, q)
        pressures = respond(G.T @ multipliers - q)[k:]
        dx = np.zeros(p)
        dx[held] = c
        dpressure = np.zeros(problem.h.size)
        dpressure[firm] = pressures[problem.d.size :]
        dpressure[loose] = multipliers[edge.size :]
        dpull = -design.correlate(design.predict(columns, held, c)) - problem.C.T @ pressures[: problem.d.size]
        dpull -= problem.G.T @ dpressure
        dlow, dhigh = np.where(np.isfinite(problem.low), -weight, 0.0), np.where(np.isfinite(problem.high), weight, 0.0)
        rates = (
            (side * dx)[on],
            (dpull - dlow)[either],
            (dhigh - dpull)[either],
            (dpressure * _sizes(problem.G))[face.rows],
            -(problem.G @ dx)[resting],
        )
        return Motion(dx, np.concatenate(rates))

    return CriticalCone(here, degenerate, move, lambda dtheta: True)


def _sizes(matrix) -> np.ndarray:
    return np.abs(matrix).max(axis=1, initial=0.0)


def _on(point) -> np.ndarray:
    """Coefficients of the support that have to keep their signs."""
    return point.face.support[point.face.signs != 0]


def _off(point) -> np.ndarray:
    return np.setdiff1d(np.arange(point.problem.weight.size), point.face.support)


def _resting(point) -> np.ndarray:
    return np.setdiff1d(np.arange(point.problem.h.size), point.face.rows)


def _share(point) -> float:
    """|A x| / |y|."""
    design = point.problem.design
    fit = design.predict(point.columns, point.face.support, point.values)
    y = point.problem.y
    return float(np.sqrt((design.weigh(fit) @ fit) / ((design.weigh(y) @ y) or 1.0))) or 1.0


def _moves_freely(saddle: Saddle, k: int) -> bool:
    """Whether some direction of x is free; multipliers that are not unique do no harm."""
    if not saddle.singular:
        return False
    try:
        null = saddle.null
    except Singular:
        return True
    return bool(np.abs(null[:k].data).max(initial=0.0) > 1e-7)
