"""Flat regions: the pixels that vanishing differences tie together, found as connected components.

A stratum sets some rows of D z to zero. A row that compares two entries, a (z_j - z_i), ties them together; a row with
one entry pins it at zero; what is left (second differences, TGV) stays as constraints C c = 0 between the regions.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


class Rows(NamedTuple):
    """The rows of D by kind: `head`, `tail` of the rows that compare two entries (-1 elsewhere), `single` the entry of
    rows with one, `other` a mask of the remaining rows that are not empty."""

    head: np.ndarray
    tail: np.ndarray
    single: np.ndarray
    other: np.ndarray


def classify(D: csr_array) -> Rows:
    """The kind of each row of D."""
    count = np.diff(D.indptr)
    first = D.indptr[:-1]
    head, tail, single = (np.full(D.shape[0], -1, np.int32) for _ in range(3))
    two = np.flatnonzero(count == 2)
    a, b = D.data[first[two]], D.data[first[two] + 1]
    two = two[np.abs(a + b) <= 1e-14 * np.abs(a)]
    head[two], tail[two] = D.indices[first[two]], D.indices[first[two] + 1]
    one = np.flatnonzero(count == 1)
    single[one] = D.indices[first[one]]
    other = count > 0
    other[two] = False
    other[one] = False
    return Rows(head, tail, single, other)


class Regions:
    """The partition of the entries of z under vanishing rows and pinned entries.

    `labels` (N,) numbers the components in the order of their first entry; `size` holds how many entries each free
    region has; `index` (N,) is the free region of an entry, -1 where it is pinned; `offset` (N,) holds the pinned
    values, zero elsewhere. z = P c + offset.
    """

    def __init__(self, rows: Rows, vanishing: np.ndarray, pinned: np.ndarray, values: np.ndarray):
        n = pinned.size
        tied = np.flatnonzero(vanishing & (rows.head >= 0))
        graph = csr_array((np.ones(tied.size, np.int8), (rows.head[tied], rows.tail[tied])), shape=(n, n))
        count, self.labels = connected_components(graph, directed=False)
        self.tied = tied.size
        zero = rows.single[vanishing & (rows.single >= 0)]
        fixed, value = np.zeros(count, bool), np.zeros(count)
        fixed[self.labels[pinned]] = True
        value[self.labels[pinned]] = values[pinned]
        fixed[self.labels[zero]] = True
        value[self.labels[zero]] = 0.0
        self.count, self.free = count, int(count - fixed.sum())
        number = np.cumsum(~fixed) - 1
        number[fixed] = -1
        self.index = number[self.labels]
        self.offset = value[self.labels]
        self.any_fixed = bool(fixed.any())
        self.size = np.bincount(self.index[self.index >= 0] if self.any_fixed else self.index, minlength=self.free)

    def expand(self, c: np.ndarray) -> np.ndarray:
        """P c."""
        if not self.any_fixed:
            return c[self.index]
        return np.append(c, 0.0)[self.index]

    def gather(self, v: np.ndarray) -> np.ndarray:
        """P^T v: sums over the free regions."""
        if not self.any_fixed:
            return np.bincount(self.index, v, self.free)
        return np.bincount(self.index + 1, v, self.free + 1)[1:]

    def mean(self, z: np.ndarray) -> np.ndarray:
        """Region means of z: the c nearest to it."""
        return self.gather(z) / self.size

    def matrix(self) -> csr_array:
        """P (N, free), 0 and 1."""
        entries = np.flatnonzero(self.index >= 0)
        shape = (self.index.size, self.free)
        return csr_array((np.ones(entries.size), (entries, self.index[entries])), shape=shape)

    def reduce(self, D: csr_array) -> csr_array:
        """D P."""
        columns = self.index[D.indices]
        kept = columns >= 0
        if kept.all():
            reduced = csr_array((D.data, columns, D.indptr), shape=(D.shape[0], self.free))
        else:
            row = np.repeat(np.arange(D.shape[0]), np.diff(D.indptr))[kept]
            reduced = csr_array((D.data[kept], (row, columns[kept])), shape=(D.shape[0], self.free))
        reduced.sum_duplicates()
        return reduced
