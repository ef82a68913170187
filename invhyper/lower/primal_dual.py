"""Newton's method for smoothed norms, at any smoothing: primal and dual variables together.

    minimise over z   1/2 z^T G z - b^T z + sum_g w_g h(|(D z)_g|),    h(t) = sqrt(t^2 + eps^2) - eps

In z alone the curvature runs up to w / eps and Newton's method sees no further than eps. With d = D z and the dual
variable p as unknowns of their own the equations are mild,

    G z - b + D^T p = 0,    D z = d,    s p = w d,    s_g = sqrt(|d_g|^2 + eps^2),

a norm is short where p is inside its ball and points along d outside, and no rounding of D z is divided by eps: Chan,
Golub and Mulet (1999), doi:10.1137/S1064827596299767. Huber's norm is the same with s = max(|d|, delta).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as ssl
from scipy.sparse import csr_array, diags_array

# eps falls by no more than this factor at a time, after at most so many steps.
FALL, STEPS_BETWEEN, STEPS = 0.1, 8, 60
LOOSE, EXACT = 1e-3, 1e-14
# Newton goes on while a step leaves less than this share of the error: beyond it is rounding.
FALLING = 0.5
# The slope along a step may not end up steeper than this share of what it was, the other way.
OVERSHOOT = 0.9


@dataclass(frozen=True)
class Problem:
    """The numbers of a problem at one theta.

    `normal`: G, an array or a sparse matrix; `pull`: b; `group`: the group of each row of D; `weight`, `delta`: w and
    Huber's threshold (0: a norm, to be smoothed) of each group; `eps`.
    """

    normal: np.ndarray | csr_array
    pull: np.ndarray
    D: csr_array
    group: np.ndarray
    weight: np.ndarray
    delta: np.ndarray
    eps: float

    @cached_property
    def level(self) -> float:
        """The curvature of the data beside that of the rows of D: stiffer rows keep their dual variable."""
        return float(self.normal.diagonal().max()) / max(float((self.D.power(2)).sum(axis=0).max()), 1e-300)

    @cached_property
    def alone(self) -> np.ndarray:
        """Rows with one entry that are a group of their own: put into G they spoil no other unknown's accuracy."""
        return (np.diff(self.D.indptr) <= 1) & (np.bincount(self.group, minlength=self.weight.size)[self.group] == 1)

    def lengths(self, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """s of each group, and its derivative along d / s: 1, and 0 inside Huber's threshold."""
        squares = np.bincount(self.group, d * d, self.weight.size)
        sizes, huber = np.sqrt(squares), self.delta > 0
        s = np.where(huber, np.maximum(sizes, self.delta), np.hypot(sizes, self.eps))
        return s, np.where(huber, sizes > self.delta, 1.0)

    def directions(self, d: np.ndarray) -> np.ndarray:
        """d / s, row by row: the derivative of the gradient in the weights, before D^T."""
        return d / self.lengths(d)[0][self.group]

    def pressed(self, d: np.ndarray) -> np.ndarray:
        """w d / s, the dual variable that belongs to d."""
        return self.weight[self.group] * self.directions(d)

    def gradient(self, z: np.ndarray, p: np.ndarray) -> np.ndarray:
        """G z - b + D^T p."""
        return self.normal @ z - self.pull + self.D.T @ p

    def feasible(self, p: np.ndarray) -> np.ndarray:
        """p brought back into its balls |p_g| <= w_g."""
        sizes = np.sqrt(np.bincount(self.group, p * p, self.weight.size))
        return np.where(sizes > self.weight, self.weight / np.where(sizes > 0, sizes, 1.0), 1.0)[self.group] * p


class Point(NamedTuple):
    """z, d = D z and p."""

    z: np.ndarray
    d: np.ndarray
    p: np.ndarray


class Found(NamedTuple):
    """The solution, the system of its last step, what is left of the equations (relative to b) and the steps taken."""

    point: Point
    system: "System"
    error: float
    steps: int


class System:
    """The Newton system at a point, in the unknowns dz and q, the change of p in the stiff directions (over a scale).

        [G + D_e^T C_e D_e    r D_k^T ] [dz]
        [r D_k              -r^2 / C_k] [q ],     C_g = (w I - sym(p d^T) / s) / s = Q_g diag(C) Q_g^T,  D := Q^T D

    Directions e with C <= `level` = r^2, and rows that stand alone, are put into G; the others, k, keep their dual
    variable, and the system stays as well conditioned as the limit eps = 0, where D_k z = 0.
    """

    def __init__(self, problem: Problem, point: Point):
        s, turning = problem.lengths(point.d)
        self.problem, self.root = problem, np.sqrt(problem.level)
        stiffness, self.turn, D = _principal(problem, point, s, turning)
        self.stiffness = stiffness
        self.kept = np.flatnonzero((stiffness > problem.level) & ~problem.alone)
        self.mild = np.setdiff1d(np.arange(stiffness.size), self.kept)
        self.D = D
        self.D_kept, D_mild = D[self.kept], D[self.mild]
        bent = D_mild.T @ diags_array(stiffness[self.mild]) @ D_mild
        corner = -problem.level / stiffness[self.kept]
        side = self.root * self.D_kept
        if scipy.sparse.issparse(problem.normal):
            upper = csr_array(problem.normal + bent)
            self.matrix = scipy.sparse.block_array([[upper, side.T], [side, diags_array(corner)]], format="csc")
            self.matrix = self.matrix if self.kept.size else upper.tocsc()
        else:
            upper, side = problem.normal + bent.toarray(), side.toarray()
            self.matrix = np.block([[upper, side.T], [side, np.diag(corner)]]) if self.kept.size else upper

    @cached_property
    def _solve(self):
        """The factor. Where all is in G it is Cholesky's, which unknowns of different size do no harm."""
        try:
            if scipy.sparse.issparse(self.matrix):
                return ssl.splu(self.matrix).solve
            if self.kept.size:
                factor = scipy.linalg.lu_factor(self.matrix)
                return lambda rhs: scipy.linalg.lu_solve(factor, rhs)
            factor = scipy.linalg.cho_factor(self.matrix)
            return lambda rhs: scipy.linalg.cho_solve(factor, rhs)
        except (RuntimeError, np.linalg.LinAlgError):
            raise ValueError(
                "the smoothed problem has no unique minimiser: something of x is held by no datum and by no norm; "
                "raise the weights that are zero, or add data"
            ) from None

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """The solution, refined once."""
        v = self._solve(rhs)
        return v + self._solve(rhs - self.matrix @ v)

    def defect(self, point: Point) -> np.ndarray:
        """What is left of the equations at a point, in the unknowns of the system: a step solves for minus this."""
        problem = self.problem
        behind = self.turn.T @ (problem.D @ point.z - point.d)
        above = problem.gradient(point.z, problem.pressed(point.d))
        above = above + self.D[self.mild].T @ (self.stiffness[self.mild] * behind[self.mild])
        return np.concatenate([above, self.root * behind[self.kept]])

    def step(self, point: Point) -> Point:
        """Newton's step from the point that the system was made at."""
        problem, n = self.problem, point.z.size
        moved = self.solve(-self.defect(point))
        dz = moved[:n]
        along = self.turn.T @ (problem.D @ dz + problem.D @ point.z - point.d)
        push = self.stiffness * along
        # In stiff directions the dual variable knows d to more digits than the difference of two entries of z.
        push[self.kept] = self.root * moved[n:]
        along[self.kept] = push[self.kept] / self.stiffness[self.kept]
        return Point(dz, self.turn @ along, self.turn @ push + problem.pressed(point.d) - point.p)


def solve(problem: Problem, start: Point | None = None, start_eps: float | None = None) -> Found:
    """The minimiser, from a point that belongs to another eps or theta, or from far away: eps falls by steps."""
    if start is None:
        n, m = problem.pull.size, problem.group.size
        start = Point(np.zeros(n), np.zeros(m), np.zeros(m))
        reach = float(np.abs(problem.D @ problem.pull).max(initial=0.0)) / max(problem.normal.diagonal().max(), 1e-300)
        start_eps = max(reach, problem.eps)
    point, steps = start._replace(p=problem.feasible(start.p)), 0
    eps = max(start_eps * FALL, problem.eps)
    while eps > problem.eps:
        found = _newton(replace(problem, eps=eps), point, LOOSE, STEPS_BETWEEN)
        point, steps = found.point, steps + found.steps
        eps = max(eps * FALL, problem.eps)
    found = _newton(problem, point, EXACT, STEPS)
    return found._replace(steps=steps + found.steps)


def _newton(problem: Problem, point: Point, target: float, most: int) -> Found:
    error, stalled = _error(problem, point), 0
    best = Found(point, System(problem, point), error, 0)
    for step in range(1, most + 1):
        if error <= target or stalled >= 3:
            break
        system = System(problem, point)
        move = system.step(point)
        if not all(np.all(np.isfinite(part)) for part in move):
            break
        length = _length(problem, point, move)
        point = Point(*(here + length * part for here, part in zip(point, move, strict=True)))
        point = point._replace(p=problem.feasible(point.p))
        error = _error(problem, point)
        stalled = stalled + 1 if error > FALLING * best.error and best.error < 1e-9 else 0
        if error < best.error or best.steps == 0:
            best = Found(point, system, error, step)
        best = best._replace(steps=step)
    # The system of the solution, not of the point before it.
    return best._replace(system=System(problem, best.point))


def _length(problem: Problem, point: Point, move: Point) -> float:
    """How far to go: the objective is convex in (z, d), so its slope along a step may not turn round by much."""

    def slope(length):
        force = problem.normal @ (point.z + length * move.z) - problem.pull
        return float(force @ move.z + problem.pressed(point.d + length * move.d) @ move.d)

    first = slope(0.0)
    noise = 1e-13 * float(np.linalg.norm(problem.pull) * np.linalg.norm(move.z))
    length = 1.0
    while -first > noise and slope(length) > OVERSHOOT * -first and length > 1e-6:
        length /= 2
    return length


def _error(problem: Problem, point: Point) -> float:
    """What is left of the three equations, as forces, relative to b."""
    scale = float(np.linalg.norm(problem.pull)) or 1.0
    parts = (
        problem.gradient(point.z, point.p),
        problem.D.T @ (problem.pressed(point.d) - point.p),
        problem.level * (problem.D @ point.z - point.d),
    )
    return max(float(np.linalg.norm(part)) for part in parts) / scale


def _principal(problem: Problem, point: Point, s, turning):
    """The curvature of each group in its own axes, the axes Q (rows by directions), and Q^T D."""
    group, weight = problem.group, problem.weight
    flat, bend = weight / s, turning / s**2
    counts = np.bincount(group, minlength=weight.size)
    if counts.max(initial=0) <= 1:
        stiffness = flat[group] - bend[group] * point.p * point.d
        return np.maximum(stiffness, 0.0), scipy.sparse.eye_array(group.size, format="csr"), problem.D
    order = np.argsort(group, kind="stable")
    first = np.cumsum(np.append(0, counts[:-1]))
    stiffness = np.zeros(group.size)
    rows, columns, entries = [], [], []
    for size in np.unique(counts[counts > 0]):
        chosen = np.flatnonzero(counts == size)
        members = order[first[chosen][:, None] + np.arange(size)]
        outer = point.p[members][:, :, None] * point.d[members][:, None, :]
        blocks = flat[chosen][:, None, None] * np.eye(size)
        blocks = blocks - 0.5 * bend[chosen][:, None, None] * (outer + outer.transpose(0, 2, 1))
        values, axes = np.linalg.eigh(blocks)
        stiffness[members] = values
        rows.append(np.repeat(members, size, axis=1).ravel())
        columns.append(np.tile(members, (1, size)).ravel())
        entries.append(axes.reshape(-1))
    where = np.concatenate(rows), np.concatenate(columns)
    turn = csr_array((np.concatenate(entries), where), shape=(group.size, group.size))
    return np.maximum(stiffness, 0.0), turn, csr_array(turn.T @ problem.D)
