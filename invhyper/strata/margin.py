"""The conditions that define the stratum of a sum of norms, and how far a solution stands from the nearest."""

from typing import NamedTuple

import numpy as np

from invhyper.strata.critical_cone import Conditions
from invhyper.strata.norms import NOISE, Polished

UNWEIGHTED = "a weight of zero on a norm that is zero"
SPLIT = "a region about to split"
MERGING_ONLY = "merging only: the multipliers of the vanishing groups are not unique"
# Up to this many vanishing rows their independence is looked up in the matrix itself.
ROWS = 400


class Kinds(NamedTuple):
    """What the conditions are about, kind after kind: groups that do not vanish, free entries against the lower and the
    upper bound, rows that vanish against the upper and the lower end of their interval (groups of several rows: once).
    """

    active: np.ndarray
    above: np.ndarray
    below: np.ndarray
    held: np.ndarray
    held_again: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Where each kind ends."""
        return np.cumsum([part.size for part in self])


def conditions(polished: Polished, dual: np.ndarray) -> tuple[Conditions, Kinds]:
    """The conditions, each relative to max |z|, or to its weight.

    Two regions are about to merge where |d_g| falls to zero, an entry is about to meet its bound, and a region is about
    to split where |p_g| reaches w_g. The last are known only where the multipliers are unique: the vanishing rows of D
    are independent (a forest of ties, as in one dimension) and nothing else binds.
    """
    model, z = polished.model, polished.z
    size = float(np.abs(z).max()) or 1.0
    norm = model.present & (model.delta == 0) & (model.weight > 0)
    active = np.flatnonzero(~polished.stratum.vanishing & norm)
    free = np.flatnonzero(polished.regions.index >= 0)
    low, high = model.box or (-np.inf, np.inf)
    low, high = (np.broadcast_to(bound, z.shape)[free] for bound in (low, high))
    above, below = free[np.isfinite(low)], free[np.isfinite(high)]
    held = held_again = np.zeros(0, int)
    if unique(polished):
        held = np.flatnonzero(polished.stratum.vanishing & norm)
        held_again = np.zeros(0, int) if model.curved else held
    ratio = model.norms(dual)[held] if model.curved else dual[model.first_row[held]]
    weight = model.weight[held]
    values = (
        polished.sizes[active],
        (z[free] - low)[np.isfinite(low)],
        (high - z[free])[np.isfinite(high)],
        weight - ratio,
        (weight + ratio)[: held_again.size],
    )
    scales = (
        np.full(active.size + above.size + below.size, size),
        weight,
        weight[: held_again.size],
    )
    kinds = Kinds(active, above, below, held, held_again)

    def name(i: int) -> str:
        kind = int(np.searchsorted(kinds.edges, i, side="right"))
        if kind == 0:
            return "two regions about to merge"
        return "an entry about to meet its bound" if kind < 3 else SPLIT

    return Conditions(np.concatenate(values), np.concatenate(scales), name), kinds


def margin(polished: Polished, dual: np.ndarray) -> tuple[float, str]:
    """The smallest of the conditions. A weight of zero where its norm is zero is a kink: the slope is that towards
    positive weights of norms that are not zero.
    """
    if unweighted(polished):
        return 0.0, UNWEIGHTED
    nearest, what = conditions(polished, dual)[0].margin()
    if unique(polished):
        return nearest, what
    return nearest, f"{what or 'none found'}; {MERGING_ONLY}"


def unweighted(polished: Polished) -> bool:
    """Whether a norm with a weight of zero is zero."""
    model = polished.model
    size = float(np.abs(polished.z).max()) or 1.0
    norm = model.present & (model.delta == 0) & (model.weight == 0)
    return bool((norm & (model.norms(model.D @ polished.z) <= NOISE * size)).any())


def unique(polished: Polished) -> bool:
    """Whether the vanishing rows of D are known to be independent."""
    model, regions = polished.model, polished.regions
    if regions.any_fixed:
        return False
    if polished.constraints is None:
        return regions.tied == regions.index.size - regions.count
    rows = np.flatnonzero(polished.stratum.vanishing[model.group] & (np.diff(model.D.indptr) > 0))
    return rows.size <= ROWS and np.linalg.matrix_rank(model.D[rows].toarray()) == rows.size
