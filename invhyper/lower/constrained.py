"""Basis pursuit denoising under linear constraints: what `BPDN` does when it is given some.

    minimise over x   1/2 (y - A x)^T W (y - A x) + sum_j weight_j |x_j|   subject to   C x = d,   G x <= h

On the stratum (support S, its signs s, active rows J of G) the solution and its multipliers obey

    A_S^T W (A_S x_S - y) + weight_S s + C_S^T nu + G_JS^T lambda = 0,   C_S x_S = d,   G_JS x_S = h_J,

a linear system: one saddle-point factor serves the polish and the adjoint. Off the support the pull
c_j = a_j^T W (y - A x) - C_j^T nu - G_Jj^T lambda lies in [-weight_j, weight_j]. A row of G that asks for a sign alone
(x_j >= 0) is no equation: it opens that interval on one side. Clarabel finds the stratum, or a warm start has it.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse import csc_array, csr_array, eye_array

from invhyper.lower import constrained_kinks
from invhyper.lower.conic import SOLVED, STATUS, interior_point, undefined
from invhyper.operators.design import Design
from invhyper.problem import Linearisation, NotConverged, Solution
from invhyper.strata import faces as face
from invhyper.strata.faces import Cones, Groups, Programme
from invhyper.strata.saddle import Saddle, Singular

SLIP = 1e-10  # relative: signs and bounds may miss by this before a face counts as left
EXCHANGES = 25


class Problem:
    """The data of one solve: the design, y, the weights, and the constraints (empty where there are none)."""

    def __init__(self, lower, theta):
        p = lower.A.shape[1]
        empty = np.zeros((0, p)), np.zeros(0)
        self.fields = (lower.A, lower.y, lower.sample_weight, lower.equality, lower.inequality)
        self.design = Design(lower.A, lower.sample_weight)
        self.y = lower.y
        self.weight = np.broadcast_to(np.asarray(theta["weight"], float), (p,))
        self.C, self.d = empty if lower.equality is None else lower.equality
        self.all_rows = empty if lower.inequality is None else lower.inequality
        G, h = self.all_rows
        signed = (np.count_nonzero(G, axis=1) == 1) & (h == 0)
        self.rows = np.flatnonzero(~signed)
        self.G, self.h = G[self.rows], h[self.rows]
        self.low = np.where((G[signed] < 0).any(axis=0), -np.inf, -self.weight)
        self.high = np.where((G[signed] > 0).any(axis=0), np.inf, self.weight)
        self.free = (self.low == 0) & (self.high == 0)

    def same(self, other: "Problem") -> bool:
        """True if both are about the same data and weights."""
        held = all(a is b for a, b in zip(self.fields, other.fields, strict=True))
        return held and np.array_equal(self.weight, other.weight)


class Face(NamedTuple):
    """The stratum: support, signs (0: free to cross zero) and active rows of G; and multipliers to start from."""

    support: np.ndarray
    signs: np.ndarray
    rows: np.ndarray
    nu: np.ndarray
    pressure: np.ndarray

    @property
    def key(self):
        return self.support.tobytes(), self.signs.tobytes(), self.rows.tobytes()


class Point(NamedTuple):
    """A polished point: its problem and face, x on the support, the system, and how far it misses each condition."""

    problem: Problem
    face: Face
    values: np.ndarray
    columns: Any
    saddle: Saddle
    defect: np.ndarray
    pull: np.ndarray
    slack: np.ndarray
    scale: float
    heights: np.ndarray
    error: float


def solve(lower, theta, *, start=None, tol=1e-8, throw=True) -> Solution:
    """The solution at rounding level, or the sentence why there is none."""
    problem = Problem(lower, theta)
    point, steps, said = None, 0, ""
    if start is not None and np.all(np.isfinite(start.x)):
        point, steps = _settle(problem, _warm_face(problem, start))
    if point is None or point.error > min(tol, SLIP):
        guess, spent, said = _clarabel(problem)
        steps += spent
        if guess is not None:
            point, spent = _settle(problem, guess)
            steps += spent
    if not said:
        said = _not_unique(point)
    p, error = lower.A.shape[1], float("inf") if said else point.error
    x = np.full(p, np.nan)
    if not said:
        x = _full(point, p)
        said = _sentence(point, theta, steps, tol)
    if throw and not error <= tol:
        raise NotConverged(said)
    return Solution(x, error, steps, said, None if np.isnan(x[0]) else point)


def _sentence(point, theta, steps, tol) -> str:
    error, k, p = point.error, point.face.support.size, point.problem.weight.size
    if not error <= tol:
        return f"BPDN stopped at {error:.1e}, above tol {tol:.1e}: scale A and the constraints, or loosen tol"
    if not k:
        return "x = 0: no coefficient pulls harder than its weight, so the hypergradient is zero"
    return (
        f"BPDN converged to {error:.1e} in {steps} steps, with {k} of {p} coefficients and "
        f"{point.face.rows.size} of {point.problem.h.size} inequalities active"
    )


def _full(point, p) -> np.ndarray:
    x = np.zeros(p)
    x[point.face.support] = point.values
    return x


def _warm_face(problem: Problem, start) -> Face:
    """The stratum of an earlier solution; its multipliers too, if it left them."""
    known = start.memo if isinstance(start.memo, Point) else None
    if known is not None and known.problem.C.shape == problem.C.shape and known.problem.G.shape == problem.G.shape:
        return _face(problem, known.face.support, known.face.signs, known.face.rows, known.face.nu, known.face.pressure)
    x = np.asarray(start.x, float)
    support = np.flatnonzero((x != 0) | problem.free)
    rows = np.flatnonzero(problem.h - problem.G @ x <= 1e-9 * _heights(problem.G, problem.h, x))
    return _face(problem, support, np.sign(x[support]), rows, np.zeros(problem.d.size), np.zeros(rows.size))


def _face(problem, support, signs, rows, nu, pressure) -> Face:
    """A face with its support in order, and no sign where x_j is free."""
    order = np.argsort(support)
    support, signs = support[order], signs[order]
    return Face(support, np.where(problem.free[support], 0.0, signs), rows, nu, pressure)


def _settle(problem: Problem, guess: Face) -> tuple[Point, int]:
    """Polish, exchange what was left behind, again, until the conditions hold or a face comes back."""
    met, best, steps = set(), None, 0
    while guess.key not in met and steps < EXCHANGES:
        met.add(guess.key)
        steps += 1
        point = _polish(problem, guess)
        if best is None or point.error < best.error:
            best = point
        if point.error <= SLIP:
            break
        guess = _exchanged(point)
    return best, steps


def _polish(problem: Problem, face: Face) -> Point:
    """Newton on the face (the equations are linear: the later steps refine)."""
    design, S, J = problem.design, face.support, face.rows
    columns = design.columns(S)
    gram = design.gram(columns, columns, S, S)
    normal = np.vstack([problem.C[:, S], problem.G[J][:, S]])
    saddle = Saddle(_bordered(gram, normal))
    k, m = S.size, problem.d.size
    bounds = np.concatenate([problem.d, problem.h[J]])
    pulled = design.correlate(problem.y)

    def defect_at(c):
        misfit = problem.y - design.predict(columns, S, c[:k])
        on = -design.correlate_with(columns, S, misfit) + problem.weight[S] * face.signs + normal.T @ c[k:]
        return np.concatenate([on, normal @ c[:k] - bounds]), misfit

    c = np.concatenate([np.zeros(k), face.nu, face.pressure])
    defect, misfit = defect_at(c)
    for _ in range(5):
        try:
            refined = c - saddle.solve(defect)
        except Singular:
            break
        left, at = defect_at(refined)
        better = np.linalg.norm(left) < 0.5 * np.linalg.norm(defect)
        if np.linalg.norm(left) < np.linalg.norm(defect):
            c, defect, misfit = refined, left, at
        if not better:
            break
    x = np.zeros(problem.weight.size)
    x[S] = c[:k]
    face = face._replace(nu=c[k : k + m], pressure=c[k + m :])
    held = problem.C.T @ face.nu + problem.G[J].T @ face.pressure
    pull = design.correlate(misfit) - held
    scale = max(np.abs(pulled).max(initial=0.0), np.abs(held).max(initial=0.0), np.finfo(float).tiny)
    heights = _heights(problem.G, problem.h, x)
    slack = problem.h - problem.G @ x
    point = Point(problem, face, c[:k], columns, saddle, defect, pull, slack, scale, heights, 0.0)
    off = _left_behind(point)
    rows = np.concatenate([_heights(problem.C, problem.d, x), heights[J]])
    missed = (np.abs(defect[:k]) / scale, np.abs(defect[k:]) / rows, *(part for part, _ in off))
    return point._replace(error=float(max(np.max(part, initial=0.0) for part in missed)))


def _left_behind(point: Point):
    """Relative violations beside the equations: (sizes, indices) of coefficients and rows to enter and to leave."""
    problem, face = point.problem, point.face
    largest = np.abs(point.values).max(initial=0.0) or 1.0
    waiting = np.setdiff1d(np.arange(problem.weight.size), face.support)
    resting = np.setdiff1d(np.arange(problem.h.size), face.rows)
    return (
        (np.maximum(point.pull - problem.high, problem.low - point.pull)[waiting] / point.scale, waiting),
        (-face.signs * point.values / largest, face.support),
        (-point.slack[resting] / point.heights[resting], resting),
        (-face.pressure * _sizes(problem.G)[face.rows] / point.scale, face.rows),
    )


def _exchanged(point: Point) -> Face:
    """The next face: what was left behind goes to the other side."""
    entering, leaving, hitting, lifting = (indices[sizes > SLIP] for sizes, indices in _left_behind(point))
    face = point.face
    kept, stays = ~np.isin(face.support, leaving), ~np.isin(face.rows, lifting)
    support = np.concatenate([face.support[kept], entering])
    signs = np.concatenate([face.signs[kept], np.where(point.pull > point.problem.high, 1.0, -1.0)[entering]])
    rows = np.concatenate([face.rows[stays], hitting])
    order = np.argsort(rows)
    pressure = np.concatenate([face.pressure[stays], np.zeros(hitting.size)])[order]
    return _face(point.problem, support, signs, rows[order], face.nu, pressure)


def _clarabel(problem: Problem) -> tuple[Face | None, int, str]:
    """The stratum by an interior-point method, in variables (x, t >= |x| where penalised, r = W^(1/2) (A x - y))."""
    n, p = problem.design.shape
    penalised = np.flatnonzero(problem.weight > 0)
    root = np.ones(n) if problem.design.sample_weight is None else np.sqrt(problem.design.sample_weight)
    G, h = problem.all_rows
    k, m, rows = penalised.size, problem.d.size, h.size
    A = scipy.sparse.diags_array(root) @ csr_array(problem.design.matrix)
    pick = eye_array(p, format="csr")[penalised]
    one, none = eye_array(k), None
    blocks = [[A, none, -eye_array(n)], [csr_array(problem.C), csr_array((m, k)), none]]
    blocks += [[pick, -one, none], [-pick, -one, none], [csr_array(G), none, none]]
    blocks = [block for block in blocks if block[0].shape[0]]
    b = np.concatenate([root * problem.y, problem.d, np.zeros(2 * k), h])
    P = scipy.sparse.diags_array(np.concatenate([np.zeros(p + k), np.ones(n)]), format="csc")
    q = np.concatenate([np.zeros(p), problem.weight[penalised], np.zeros(n)])
    stacked = csc_array(scipy.sparse.block_array(blocks))
    programme = Programme(csc_array(P), q, stacked, b, Cones(n + m, 2 * k + rows))
    v, z, status, steps = interior_point(programme)
    if status not in SOLVED:
        said = STATUS.get(status, STATUS["Unsolved"]).format(status=status)
        return None, steps, said.replace("the cone programme", "BPDN under these constraints")
    groups = Groups(np.repeat(np.arange(4), [n, m, 2 * k, rows]), np.repeat(np.arange(3), [p, k, n]))
    active = face.identify(programme, v, z, face.scales(programme, v, z, groups)).active.astype(bool)
    above, below = active[:k], active[k : 2 * k]
    on = np.union1d(penalised[~(above & below)], np.flatnonzero(problem.weight == 0))
    J = np.flatnonzero(active[2 * k :][problem.rows])
    found = _face(problem, on, np.sign(v[on]), J, z[n : n + m], z[n + m + 2 * k :][problem.rows][J])
    return found, steps, ""


def _not_unique(point: Point) -> str:
    try:
        null = point.saddle.null
    except Singular as reason:
        return f"{reason}: drop dependent columns of A or redundant constraints"
    if np.abs(null[: point.face.support.size].data).max(initial=0.0) > 1e-7:
        return (
            "x* is not unique: columns of A on its support are dependent (repeated, perhaps), so it has no derivative: "
            "drop one, or write the problem as a Cone with a small multiple of sum_squares"
        )
    return ""


def _bordered(gram, normal):
    if scipy.sparse.issparse(gram):
        zero = csc_array((normal.shape[0],) * 2)
        return csc_array(scipy.sparse.block_array([[gram, normal.T], [normal, zero]]))
    return np.block([[gram, normal.T], [normal, np.zeros((normal.shape[0],) * 2)]])


def _heights(matrix, bound, x) -> np.ndarray:
    """Yardstick of each row's slack: the largest of all rows' terms, and of its own with x_j at the largest."""
    terms = np.max(np.abs(bound) + np.abs(matrix) @ np.abs(x), initial=0.0) or 1.0
    return np.maximum(terms, _sizes(matrix) * np.abs(x).max(initial=0.0))


def _sizes(matrix) -> np.ndarray:
    return np.abs(matrix).max(axis=1, initial=0.0)


def linearise(lower, solution, theta) -> Linearisation:
    """The saddle-point system on the stratum, with its derivative in the weights and in y."""
    point = solution.memo
    if np.any(np.isnan(solution.x)):
        return undefined(theta)
    if not isinstance(point, Point) or not point.problem.same(Problem(lower, theta)):
        point = solve(lower, theta, start=solution).memo
    problem, S = point.problem, point.face.support
    p, k, size = problem.weight.size, S.size, point.saddle.matrix.shape[0]
    shape = np.shape(theta["weight"])
    # Where a weight is zero, the slope is that towards positive weights.
    signs = np.where(problem.weight[S] > 0, point.face.signs, np.sign(point.values))

    def B(dtheta):
        slope = signs * np.broadcast_to(dtheta["weight"], (p,))[S]
        return np.concatenate([slope, np.zeros(size - k)])

    def B_transpose(z):
        slope = np.zeros(p)
        slope[S] = signs * z[:k]
        return {"weight": slope if shape else np.asarray(slope.sum())}

    def P(c):
        x = np.zeros(p)
        x[S] = c[:k]
        return x

    margin, margin_of = constrained_kinks.conditions(point).margin()
    return Linearisation(
        A=point.saddle.matrix,
        P=P,
        P_transpose=lambda v: np.concatenate([np.asarray(v, float)[S], np.zeros(size - k)]),
        B=B,
        B_transpose=B_transpose,
        solve=lambda rhs, transpose=False: point.saddle.solve(rhs),
        stratum=(S, point.face.signs, point.face.rows),
        margin=margin,
        margin_of=margin_of,
        degenerate=lambda tolerance, thorough=False: constrained_kinks.critical_cone(point, tolerance),
        data_transpose=lambda z: {"y": -problem.design.weigh(problem.design.predict(point.columns, S, z[:k]))},
        residual=point.defect,
    )
