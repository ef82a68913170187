"""Columns of A and their inner products, kept as the support grows."""

import numpy as np
import scipy.sparse

from invhyper.operators.design import Design
from invhyper.strata.support import NormalEquations, Woodbury


class Gram:
    """A_J^T W A_J for the columns J met so far, so that each costs its products once.

    A support larger than the number of samples (possible if l2 > 0) is not stored here: `equations` then goes by an
    n x n system. J is dropped to the present support when it outgrows the samples severalfold.
    """

    def __init__(self, design: Design):
        self.design = design
        self.place = np.full(design.shape[1], -1)
        self.limit = 4 * design.shape[0] + 256
        self._forget()

    def _forget(self):
        self.place[:] = -1
        self.met = np.zeros(0, int)
        self.count = 0
        self.columns = np.empty((self.design.shape[0], 0), order="F")
        self.products = np.empty((0, 0))

    def keep(self, before):
        """Starts from the columns and products that an earlier `Minimiser` left."""
        if not isinstance(before.equations.matrix, np.ndarray) or self.design.sparse:
            return
        chosen = before.support.indices
        self.met, self.count = chosen, chosen.size
        self.place[chosen] = np.arange(chosen.size)
        self.columns, self.products = before.columns, _plus_diagonal(before.equations.matrix.copy(), -before.l2[chosen])

    def equations(self, chosen, l2):
        """The normal equations on a support."""
        if not self.design.sparse and chosen.size > self.design.shape[0] and np.all(l2 > 0):
            return Woodbury(self.design.columns(chosen), self.design.sample_weight, l2)
        return NormalEquations(_plus_diagonal(self.block(chosen), l2))

    def block(self, chosen):
        """A_S^T W A_S, a copy."""
        if self.design.sparse:
            columns = self.design.columns(chosen)
            return self.design.gram(columns, columns, chosen, chosen)
        self._include(chosen)
        at = self.place[chosen]
        return self.products[at[:, None], at]

    def columns_of(self, chosen):
        """A_S, a copy."""
        at = self.place[chosen]
        return self.design.columns(chosen) if self.design.sparse or np.any(at < 0) else self.columns[:, at]

    def _include(self, chosen):
        new = chosen[self.place[chosen] < 0]
        if not new.size:
            return
        if self.count + new.size > self.limit:
            self._forget()
            new = chosen
        start, stop = self.count, self.count + new.size
        self._reserve(stop)
        self.columns[:, start:stop] = self.design.columns(new)
        self.met = np.concatenate([self.met, new])
        self.place[new] = np.arange(start, stop)
        self.count = stop
        fresh = self.columns[:, start:stop]
        products = self.design.gram(fresh, self.columns[:, :stop], new, self.met)
        self.products[start:stop, :stop] = products
        self.products[:start, start:stop] = products[:, :start].T

    def _reserve(self, size):
        held = self.columns.shape[1]
        if size <= held:
            return
        held = max(2 * held, size, 64)
        columns = np.empty((self.columns.shape[0], held), order="F")
        products = np.empty((held, held))
        columns[:, : self.count] = self.columns[:, : self.count]
        products[: self.count, : self.count] = self.products[: self.count, : self.count]
        self.columns, self.products = columns, products


def _plus_diagonal(matrix, l2):
    if not np.any(l2):
        return matrix
    if isinstance(matrix, np.ndarray):
        matrix[np.diag_indices_from(matrix)] += l2
        return matrix
    return matrix + scipy.sparse.diags_array(l2)
