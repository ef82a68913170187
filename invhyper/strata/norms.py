"""The stratum of a least-squares problem with a sum of norms, and its solution there to machine precision.

    minimise  1/2 |K z - y|^2 + sum_g w_g h_g(|(D z)_g|)   subject to   z in a box

On its stratum, groups that vanish are equations, entries at a bound are fixed, and the rest is smooth: Newton's method
on the flat regions solves it. The norms that do not vanish bring their curvature w (I - d d^T / |d|^2) / |d|.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array

from invhyper.strata.reduced import Reduced
from invhyper.strata.regions import Regions, Rows

NEWTON_STEPS = 40
SHARP_STEPS = 30
ROUNDS = 15
# What the objective may rise by, relative, in a Newton step: its rounding, and that of the constraints.
ROUNDING = 1e-12
# Sizes below this times the range of z stand for zero: the slope is one-sided there.
NOISE = 1e-9
# Groups no longer than this times the range of z may be on their way through zero.
TURNED = 1e-4


@dataclass(frozen=True)
class Model:
    """The numbers of a problem at one theta. z, y and rows of D are flat.

    `forward`, `adjoint`, `gram`: K, K^T and K^T K. `normal`: K^T K as a sparse matrix, None where it has none, and the
    number 1.0 for K = I. `size`: its largest eigenvalue. `rows`: the kinds of the rows of D. `group`: the group of each
    row; `first_row`: one row of each group; `weight`, `delta`: of each group (delta 0: the norm itself). `box`: the
    lowest and the highest z, or None. `curved`: whether some group has several rows.
    """

    forward: Callable
    adjoint: Callable
    gram: Callable
    normal: csr_array | float | None
    size: float
    y: np.ndarray
    D: csr_array
    rows: Rows
    group: np.ndarray
    first_row: np.ndarray
    weight: np.ndarray
    delta: np.ndarray
    box: tuple[np.ndarray, np.ndarray] | None
    curved: bool

    @cached_property
    def present(self) -> np.ndarray:
        """Groups with a row that is not empty."""
        return np.bincount(self.group, np.diff(self.D.indptr) > 0, self.weight.size) > 0

    @property
    def sharp(self) -> bool:
        """Whether groups of several rows can vanish: then Newton's method alone does not find which do."""
        return self.curved and bool((self.delta == 0).any())

    @cached_property
    def polyhedral(self) -> bool:
        """Whether the problem is a quadratic programme: no norm bends."""
        return not self.curved and not bool((self.delta > 0).any())

    @cached_property
    def tying(self) -> bool:
        """Whether every row of D ties entries or pins them, so that the regions are all there is to a stratum."""
        return not bool(self.rows.other.any())

    def regions(self, stratum: "Stratum") -> Regions:
        """The flat regions of a stratum."""
        return Regions(self.rows, stratum.vanishing[self.group], stratum.pinned, stratum.values)

    def norms(self, d: np.ndarray) -> np.ndarray:
        """|d_g| of each group."""
        if not self.curved:
            return np.abs(d)
        return np.sqrt(np.bincount(self.group, d * d, self.weight.size))

    def value(self, z: np.ndarray) -> float:
        """The objective at z."""
        misfit = self.forward(z) - self.y
        return 0.5 * float(misfit @ misfit) + self.penalty(self.norms(self.D @ z))

    def conjugate(self, p: np.ndarray) -> float:
        """The conjugate of the penalty at a feasible p: zero but for Huber's groups."""
        huber = (self.delta > 0) & (self.weight > 0)
        sizes = self.norms(p)
        return float((0.5 * self.delta * sizes**2 / np.where(huber, self.weight, 1.0))[huber].sum())

    def penalty(self, sizes: np.ndarray) -> float:
        """sum_g w_g h_g at |d_g|."""
        huber = self.delta > 0
        delta = np.where(huber, self.delta, 1.0)
        inner = np.where(huber & (sizes <= delta), sizes**2 / (2 * delta), sizes - self.delta / 2)
        return float(self.weight @ inner)

    def factor(self, sizes: np.ndarray) -> np.ndarray:
        """h'(t) / t of each group at t = |d_g|: the dual variable is w_g factor_g d_g."""
        largest = np.maximum(sizes, self.delta)
        return np.where(largest > 0, 1.0 / np.where(largest > 0, largest, 1.0), 0.0)


class Stratum(NamedTuple):
    """Which groups vanish, and which entries of z stand at a bound."""

    vanishing: np.ndarray
    pinned: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Polished:
    """The solution on a stratum: z, its regions, the active part of the dual variable and the linear system."""

    model: Model
    stratum: Stratum
    regions: Regions
    constraints: csr_array | None
    z: np.ndarray
    d: np.ndarray
    sizes: np.ndarray
    dual: np.ndarray  # of the groups that do not vanish; zero elsewhere
    gradient: np.ndarray  # K^T (K z - y) + D^T dual
    residual: np.ndarray  # of the equations in c and of the constraints
    system: Reduced
    newton_steps: int = 0
    excess: float = 0.0  # what Fenchel and Young's inequality leaves between d and its dual variable
    certified: float = np.inf
    gap: float = np.inf

    @property
    def solved(self) -> bool:
        """Whether Newton's method got to the end."""
        scale = float(np.abs(self.model.adjoint(self.model.y)).max()) or 1.0
        return bool(np.abs(self.residual).max(initial=0.0) <= 1e-8 * scale)

    @property
    def key(self) -> tuple:
        """What strata are compared by: labels of the regions, pinned entries, other rows that vanish.

        Not the signs of edges, nor which edges inside a region the dual variable holds: these have no meaning of
        their own.
        """
        labels, pinned = self.regions.labels, self.stratum.pinned
        if self.constraints is None:
            return labels, pinned
        return labels, pinned, self.stratum.vanishing[self.model.group] & self.model.rows.other


def polish(model: Model, stratum: Stratum, z: np.ndarray, p: np.ndarray | None = None) -> Polished:
    """The solution on a stratum, from z; groups that come out as zero join those that vanish.

    With the dual variable p near the solution Newton's method is primal-dual: Chan, Golub and Mulet (1999),
    doi:10.1137/S1064827596299767. It finds norms far smaller than the error of z.
    """
    for _ in range(ROUNDS):
        found = _newton(model, stratum, z, p)
        small = _short(model, found.stratum, found.sizes, found.z) | _turned(model, found)
        if not small.any():
            break
        stratum, z = found.stratum._replace(vanishing=found.stratum.vanishing | small), found.z
    return found


def _short(model: Model, stratum: Stratum, sizes: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Groups that should be active and are zero but for rounding."""
    kinked = ~stratum.vanishing & (model.weight > 0) & (model.delta == 0) & model.present
    return kinked & (sizes <= NOISE * (float(np.ptp(z)) or 1.0))


def _turned(model: Model, found: Polished) -> np.ndarray:
    """Short active groups that Newton's last step sent through zero, where the norm has its kink."""
    along = found.d * (model.D @ found.z)
    along = np.bincount(model.group, along, model.weight.size) if model.curved else along
    kinked = ~found.stratum.vanishing & (model.weight > 0) & (model.delta == 0) & model.present
    return kinked & (along < 0) & (found.sizes <= TURNED * (float(np.ptp(found.z)) or 1.0))


def _newton(model: Model, stratum: Stratum, z: np.ndarray, p: np.ndarray | None) -> Polished:
    """Newton's method on a stratum, from z."""
    regions = model.regions(stratum)
    stratum = _closed(model, stratum, regions)
    vanishing_row = stratum.vanishing[model.group]
    constraints, defect = _constraints(model, regions, vanishing_row)
    active = np.flatnonzero(~vanishing_row)
    c = regions.mean(z)
    z = regions.expand(c) + regions.offset
    value = np.inf
    mu = np.zeros(0 if constraints is None else constraints.shape[0])
    system, best = None, np.inf
    for step in range(4 if model.polyhedral else SHARP_STEPS if model.sharp else NEWTON_STEPS):
        d = model.D @ z
        d[vanishing_row] = 0.0
        sizes = model.norms(d)
        scaled = np.where(stratum.vanishing, 0.0, model.weight * model.factor(sizes))
        dual = scaled[model.group] * d
        gradient = model.adjoint(model.forward(z) - model.y) + model.D.T @ dual
        residual = regions.gather(gradient)
        gap = None
        if constraints is not None:
            residual = residual + constraints.T @ mu
            gap = constraints @ c - defect
            residual = np.concatenate([residual, gap])
        if not (system is not None and system.diagonal):
            curvature = _curvature(model, regions, active, d, sizes, scaled, dual if p is None else p)
            system = Reduced(_normal(model, regions), regions.size, curvature, constraints, model.size)
        size = float(np.abs(residual).max(initial=0.0))
        if step and _short(model, stratum, sizes, z).any():
            break
        if size == 0.0 or (step >= 2 and size >= 0.5 * best and size <= 1e-9 * model.size * np.abs(z).max()):
            break
        best = min(best, size)
        moved = system.solve(-residual[: c.size] if gap is None else -residual[: c.size], None if gap is None else -gap)
        if not np.all(np.isfinite(moved)):
            break
        dc = moved[: c.size]
        if p is not None:
            p = _moved_dual(model, p, d, sizes, scaled, model.D @ regions.expand(dc))
        if model.polyhedral or p is not None:
            c, z, mu = c + dc, z + regions.expand(dc), mu + moved[c.size :]
            continue
        if not np.isfinite(value):
            held = gap is None or np.abs(gap).max(initial=0.0) <= 1e-12 * np.abs(z).max()
            value = model.value(z) if held else np.inf
        length = 1.0
        while length > 1e-6:
            trial = z + length * regions.expand(dc)
            reached = model.value(trial)
            if reached <= value + ROUNDING * abs(value) or not np.isfinite(value):
                break
            length /= 2
        else:
            break
        c, z, value, mu = c + length * dc, trial, reached, mu + length * moved[c.size :]
    return Polished(
        model, stratum, regions, constraints, z, d, sizes, dual, gradient, residual, system, newton_steps=step
    )


def taken(model: Model, stratum: Stratum, z: np.ndarray, d: np.ndarray, p: np.ndarray) -> Polished:
    """An iterate (z, d = D z, p) that has all but converged, as it is, on its stratum.

    For where active groups are so short that their direction d / |d| is not known from z: it is that of p.
    """
    regions = model.regions(stratum)
    stratum = _closed(model, stratum, regions)
    vanishing_row = stratum.vanishing[model.group]
    constraints, defect = _constraints(model, regions, vanishing_row)
    c = regions.mean(z)
    z = regions.expand(c) + regions.offset
    d = np.where(vanishing_row, 0.0, d)
    sizes = model.norms(d)
    dual = np.where(vanishing_row, 0.0, p)
    gradient = model.adjoint(model.forward(z) - model.y) + model.D.T @ dual
    residual = regions.gather(gradient + model.D.T @ (p - dual))
    if constraints is not None:
        residual = np.concatenate([residual, constraints @ c - defect])
    scaled = np.where(stratum.vanishing, 0.0, model.weight * model.factor(sizes))
    curvature = _curvature(model, regions, np.flatnonzero(~vanishing_row), d, sizes, scaled, p)
    system = Reduced(_normal(model, regions), regions.size, curvature, constraints, model.size)
    excess = max(0.0, model.penalty(sizes) + model.conjugate(p) - float(p @ d))
    return Polished(model, stratum, regions, constraints, z, d, sizes, dual, gradient, residual, system, excess=excess)


def certify(polished: Polished, dual: np.ndarray) -> Polished:
    """Measures how far a polished point is from optimal, by the dual variable of the groups that vanish.

    `dual` (rows of D) is feasible: |dual_g| <= w_g. With s = K^T (K z - y) + D^T p, p the exact dual variable of the
    active groups and `dual` on the others, and s brought to its sign at bounds, z minimises the objective minus s.z;
    for K = I the duality gap is |s|^2 / 2 and |z - z*| <= |s|.
    """
    model = polished.model
    vanishing_row = polished.stratum.vanishing[model.group]
    s = polished.gradient + model.D.T @ np.where(vanishing_row, dual, 0.0)
    pinned, values = polished.stratum.pinned, polished.stratum.values
    outside = 0.0
    if model.box is not None:
        low, high = model.box
        at = pinned & (values <= low)
        s[at] = np.minimum(s[at], 0.0)
        at = pinned & (values >= high)
        s[at] = np.maximum(s[at], 0.0)
        outside = max(0.0, float(np.max(low - polished.z)), float(np.max(polished.z - high)))
    scale = float(np.linalg.norm(model.y)) or 1.0
    gap = 0.5 * float(s @ s) / model.size + polished.excess
    error = np.sqrt(2.0 * gap) / scale
    error = max(error, outside * np.sqrt(polished.z.size * model.size) / scale)
    return replace(polished, certified=error, gap=gap)


def _closed(model, stratum, regions):
    """The stratum with the groups that vanish because their entries are in one region, whatever the iterate says."""
    rows = model.rows
    tied = (rows.head < 0) | (regions.labels[rows.head] == regions.labels[rows.tail])
    tied &= (rows.single < 0) | ((regions.index[rows.single] < 0) & (regions.offset[rows.single] == 0.0))
    tied &= ~rows.other | stratum.vanishing[model.group]
    if model.curved:
        tied = np.bincount(model.group, ~tied, model.weight.size) == 0
    return stratum._replace(vanishing=tied & (model.weight > 0) & (model.delta == 0))


def _constraints(model, regions, vanishing_row):
    chosen = np.flatnonzero(vanishing_row & model.rows.other)
    if not chosen.size:
        return None, None
    D = model.D[chosen]
    reduced = regions.reduce(D)
    defect = -(D @ regions.offset)
    reduced.data[np.abs(reduced.data) < 1e-14] = 0.0
    reduced.eliminate_zeros()
    kept = np.flatnonzero(np.diff(reduced.indptr))
    return reduced[kept], defect[kept]


def _normal(model, regions):
    if model.normal is None:
        return lambda c: regions.gather(model.gram(regions.expand(c)))
    if isinstance(model.normal, float):
        return model.normal * regions.size.astype(float)
    P = regions.matrix()
    return csr_array(P.T @ model.normal @ P)


def _moved_dual(model, p, d, sizes, scaled, change):
    """The dual variable after a primal-dual Newton step that moves D z by `change`, kept feasible."""
    group, inverse = model.group, np.where(sizes > 0, 1.0 / np.where(sizes > 0, sizes, 1.0), 0.0)
    along = np.bincount(group, d * change, sizes.size) * inverse**2
    p = scaled[group] * (d + change) - along[group] * p
    length = np.sqrt(np.bincount(group, p * p, sizes.size))
    return np.where(length > model.weight, model.weight / np.where(length > 0, length, 1.0), 1.0)[group] * p


def _curvature(model, regions, active, d, sizes, scaled, p):
    """P^T D^T (w I - sym(p d^T) / |d|) / |d| D P over the groups that do not vanish, p = w d / |d| at a solution.

    Huber's inside has no rank-one part.
    """
    if not model.curved and not (model.delta > 0).any():
        return None
    flat = np.where(model.delta > 0, sizes < model.delta, False)
    group = model.group[active]
    if not model.curved:
        active = active[flat[group]]
        reduced = regions.reduce(model.D[active])
        return csr_array(reduced.T @ diags_array(scaled[model.group[active]]) @ reduced)
    reduced = regions.reduce(model.D[active])
    curvature = reduced.T @ diags_array(scaled[group]) @ reduced
    inverse = np.where(flat | (sizes <= 0), 0.0, 1.0 / np.where(sizes > 0, sizes, 1.0))[group]
    entries, shape = (group, np.arange(active.size)), (model.weight.size, active.size)
    ahead, across = (csr_array((inverse * v[active], entries), shape=shape) @ reduced for v in (d, p))
    bent = across.T @ ahead
    return csr_array(curvature - 0.5 * (bent + bent.T))
