"""The dual variable of the groups that vanish: the nearest feasible one that balances a polished solution.

    find p on the vanishing groups with   D^T p = -g,   |p_g| <= w_g,   nearest to a given p0

where g = K^T (K z - y) + D^T (dual variable of the other groups). Its existence proves that z is optimal. The dual of
this projection is smooth, p = pi(p0 + D phi), and Newton's method finds phi: a flow in every flat region.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array

from invhyper.strata import norms
from invhyper.strata.norms import Polished
from invhyper.strata.reduced import bent, cholesky

NEWTON_STEPS, CUTS = 12, 3
# What the balance is brought below, in parts of the tolerance; how far the two sides of a cut start from each other.
GOAL, NUDGE = 0.3, 1e-10


@dataclass(frozen=True)
class Flow:
    """pi(p0 + D phi), how it moves with phi, what is left of the balance, the dual function's value in each region, and
    which multipliers of the box may move."""

    p: np.ndarray
    v: np.ndarray
    sizes: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    value: np.ndarray
    free: np.ndarray


def balance(polished: Polished, p0: np.ndarray, q0: np.ndarray, tol: float) -> tuple[Polished, np.ndarray]:
    """The polished point, certified, and the p (rows of D) that certifies it: p0 itself where that does better.

    Where a region has no balance, the flow that it lacks runs against edges at their bound: there the region is cut in
    two, and its pieces are solved for and balanced. `q0` (entries of z) is the multiplier of the box to start from.
    """
    best, kept = norms.certify(polished, p0), p0
    goal = GOAL * tol * float(np.linalg.norm(polished.model.y)) * np.sqrt(polished.model.size)
    for _ in range(CUTS + 1):
        dual = _Dual(polished, p0, q0, goal)
        if not dual.rows.size:
            break
        phi, at = _newton(dual, goal)
        lacking = _lacking(dual.labels, at.left, goal)
        p0 = p0.copy()
        p0[dual.rows] = np.where(lacking[dual.label_of_row], dual.p0, at.p) if dual.apart else at.p
        found = norms.certify(polished, p0)
        if found.certified < best.certified:
            best, kept = found, p0
        if best.certified <= tol or found.certified > best.certified or not dual.apart:
            break
        stratum, z = dual.cut(polished, phi, lacking)
        polished = norms.polish(polished.model, stratum, z)
    return best, kept


def _newton(dual: "_Dual", goal: float) -> tuple[np.ndarray, Flow]:
    """phi, by Newton's method with a step length for each region, and the flow there."""
    phi = np.zeros(dual.entries.size)
    at = dual.flow(phi)
    for _ in range(NEWTON_STEPS):
        if np.linalg.norm(at.left) <= goal:
            break
        direction = dual.direction(at, goal)
        slope = dual.per_region(at.left * direction)
        length = np.ones(slope.size)
        while True:
            step = length[dual.labels] * direction
            trial = dual.flow(phi + step)
            short = trial.value > at.value + 1e-4 * length * slope + 1e-14 * np.abs(at.value)
            if not short.any():
                break
            length[short] = np.where(length[short] > 1e-4, 0.5 * length[short], 0.0)
        if not step.any():
            break
        phi, at = phi + step, trial
    return phi, at


class _Dual:
    """The dual function of the projection: its rows are those of the groups that vanish, its entries those pinned.

    Regions that p0 balances already, to `goal` all together, are left out with their rows and entries. The others do
    not meet (they are `apart`) unless groups or second differences have rows in several: they are then taken as one.
    """

    def __init__(self, polished: Polished, p0: np.ndarray, q0: np.ndarray, goal: float):
        self.curved = polished.model.curved
        model, pinned, values = polished.model, polished.stratum.pinned, polished.stratum.values
        self.rows, self.entries = _unbalanced(polished, p0, q0, goal)
        groups, self.group = np.unique(model.group[self.rows], return_inverse=True)
        self.weight = model.weight[groups]
        number = np.full(model.D.shape[1], -1)
        number[self.entries] = np.arange(self.entries.size)
        self.D = _columns(model.D[self.rows], number, self.entries.size)
        self.transposed = self.D.T.tocsr()
        self.g, self.p0 = polished.gradient[self.entries], p0[self.rows]
        self.apart = not self.curved and not model.rows.other[self.rows].any()
        self.labels, self.label_of_row = np.zeros(self.entries.size, int), np.zeros(self.rows.size, int)
        if self.apart:
            self.labels = np.unique(polished.regions.labels[self.entries], return_inverse=True)[1]
            self.label_of_row = self.labels[self.D.indices[self.D.indptr[:-1]]]
        at = self.entries[pinned[self.entries]]
        self.pinned, self.q0 = number[at], q0[at]
        if model.box is not None:
            low, high = (limit[at] for limit in model.box)
            self.least = np.where(values[at] <= low, -np.inf, 0.0)
            self.most = np.where(values[at] >= high, np.inf, 0.0)

    def per_region(self, values: np.ndarray) -> np.ndarray:
        """Sums of one number an entry."""
        return np.bincount(self.labels, values)

    def flow(self, phi: np.ndarray) -> Flow:
        v = self.p0 + self.D @ phi
        sizes = np.sqrt(np.bincount(self.group, v * v)) if self.curved else np.abs(v)
        scale = np.minimum(1.0, self.weight / np.where(sizes > 0, sizes, 1.0))
        inner = np.minimum(sizes, self.weight)
        cost = 0.5 * inner**2 + self.weight * (sizes - inner)
        value = self.per_region(self.g * phi)
        value += np.bincount(self.label_of_row, cost, value.size) if self.apart else cost.sum()
        p = scale[self.group] * v
        left = self.g + self.transposed @ p
        free = np.zeros(0)
        if self.pinned.size:
            pushed = self.q0 + phi[self.pinned]
            q = np.clip(pushed, self.least, self.most)
            left[self.pinned] += q
            value += np.bincount(self.labels[self.pinned], 0.5 * q * q, value.size)
            free = (q == pushed).astype(float)
        return Flow(p, v, sizes, scale, left, value, free)

    def direction(self, at: Flow, goal: float) -> np.ndarray:
        """Newton's step in the regions that still lack balance."""
        lacking = _lacking(self.labels, at.left, goal)
        some, rows = np.flatnonzero(lacking[self.labels]), np.flatnonzero(lacking[self.label_of_row])
        number = np.full(self.entries.size, -1)
        number[some] = np.arange(some.size)
        # Moved off the null space of the second derivative, the constants of each region.
        diagonal = np.full(self.entries.size, 1e-10)
        diagonal[self.pinned] += at.free
        slope = self._slope(at, rows, _columns(self.D[rows], number, some.size)) + diags_array(diagonal[some])
        direction = np.zeros(self.entries.size)
        direction[some] = -cholesky(slope.tocsc())(at.left[some])
        return direction

    def _slope(self, at: Flow, rows: np.ndarray, D: csr_array):
        """D^T pi' D over some of the rows."""
        group = self.group[rows]
        outside = at.sizes > self.weight
        if not self.curved:
            return D.T @ diags_array((~outside[group]).astype(float)) @ D
        across = np.where(outside, np.sqrt(at.scale) / np.where(at.sizes > 0, at.sizes, 1.0), 0.0)
        return bent(D, group, self.weight.size, at.scale[group], across[group] * at.v[rows])

    def cut(self, polished: Polished, phi: np.ndarray, lacking: np.ndarray):
        """The stratum with the lacking regions cut where phi jumps, and a z that says which side is higher."""
        low, high = np.full(lacking.size, np.inf), np.full(lacking.size, -np.inf)
        np.minimum.at(low, self.labels, phi)
        np.maximum.at(high, self.labels, phi)
        above = lacking[self.labels] & (phi > 0.5 * (low + high)[self.labels])
        vanishing = polished.stratum.vanishing.copy()
        vanishing[polished.model.group[self.rows[self.D @ above.astype(float) != 0]]] = False
        z = polished.z.copy()
        z[self.entries] += NUDGE * (float(np.ptp(z)) or 1.0) * above
        return polished.stratum._replace(vanishing=vanishing), z


def _unbalanced(polished, p0, q0, goal):
    """Rows that vanish, and entries, of the regions that still lack balance: the others lack less than `goal` / 2."""
    model, labels, pinned = polished.model, polished.regions.labels, polished.stratum.pinned
    vanishing = polished.stratum.vanishing[model.group]
    if (vanishing & model.rows.other).any():  # rows that tie regions to each other
        return np.flatnonzero(vanishing), np.arange(labels.size)
    left = polished.gradient + model.D.T @ np.where(vanishing, p0, 0.0) + np.where(pinned, q0, 0.0)
    chosen = _lacking(labels, left, goal)
    entry = np.maximum(model.rows.head, model.rows.single)
    held = np.flatnonzero(vanishing & (entry >= 0))
    label = labels[entry[held]]
    while model.curved:  # groups with rows in several regions
        count = chosen.sum()
        marked = np.bincount(model.group[held], chosen[label], model.weight.size) > 0
        chosen[label[marked[model.group[held]]]] = True
        if chosen.sum() == count:
            break
    return held[chosen[label]], np.flatnonzero(chosen[labels])


def _lacking(labels: np.ndarray, left: np.ndarray, goal: float) -> np.ndarray:
    """A mask of the regions without those that lack least, less than `goal` / 2 all together."""
    lack = np.bincount(labels, left * left)
    order = np.argsort(lack)
    chosen = np.ones(lack.size, bool)
    chosen[order[: np.searchsorted(np.cumsum(lack[order]), 0.25 * goal**2)]] = False
    return chosen


def _columns(D: csr_array, number: np.ndarray, count: int) -> csr_array:
    """D with its columns renumbered; those numbered -1 hold no entries."""
    return csr_array((D.data, number[D.indices], D.indptr), shape=(D.shape[0], count))
