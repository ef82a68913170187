"""The best multipliers of the groups that vanish: as far inside their bounds as any that balance the solution.

    maximise  sum_g s_g   subject to   D^T p = -g on every flat region,   |p_g| + s_g <= w_g,   0 <= s_g <= cap w_g

Multipliers of an image are not unique (a flow in every region, with cycles), so one of them at its bound says nothing.
With a cap far below all gaps, the groups left with s_g = 0 are those at their bound in all multipliers: there a region
is about to split. The largest common gap t, |p_g| <= (1 - t) w_g, is the distance to that.
"""

import numpy as np
import scipy.optimize
from scipy.sparse import block_array, csr_array, diags_array, eye_array

from invhyper.strata.norms import Polished

# Up to this many vanishing rows the flow problem is solved.
ROWS = 20_000
CAP = 1e-5


def gap(polished: Polished) -> float | None:
    """The largest t with |p_g| <= (1 - t) w_g for some multipliers p; None where the problem is too large."""
    held = _held(polished)
    if held is None:
        return None
    rows, D, balance = held
    if not rows.size:
        return np.inf
    weight = polished.model.weight[polished.model.group[rows]]
    # |p| + t w <= w, from above and from below.
    n = rows.size
    one, t = eye_array(n, format="csr"), csr_array(weight[:, None])
    bounds = block_array([[one, t], [-one, t]], format="csr")
    equal = block_array([[D.T, csr_array((D.shape[1], 1))]], format="csr")
    found = _solved(np.append(np.zeros(n), -1.0), bounds, np.tile(weight, 2), equal, balance, n, (-1.0, 1.0))
    return None if found is None else max(float(found[n]), 0.0) + 0.0


def tight(polished: Polished, tolerance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """(groups, multipliers): those at their bound in all multipliers, to `tolerance`; None where too large."""
    held = _held(polished)
    if held is None:
        return None
    rows, D, balance = held
    weight = polished.model.weight[polished.model.group[rows]]
    n, one = rows.size, eye_array(rows.size, format="csr")
    if not n:
        return np.zeros(0, int), np.zeros(0)
    bounds = block_array([[one, diags_array(weight)], [-one, diags_array(weight)]], format="csr")
    equal = block_array([[D.T, csr_array((D.shape[1], n))]], format="csr")
    cost = np.append(np.zeros(n), -np.ones(n))
    found = _solved(cost, bounds, np.tile(weight, 2), equal, balance, n, (0.0, CAP))
    if found is None:
        return None
    at = found[n:] <= max(tolerance, 1e-7)
    return polished.model.group[rows[at]], found[:n][at]


def _held(polished: Polished):
    """Rows that vanish, D on them, and the balance that they have to bring about; None where that is not a flow."""
    model = polished.model
    rows = np.flatnonzero(polished.stratum.vanishing[model.group] & (np.diff(model.D.indptr) > 0))
    usable = not model.curved and polished.constraints is None and not polished.regions.any_fixed
    if not usable or rows.size > ROWS:
        return None
    D = model.D[rows]
    touched = np.flatnonzero(np.diff(D.T.tocsr().indptr) > 0)
    return rows, csr_array(D[:, touched]), -polished.gradient[touched]


def _solved(cost, bounds, limit, equal, balance, n, last):
    """The solution of the linear programme; None if the balance is not met within rounding."""
    slack = 1e-12 * max(float(np.abs(balance).max(initial=0.0)), 1e-300)
    box = [(None, None)] * n + [last] * (cost.size - n)
    for loosened in (0.0, slack, 1e3 * slack):  # the balance of a computed solution has rounding in it
        both = block_array([[bounds], [equal], [-equal]], format="csr") if loosened else bounds
        right = np.concatenate([limit, balance + loosened, loosened - balance]) if loosened else limit
        found = scipy.optimize.linprog(
            cost,
            A_ub=both,
            b_ub=right,
            A_eq=None if loosened else equal,
            b_eq=None if loosened else balance,
            bounds=box,
            method="highs",
        )
        if found.status == 0:
            return found.x
    return None
