"""How the solution of a sum of norms moves where its regions merge or split."""

import numpy as np
import scipy.sparse.linalg as ssl
from scipy.sparse import csr_array

from invhyper.strata import flow, norms
from invhyper.strata.critical_cone import CriticalCone, Motion, check_count, minimise_over
from invhyper.strata.margin import MERGING_ONLY, SPLIT, UNWEIGHTED, conditions, unique, unweighted


def critical_cone(lower, theta, found, dual, force, tolerance: float, thorough: bool) -> CriticalCone:
    """The critical cone of a polished solution: degenerate edges are opened, each to the side of its multiplier.

    `force(dtheta)` is the change of K^T (K z - y) with theta at fixed z, or None where K does not depend on theta.
    `thorough`: where multipliers are not unique (images), a flow problem finds the best of them.
    """
    model = found.model
    if model.curved:
        raise TypeError(
            f"{type(lower).__name__}: one-sided derivatives are known where every norm is of one number (anisotropic "
            "total variation, AnalysisL1, TGV of a signal), not for norms of several"
        )
    if unweighted(found):
        raise TypeError(
            f"{type(lower).__name__}: {UNWEIGHTED}: slopes at such a kink are not known; take a small positive weight"
        )
    here, kinds = conditions(found, dual)
    degenerate = here.values <= tolerance * here.scales
    check_count(here, degenerate)
    active, above, below, held, again = np.split(degenerate, kinds.edges[:-1])
    if above.any() or below.any():
        raise TypeError(f"{type(lower).__name__}: one-sided derivatives are not known where an entry meets its bound")
    splits = kinds.held[held | again if again.size else held]
    pressed = dual[model.first_row[splits]]
    known = unique(found)
    gap = flow.gap(found) if thorough and not known else None
    if gap is not None:
        here = here.and_one(gap, 1.0, SPLIT)
        degenerate = np.append(degenerate, gap <= tolerance)
        splits, pressed = flow.tight(found, tolerance) if gap <= tolerance else (splits, pressed)
    edge = np.concatenate([kinds.active[active], splits])
    rows = model.first_row
    side = np.zeros(model.weight.size)
    side[kinds.active] = np.sign(found.d[rows[kinds.active]])
    side[splits] = np.sign(pressed)
    vanishing = found.stratum.vanishing.copy()
    vanishing[edge] = False
    d = found.d.copy()
    d[rows[edge]] = 0.0
    opened = norms.taken(model, found.stratum._replace(vanishing=vanishing), found.z, d, dual)
    regions, m = opened.regions, opened.regions.free
    extra = 0 if opened.constraints is None else opened.constraints.shape[0]
    D = model.D
    G = _distinct(side[edge][:, None] * regions.reduce(D[rows[edge]]).toarray())
    bound = np.union1d(np.flatnonzero(found.stratum.vanishing), edge)  # the rows whose multipliers have to follow
    bound = bound[model.present[bound]] if known else np.zeros(0, int)
    multipliers = _Multipliers(D[rows[bound]]) if bound.size else None
    straight_part = np.where(found.stratum.vanishing, 0.0, model.factor(found.sizes))[model.group] * found.d
    straight_part[rows[edge]] = side[edge]
    shape = tuple(lower.unknowns(theta))

    def move(dtheta):
        dweight = weight_change(lower, dtheta)
        change = D.T @ (dweight[model.group] * straight_part)
        if force is not None:
            change = change + force(dtheta)

        def solve(rhs):
            return opened.system.solve(rhs, np.zeros(extra))[:m]

        c, _ = minimise_over(solve, G, regions.gather(change))
        dz = regions.expand(c)
        dd = D @ dz
        rates = [side[kinds.active] * dd[rows[kinds.active]], dz[kinds.above], -dz[kinds.below]]
        if multipliers is not None:
            left = model.gram(dz) + change + _bend(opened, dd)
            left -= D[rows[edge]].T @ (dweight[edge] * side[edge])
            dp = np.zeros(D.shape[0])
            dp[rows[bound]] = multipliers.balance(left)
            rates += [(dweight - dp[rows])[kinds.held], (dweight + dp[rows])[kinds.held_again]]
        if gap is not None:
            rates.append(np.zeros(1))
        return Motion(np.asarray(lower.image(dz.reshape(shape))), np.concatenate(rates))

    def straight(dtheta):
        moves = force is not None and any(np.any(part) for key, part in dtheta.items() if key not in lower.penalties)
        return model.polyhedral and not moves

    return CriticalCone(here, degenerate, move, straight, "" if known else MERGING_ONLY, known or gap is not None)


def weight_change(lower, dtheta) -> np.ndarray:
    """The change of every group's weight."""
    filled = ((penalty.fill(np.asarray(dtheta[key])), penalty.shape) for key, penalty in lower.penalties.items())
    return np.concatenate([np.broadcast_to(*each).ravel() for each in filled])


def _bend(opened, dd) -> np.ndarray:
    """D^T of the change of the active dual variables with D z, at fixed weights: of Huber's insides alone."""
    model = opened.model
    inside = ~opened.stratum.vanishing & (model.delta > 0) & (opened.sizes < model.delta)
    if not inside.any():
        return np.zeros(model.D.shape[1])
    return model.D.T @ (np.where(inside, model.weight * model.factor(opened.sizes), 0.0)[model.group] * dd)


def _distinct(G: np.ndarray) -> np.ndarray:
    """Rows without those that are multiples of another, or zero: the edges between two regions are one condition."""
    size = np.linalg.norm(G, axis=1)
    rows = G[size > 0] / size[size > 0, None]
    return np.unique(np.round(rows, 12), axis=0)


class _Multipliers:
    """p on independent rows of D with D^T p = -left: by its normal equations, which are sparse."""

    def __init__(self, D: csr_array):
        self.D = D
        self.factor = ssl.splu((D @ D.T).tocsc())

    def balance(self, left: np.ndarray) -> np.ndarray:
        p = self.factor.solve(-(self.D @ left))
        return p - self.factor.solve(self.D @ (left + self.D.T @ p))
