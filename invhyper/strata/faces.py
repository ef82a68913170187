"""The active faces of a conic programme: identification, Newton polish, derivative and margin on them.

    minimise 1/2 x.Px + q.x   subject to   s = b - Ax in K,   K = zero x nonnegative x second-order cones

with multipliers z in the dual cone, Px + q + A^T z = 0, s.z = 0. On its stratum a solution obeys smooth equations:
rows on a face are equalities s_j = 0 with a multiplier each; a second-order block s = (s0, t) is inside (no equation),
at its apex (all rows are equalities) or on its curved boundary (|t| - s0 = 0 with a multiplier mu, z = mu (1, -t/|t|)).
Unknowns c = (x, multipliers of the rows, mu); F(c, theta) = 0 are stationarity and these equations.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse import csc_array, csr_array, diags_array

INSIDE, BOUNDARY, APEX = 0, 1, 2


class Cones(NamedTuple):
    """Sizes of K: rows of the zero cone, then nonnegative rows, then one size for each second-order block."""

    zero: int
    nonneg: int
    soc: tuple[int, ...] = ()


class Programme(NamedTuple):
    """The numbers of a conic programme."""

    P: csc_array
    q: np.ndarray
    A: csc_array
    b: np.ndarray
    cones: Cones


class Groups(NamedTuple):
    """What one yardstick measures: the constraint that each row belongs to, and the variable that each column does."""

    rows: np.ndarray
    columns: np.ndarray


class Scales(NamedTuple):
    """Yardsticks at a point: slacks divide by `slack`, stationarity by `stationarity`, multipliers times `dual`."""

    slack: np.ndarray
    stationarity: float
    dual: np.ndarray


@dataclass(frozen=True)
class Faces:
    """A stratum: which nonnegative rows are active (0 or 1) and the state of each second-order block."""

    cones: Cones
    active: np.ndarray
    blocks: np.ndarray

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)

    @property
    def key(self):
        return self.cones, self.active.tobytes(), self.blocks.tobytes()

    @property
    def heads(self) -> np.ndarray:
        """First row of each second-order block."""
        sizes = np.asarray(self.cones.soc, int)
        return self.cones.zero + self.cones.nonneg + np.cumsum(sizes) - sizes

    @property
    def rows(self) -> np.ndarray:
        """Rows that are equalities: zero cone, active nonnegative rows, blocks at their apex."""
        zero, nonneg, soc = self.cones
        apex = np.repeat(self.blocks == APEX, soc)
        return np.flatnonzero(np.concatenate([np.ones(zero, bool), self.active.astype(bool), apex]))

    @property
    def curved(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the blocks on their boundary: head rows, tail rows, and the position of each tail row's block."""
        at = self.blocks == BOUNDARY
        sizes = np.asarray(self.cones.soc, int)
        tails = np.repeat(at, sizes)
        tails[self.heads - self.cones.zero - self.cones.nonneg] = False
        return (
            self.heads[at],
            self.cones.zero + self.cones.nonneg + np.flatnonzero(tails),
            np.repeat(np.arange(at.sum()), sizes[at] - 1),
        )


def tails_norm(cones: Cones, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(v0, |tail|) of each second-order block of a row vector."""
    sizes = np.asarray(cones.soc, int)
    first = cones.zero + cones.nonneg
    heads = first + np.cumsum(sizes) - sizes
    squares = v[first:] ** 2
    squares[heads - first] = 0.0
    return v[heads], np.sqrt(np.bincount(np.repeat(np.arange(sizes.size), sizes), squares, minlength=sizes.size))


def scales(programme: Programme, x: np.ndarray, z: np.ndarray, groups: Groups) -> Scales:
    """Yardsticks at (x, z).

    Slacks are measured against the largest terms of their constraint, one term of each row at its variable's largest
    entry; stationarity against its terms and |P| |x|, for the terms vanish together at an unconstrained optimum.
    """
    P, q, A, b, _ = programme
    magnitude = csr_array(abs(A))
    terms = np.abs(b) + magnitude @ np.abs(x)
    if magnitude.nnz:
        single = magnitude @ diags_array(_largest(np.abs(x), groups.columns, floor=0.0))
        terms = np.maximum(terms, single.max(axis=1).toarray().ravel())
    slack = _largest(terms, groups.rows)
    curvature = abs(P).max() * np.abs(x).max() if P.nnz else 0.0
    stationarity = max(curvature, *(np.abs(part).max(initial=0.0) for part in (P @ x, q, A.T @ z))) or 1.0
    size = magnitude.max(axis=1).toarray().ravel() if A.shape[0] else np.zeros(0)
    return Scales(slack, stationarity, _largest(size, groups.rows) / stationarity)


def _largest(values: np.ndarray, group: np.ndarray, floor: float | None = None) -> np.ndarray:
    """The largest value of each group, at each of its members; where that is zero, `floor`, or the largest of all."""
    most = np.zeros(group.max(initial=-1) + 1)
    np.maximum.at(most, group, values)
    floor = (values.max(initial=0.0) or 1.0) if floor is None else floor
    return np.where(most > 0, most, floor)[group]


def identify(programme: Programme, x, z, scale: Scales) -> Faces:
    """The faces of an approximate solution: a row or block is active where its multiplier outweighs its slack."""
    cones = programme.cones
    s = (programme.b - programme.A @ x) / scale.slack
    z = z * scale.dual
    linear = slice(cones.zero, cones.zero + cones.nonneg)
    active = (z[linear] > s[linear]).astype(np.int8)
    s0, st = tails_norm(cones, s)
    z0, zt = tails_norm(cones, z)
    on = (z0 + zt > s0 - st).astype(np.int8)
    apex = (z0 - zt > s0 + st).astype(np.int8)
    return Faces(cones, active, (on + on * apex).astype(np.int8))


class Point(NamedTuple):
    """What F and its derivatives need at c: x, slacks s, multipliers z and mu, and the curved blocks' geometry."""

    x: np.ndarray
    s: np.ndarray
    z: np.ndarray
    mu: np.ndarray
    length: np.ndarray
    U: csr_array


def unknowns(programme: Programme, faces: Faces, x, z) -> np.ndarray:
    """c from an approximate primal-dual pair."""
    return np.concatenate([x, z[faces.rows], z[faces.curved[0]]])


def point(programme: Programme, faces: Faces, c: np.ndarray) -> Point:
    """The point that c stands for."""
    n, rows, (heads, tails, block) = programme.q.size, faces.rows, faces.curved
    x, mu = c[:n], c[n + rows.size :]
    s = programme.b - programme.A @ x
    length = np.sqrt(np.bincount(block, s[tails] ** 2, minlength=heads.size))
    u = s[tails] / np.where(length > 0, length, 1.0)[block]
    z = np.zeros_like(s)
    z[rows], z[heads], z[tails] = c[n : n + rows.size], mu, -mu[block] * u
    U = csr_array((u, (block, np.arange(tails.size))), shape=(heads.size, tails.size))
    return Point(x, s, z, mu, length, U)


def residual(programme: Programme, faces: Faces, at: Point) -> np.ndarray:
    """F at a point."""
    stationarity = programme.P @ at.x + programme.q + programme.A.T @ at.z
    return np.concatenate([stationarity, -at.s[faces.rows], at.length - at.s[faces.curved[0]]])


def matrix(programme: Programme, faces: Faces, at: Point) -> csc_array:
    """dF/dc, symmetric, bordered by one auxiliary unknown a curved block.

    The border carries the curvature's rank-one part, mu/|t| A^T (I - u u^T) A, so that long blocks stay sparse.
    """
    P, _, A, _, _ = programme
    heads, tails, block = faces.curved
    A = csr_array(A)
    curvature = at.mu / np.where(at.length > 0, at.length, 1.0)
    T = A[tails]
    along = at.U @ T
    normal = scipy.sparse.vstack([A[faces.rows], A[heads] - along], format="csr")
    upper = P + T.T @ diags_array(curvature[block]) @ T if tails.size else P
    rank_one = diags_array(np.sqrt(np.maximum(curvature, 0.0))) @ along if tails.size else along
    parts = [[upper, normal.T, rank_one.T], [normal, None, None], [rank_one, None, scipy.sparse.eye_array(heads.size)]]
    if not heads.size:
        parts = [row[:2] for row in parts[:2]]
    if not normal.shape[0]:
        parts = [[upper]]
    return csc_array(scipy.sparse.block_array(parts))


def defect(programme: Programme, faces: Faces, at: Point, scale: Scales) -> float:
    """The largest entry of F, relative to the terms it is made of."""
    n = programme.q.size
    F = residual(programme, faces, at)
    rows = F[n:] / scale.slack[np.concatenate([faces.rows, faces.curved[0]])]
    return float(max(np.abs(F[:n]).max(initial=0.0) / scale.stationarity, np.abs(rows).max(initial=0.0)))


def signed_distances(faces: Faces, at: Point, scale: Scales) -> np.ndarray:
    """Relative distance to the edge of the stratum (negative: beyond it): nonnegative rows first, then blocks."""
    zero, nonneg, _ = faces.cones
    linear = slice(zero, zero + nonneg)
    dual, slack = at.z * scale.dual, at.s / scale.slack
    of_rows = np.where(faces.active == 1, dual[linear], slack[linear])
    s0, st = tails_norm(faces.cones, slack)
    z0, zt = tails_norm(faces.cones, dual)
    curved = np.minimum(z0, st)
    of_blocks = np.select([faces.blocks == INSIDE, faces.blocks == APEX], [s0 - st, z0 - zt], curved)
    return np.concatenate([of_rows, of_blocks])


def repaired(faces: Faces, distances: np.ndarray, tolerance: float, s: np.ndarray) -> Faces:
    """The next faces to try: those left behind (distance below -tolerance) exchanged for their neighbours.

    A block leaves its boundary for the inside (mu < 0). If none was left behind, Newton failed: then the block on its
    boundary whose tail is shortest in the slacks `s` goes to its apex, near which the curvature has no limit.
    """
    wrong = distances < -tolerance
    rows, blocks = wrong[: faces.active.size], wrong[faces.active.size :]
    active = np.where(rows, 1 - faces.active, faces.active).astype(np.int8)
    states = np.where(blocks, np.where(faces.blocks == BOUNDARY, INSIDE, BOUNDARY), faces.blocks).astype(np.int8)
    curved = np.flatnonzero(faces.blocks == BOUNDARY)
    if not wrong.any() and curved.size:
        lengths = tails_norm(faces.cones, s)[1]
        states[curved[np.argmin(lengths[curved])]] = APEX
    return Faces(faces.cones, active, states)


def pull(programme: Programme, faces: Faces, at: Point, zeta: np.ndarray):
    """Cotangents of the numbers: w and v such that zeta . dF = sum v_x (dP x + dq) + z.(dA v_x) + w.(db - dA x).

    F depends on A and b through the rows' slacks and, on curved blocks, through the direction of z.
    """
    n = programme.q.size
    v = zeta[:n]
    heads, tails, block = faces.curved
    rows = faces.rows
    multiplier = zeta[n + rows.size : n + rows.size + heads.size]
    w = np.zeros_like(programme.b)
    w[rows] = -zeta[n : n + rows.size]
    w[heads] = -multiplier
    along = (programme.A @ v)[tails]
    u = at.U.T @ np.ones(heads.size)
    turn = along - u * (at.U @ along)[block]
    w[tails] = multiplier[block] * u - (at.mu / np.where(at.length > 0, at.length, 1.0))[block] * turn
    return v, w


def push(programme: Programme, faces: Faces, at: Point, dP, dq, dA, db) -> np.ndarray:
    """dF from changes of the numbers, at fixed c."""
    heads, tails, block = faces.curved
    ds = db - dA @ at.x
    u = at.U.T @ np.ones(heads.size)
    along = at.U @ ds[tails]
    dz = np.zeros_like(ds)
    dz[tails] = -(at.mu / np.where(at.length > 0, at.length, 1.0))[block] * (ds[tails] - u * along[block])
    stationarity = dP @ at.x + dq + dA.T @ at.z + programme.A.T @ dz
    return np.concatenate([stationarity, -ds[faces.rows], along - ds[heads]])
