"""How far a solution with a sum of norms stands from the edge of its stratum."""

import numpy as np

from invhyper.strata.norms import NOISE, Polished

# Up to this many vanishing rows their independence is looked up in the matrix itself.
ROWS = 400


def margin(polished: Polished, dual: np.ndarray) -> tuple[float, str]:
    """The relative distance to the nearest kink, and what stands there.

    Two regions about to merge: the smallest active |d_g| over max |z|. An entry about to meet its bound: its distance
    over max |z|. Regions about to split: 1 - |p_g| / w_g, only where the multipliers are unique: the
    vanishing rows of D are independent (a forest of ties, as in one dimension) and nothing else binds. A weight of zero
    where its norm is zero is a kink: the slope is that towards positive weights of norms that are not zero.
    """
    model, regions = polished.model, polished.regions
    size = float(np.abs(polished.z).max()) or 1.0
    norm = model.present & (model.delta == 0)
    if (norm & (model.weight == 0) & (model.norms(model.D @ polished.z) <= NOISE * size)).any():
        return 0.0, "a weight of zero on a norm that is zero"
    kinked = ~polished.stratum.vanishing & norm & (model.weight > 0)
    nearest, what = np.inf, ""
    if kinked.any():
        nearest, what = float(polished.sizes[kinked].min()) / size, "two regions about to merge"
    free = regions.index >= 0
    for bound in model.box or ():
        if free.any():
            distance = float(np.abs(polished.z - bound)[free].min()) / size
            if distance < nearest:
                nearest, what = distance, "an entry about to meet its bound"
    if _unique(polished):
        held = polished.stratum.vanishing & model.present & (model.weight > 0)
        if held.any():
            slack = float((1.0 - model.norms(dual)[held] / model.weight[held]).min())
            if slack < nearest:
                nearest, what = max(slack, 0.0), "a region about to split"
        return nearest, what
    return nearest, f"{what or 'none found'}; merging only: the multipliers of the vanishing groups are not unique"


def _unique(polished: Polished) -> bool:
    """Whether the vanishing rows of D are known to be independent."""
    model, regions = polished.model, polished.regions
    if regions.any_fixed:
        return False
    if polished.constraints is None:
        return regions.tied == regions.index.size - regions.count
    rows = np.flatnonzero(polished.stratum.vanishing[model.group] & (np.diff(model.D.indptr) > 0))
    return rows.size <= ROWS and np.linalg.matrix_rank(model.D[rows].toarray()) == rows.size
