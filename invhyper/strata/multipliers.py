"""The dual variable of the groups that vanish: the nearest feasible one that balances a polished solution.

    find p on the vanishing groups with   D^T p = -g,   |p_g| <= w_g,   nearest to a given p0

where g = K^T (K z - y) + D^T (dual variable of the other groups). Its existence proves that z is optimal. The dual of
this projection is smooth, p = pi(p0 + D phi), and Newton's method finds phi: a flow in every flat region.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array

from invhyper.strata.norms import Polished
from invhyper.strata.reduced import cholesky

NEWTON_STEPS = 12


@dataclass(frozen=True)
class Flow:
    """pi(p0 + D phi), how it moves with phi, what is left of the balance, the dual function's value, and
    which multipliers of the box may move."""

    p: np.ndarray
    v: np.ndarray
    sizes: np.ndarray
    scale: np.ndarray
    left: np.ndarray
    value: float
    free: np.ndarray


def balance(polished: Polished, p0: np.ndarray, q0: np.ndarray, tol: float) -> np.ndarray:
    """p (rows of D), feasible, that balances g to `tol` |y|; p0 itself where that is not reached and p0 does better.

    `q0` (entries of z) is the multiplier of the box to start from.
    """
    model = polished.model
    dual = _Dual(polished, p0, q0)
    goal = 0.1 * tol * float(np.linalg.norm(model.y)) * np.sqrt(model.size)
    phi = np.zeros(model.D.shape[1])
    first = at = dual.flow(phi)
    for _ in range(NEWTON_STEPS):
        if not dual.rows.size or np.linalg.norm(at.left) <= goal:
            break
        direction = -cholesky(dual.slope(at))(at.left)
        length, slope = 1.0, float(at.left @ direction)
        while length > 1e-4:
            trial = dual.flow(phi + length * direction)
            if trial.value <= at.value + 1e-4 * length * slope + 1e-14 * abs(at.value):
                break
            length /= 2
        if length <= 1e-4:
            break
        phi, at = phi + length * direction, trial
    if not np.linalg.norm(at.left) < np.linalg.norm(first.left):
        at = first
    full = p0.copy()
    full[dual.rows] = at.p
    return full


class _Dual:
    """The dual function of the projection: its rows are those of the groups that vanish, its entries those pinned."""

    def __init__(self, polished, p0, q0):
        self.model, self.g = polished.model, polished.gradient
        self.rows = np.flatnonzero(polished.stratum.vanishing[self.model.group])
        self.D, self.group = self.model.D[self.rows], self.model.group[self.rows]
        self.transposed = self.D.T.tocsr()
        self.p0 = p0[self.rows]
        pinned, values = polished.stratum.pinned, polished.stratum.values
        self.pinned = np.flatnonzero(pinned)
        self.q0 = q0[self.pinned]
        if self.model.box is not None:
            low, high = (limit[self.pinned] for limit in self.model.box)
            self.least = np.where(values[self.pinned] <= low, -np.inf, 0.0)
            self.most = np.where(values[self.pinned] >= high, np.inf, 0.0)

    def flow(self, phi) -> Flow:
        weight = self.model.weight
        v = self.p0 + self.D @ phi
        sizes = np.sqrt(np.bincount(self.group, v * v, weight.size))
        scale = np.minimum(1.0, weight / np.where(sizes > 0, sizes, 1.0))
        inner = np.minimum(sizes, weight)
        value = float((0.5 * inner**2 + weight * (sizes - inner)).sum() + self.g @ phi)
        p = scale[self.group] * v
        left = self.g + self.transposed @ p
        free = np.zeros(0)
        if self.pinned.size:
            pushed = self.q0 + phi[self.pinned]
            q = np.clip(pushed, self.least, self.most)
            left[self.pinned] += q
            value += 0.5 * float(q @ q)
            free = (q == pushed).astype(float)
        return Flow(p, v, sizes, scale, left, value, free)

    def slope(self, at: Flow):
        """The second derivative, moved off its null space, the constants of each region."""
        outside = at.sizes > self.model.weight
        if self.model.curved:
            slope = self.transposed @ diags_array(at.scale[self.group]) @ self.D
            bent = np.where(outside, np.sqrt(at.scale) / np.where(at.sizes > 0, at.sizes, 1.0), 0.0)
            bent = bent[self.group] * at.v
            shape = (self.model.weight.size, self.group.size)
            V = csr_array((bent, (self.group, np.arange(self.group.size))), shape=shape) @ self.D
            slope = slope - V.T @ V
        else:
            slope = self.transposed @ diags_array((~outside[self.group]).astype(float)) @ self.D
        diagonal = np.full(self.D.shape[1], 1e-10)
        diagonal[self.pinned] += at.free
        return (slope + diags_array(diagonal)).tocsc()
