"""A conic programme in numbers: Clarabel, then the polish on the active faces, then the verdict in words."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse

from invhyper.problem import Linearisation
from invhyper.strata import faces as face
from invhyper.strata.faces import Faces, Groups, Programme
from invhyper.strata.saddle import Saddle, Singular

ROUNDING = 1e-14  # relative defect at which a polish has nothing left to gain
AGREES = 1e-9  # relative: signs may miss by this, free multipliers must be this neutral to theta
EXCHANGES = 12  # repairs of the faces before Clarabel's guess counts as wrong


class Memo(NamedTuple):
    """What a solve leaves for the derivative and for the next solve."""

    faces: Faces
    c: np.ndarray
    at: face.Point
    scale: face.Scales
    saddle: Saddle
    programme: Programme


@dataclass(frozen=True)
class Outcome:
    """A solve: the memo (None: there is no solution to differentiate), relative error, steps, and the sentence."""

    memo: Memo | None
    error: float
    steps: int
    said: str


def solve(programme: Programme, groups: Groups, kept: np.ndarray, start: Memo | None, tol: float) -> Outcome:
    """The solution at rounding level: the faces of `start` if they still hold, else those that Clarabel finds.

    `groups` says which rows and columns belong together; `kept` lists the entries of x that must be unique.
    """
    if start is not None and start.faces.cones == programme.cones and start.c.size == _size(programme, start.faces):
        memo, error, steps = _polish(programme, groups, start.faces, start.c)
        if error <= min(tol, AGREES):
            return _judged(memo, error, steps, kept, tol, "kept its faces")
    x, z, status, iterations = interior_point(programme)
    if status not in SOLVED:
        return Outcome(None, float("inf"), iterations, STATUS.get(status, STATUS["Unsolved"]).format(status=status))
    scale = face.scales(programme, x, z, groups)
    faces = face.identify(programme, x, z, scale)
    slack = (programme.b - programme.A @ x) / scale.slack
    best, tried = None, set()
    for _ in range(EXCHANGES):
        tried.add(faces)
        memo, error, steps = _polish(programme, groups, faces, face.unknowns(programme, faces, x, z))
        iterations += steps
        if best is None or error < best[1]:
            best = memo, error
        if error <= AGREES:
            break
        distances = face.signed_distances(faces, memo.at, memo.scale)
        faces = face.repaired(faces, distances, AGREES, slack)
        if faces in tried:
            break
    return _judged(*best, iterations, kept, tol, "was solved by Clarabel and polished")


def _size(programme, faces) -> int:
    return programme.q.size + faces.rows.size + faces.curved[0].size


def _polish(programme, groups, faces, c, steps: int = 30):
    """Newton's method for F(c) = 0 on given faces; the best c, with the factor that belongs to it, and its error."""
    best, saddle, stalled, taken = None, None, 0, 0
    for _ in range(steps):
        at = face.point(programme, faces, c)
        scale = face.scales(programme, at.x, at.z, groups)
        defect = face.defect(programme, faces, at, scale)
        if not np.isfinite(defect):
            break
        stalled = stalled + 1 if best is not None and not defect < 0.5 * best[1] else 0
        if stalled == 0 or defect < best[1]:
            if saddle is None or faces.curved[0].size:
                saddle = Saddle(face.matrix(programme, faces, at))
            best = Memo(faces, c, at, scale, saddle, programme), defect
        if stalled > 1 or (stalled and defect < ROUNDING):
            break
        F = face.residual(programme, faces, at)
        try:
            c = c - saddle.solve(_bordered(F, saddle))[: c.size]
            taken += 1
        except Singular:
            break
    memo, defect = best
    beyond = -np.min(face.signed_distances(faces, memo.at, memo.scale), initial=0.0)
    return memo, max(defect, beyond), taken


def _bordered(F, saddle):
    """F with zeros for the auxiliary unknowns of the curved blocks."""
    return np.concatenate([F, np.zeros(saddle.matrix.shape[0] - F.size)])


def _judged(memo, error, steps, kept, tol, how) -> Outcome:
    """The outcome with its sentence; a solution that is not unique is none."""
    try:
        null = memo.saddle.null
    except Singular as reason:
        return Outcome(
            None, float("inf"), steps, f"{reason}: add a small quadratic term, or remove redundant constraints"
        )
    free = null[kept] if null.shape[1] else null
    if null.shape[1] and abs(free).max() > 1e-7:
        said = (
            "the solution is not unique (the KKT matrix on the active faces is singular in the variables asked for): "
            "add a strictly convex term, such as a small multiple of sum_squares"
        )
        return Outcome(None, float("inf"), steps, said)
    if not error <= tol:
        how = f"stopped above tol {tol:.1e} (scale its data, loosen tol, or look for a degenerate constraint)"
    return Outcome(memo, error, steps, f"the cone programme {how}: KKT residual {error:.1e} after {steps} steps")


SOLVED = ("Solved", "AlmostSolved", "InsufficientProgress", "MaxIterations")
STATUS = {
    "PrimalInfeasible": "the cone programme is infeasible: Clarabel's certificate proves that no point meets all "
    "constraints; relax one",
    "DualInfeasible": "the cone programme is unbounded: Clarabel's certificate is a direction along which the objective"
    " falls for ever; bound the variables",
    "Unsolved": "Clarabel stopped without a solution (status {status}): scale the problem, or check its data",
}
STATUS["AlmostPrimalInfeasible"] = STATUS["PrimalInfeasible"]
STATUS["AlmostDualInfeasible"] = STATUS["DualInfeasible"]


def interior_point(programme: Programme, tol: float = 1e-11):
    """x, z, Clarabel's status and its iterations. Goulart and Chen (2024), arXiv:2405.12762."""
    import clarabel

    P, q, A, b, cones = programme
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.presolve_enable = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    blocks = [clarabel.ZeroConeT(cones.zero), clarabel.NonnegativeConeT(cones.nonneg)]
    blocks = [cone for cone, size in zip(blocks, cones[:2], strict=True) if size]
    blocks += [clarabel.SecondOrderConeT(size) for size in cones.soc]
    upper = scipy.sparse.csc_matrix(scipy.sparse.triu(P))
    found = clarabel.DefaultSolver(upper, q, scipy.sparse.csc_matrix(A), b, blocks, settings).solve()
    return np.asarray(found.x), np.asarray(found.z), str(found.status), int(found.iterations)


def same(a: Programme, b: Programme) -> bool:
    """True if two programmes hold the same numbers."""
    vectors = np.array_equal(a.q, b.q) and np.array_equal(a.b, b.b)
    return vectors and all(np.array_equal(u.data, v.data) for u, v in ((a.P, b.P), (a.A, b.A)))


def linearise(memo: Memo, select, select_transpose, push, pull, name_of) -> Linearisation:
    """The first-order system on the faces of a polished solution.

    `select(x)` picks the caller's variables from x, `push(dtheta)` gives (dP, dq, dA, db), `pull(v, w, x, z)` is its
    transpose, `name_of(i)` says in words which row (or, beyond the rows, which second-order block) number i is.
    """
    faces, c, at, scale, saddle, programme = memo
    n, size = programme.q.size, saddle.matrix.shape[0]
    distances = face.signed_distances(faces, at, scale)
    nearest = int(np.argmin(distances)) if distances.size else None
    margin, margin_of = float("inf"), ""
    if nearest is not None:
        margin, margin_of = max(float(distances[nearest]), 0.0), name_of(faces, nearest)
    if torn := _torn(memo, pull):
        margin, margin_of = 0.0, torn

    def B(dtheta):
        return _bordered(face.push(programme, faces, at, *push(dtheta)), saddle)

    def B_transpose(zeta):
        v, w = face.pull(programme, faces, at, zeta)
        return pull(v, w, at.x, at.z)

    return Linearisation(
        A=saddle.matrix,
        P=lambda dc: select(dc[:n]),
        P_transpose=lambda v: np.concatenate([select_transpose(v), np.zeros(size - n)]),
        B=B,
        B_transpose=B_transpose,
        solve=lambda rhs, transpose: saddle.solve(rhs),
        stratum=faces,
        margin=margin,
        margin_of=margin_of,
        residual=_bordered(face.residual(programme, faces, at), saddle),
    )


def _torn(memo: Memo, pull) -> str:
    """A sentence if theta tears dependent active constraints apart; "" if they stay dependent, or are not."""
    null = memo.saddle.null
    if not null.shape[1]:
        return ""
    direction = null @ np.random.default_rng(0).standard_normal(null.shape[1])
    v, w = face.pull(memo.programme, memo.faces, memo.at, direction)
    size = np.abs(v).max() * max(1.0, np.abs(memo.at.x).max(), np.abs(memo.at.z).max(initial=0.0)) + np.abs(w).max(
        initial=0.0
    )
    gradient = pull(v, w, memo.at.x, memo.at.z)
    if max((np.abs(leaf).max(initial=0.0) for leaf in gradient.values()), default=0.0) <= AGREES * size:
        return ""
    return "the active constraints are dependent and theta tears them apart: multipliers and slope are not unique"


def undefined(theta) -> Linearisation:
    """The first-order system where there is no solution: all NaN, so that no gradient looks fine."""
    nan = np.full((1, 1), np.nan)

    def lost(_):
        return jax.tree.map(lambda leaf: np.full(np.shape(leaf), np.nan), theta)

    return Linearisation(
        A=nan,
        P=lambda dc: np.nan,
        P_transpose=lambda v: nan[0],
        B=lambda dtheta: nan[0],
        B_transpose=lost,
        solve=lambda rhs, transpose: nan[0],
        margin=float("nan"),
        margin_of="there is no solution",
    )
