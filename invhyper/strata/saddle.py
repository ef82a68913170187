"""One symmetric saddle-point matrix: factored once, solved with refinement, and honest about its rank.

    K = [[H, G^T], [G, 0]]

K is regular where the solution and its multipliers are unique. Where it is not, its null space says which of the two is
free, and the pseudo-inverse solves what is still determined.
"""

from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as ssl

DENSE = 400  # unknowns up to which LAPACK beats the sparse factor
EXAMINED = 2500  # unknowns up to which a singular K is worth its eigenvalues
REGULAR = 1e-13  # reciprocal condition number (after scaling) below which K counts as singular
NULL = 1e-11  # eigenvalues of the scaled K below this, relative to the largest, count as zero


class Singular(ArithmeticError):
    """K is singular and too large for its null space to be found."""


class Saddle:
    """The factor of a symmetric matrix, dense or sparse.

    `solve(rhs)` gives K^-1 rhs, or the solution that is smallest in the free directions where K is singular; `null`
    (size, k) spans these directions, k = 0 if K is regular. Unknowns that no equation mentions (a loose epigraph
    variable, say) are set aside first: they cost nothing. Raises `Singular` for what is left of a singular K if it has
    more than 2500 unknowns.
    """

    def __init__(self, matrix):
        self.matrix = matrix
        magnitude = abs(matrix)
        largest = magnitude.max(axis=1) if matrix.shape[0] else np.zeros(0)
        largest = largest.toarray().ravel() if scipy.sparse.issparse(largest) else largest
        self.free = np.flatnonzero(largest == 0)
        self.scale = _equilibrate(magnitude)
        scaled = _scaled(matrix, self.scale)
        if scipy.sparse.issparse(matrix):
            scaled = scaled + scipy.sparse.diags_array(np.asarray(largest == 0, float))
            if matrix.shape[0] <= DENSE:
                scaled = scaled.toarray()
        else:
            scaled[self.free, self.free] = 1.0
        self._scaled = scaled
        self._lu = self._factor()

    @property
    def singular(self) -> bool:
        return self._lu is None or self.free.size > 0

    @property
    def null(self) -> scipy.sparse.csc_array:
        """A basis of the null space, one unit vector a column."""
        size = self.matrix.shape[0]
        ones = np.ones(self.free.size)
        alone = scipy.sparse.csc_array((ones, (self.free, np.arange(self.free.size))), shape=(size, self.free.size))
        if self._lu is not None:
            return alone
        values, vectors = self._eigen
        vectors = self.scale[:, None] * vectors[:, ~_kept(values)]
        return scipy.sparse.csc_array(scipy.sparse.hstack([alone, vectors / np.linalg.norm(vectors, axis=0)]))

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """K^-1 rhs, refined while that halves the residual (three times at most)."""
        solution = self._apply_inverse(rhs)
        defect = rhs - self.matrix @ solution
        for _ in range(3):
            refined = solution + self._apply_inverse(defect)
            left = rhs - self.matrix @ refined
            if not np.linalg.norm(left) < 0.5 * np.linalg.norm(defect):
                break
            solution, defect = refined, left
        return solution

    def _apply_inverse(self, rhs):
        rhs = self.scale * rhs
        rhs[self.free] = 0.0
        if self._lu is None:
            values, vectors = self._eigen
            kept = _kept(values)
            return self.scale * (vectors[:, kept] @ ((vectors[:, kept].T @ rhs) / values[kept]))
        return self.scale * self._lu(rhs)

    @cached_property
    def _eigen(self):
        size = self.matrix.shape[0]
        if size > EXAMINED:
            raise Singular(
                f"the KKT matrix of {size} unknowns is singular, and too large for its null space to be examined"
            )
        scaled = self._scaled.toarray() if scipy.sparse.issparse(self._scaled) else self._scaled
        return scipy.linalg.eigh(scaled)

    def _factor(self):
        """The function rhs -> K^-1 rhs in scaled unknowns, or None if K is singular."""
        size = self._scaled.shape[0]
        if size == 0:
            return lambda rhs: rhs
        if scipy.sparse.issparse(self._scaled):
            try:
                lu = ssl.splu(self._scaled.tocsc())
            except RuntimeError:
                return None
            inverse = ssl.LinearOperator((size, size), lu.solve, rmatvec=lambda rhs: lu.solve(rhs, "T"), dtype=float)
            norm = abs(self._scaled).sum(axis=0).max()
            rcond = 1.0 / (ssl.onenormest(inverse) * norm)
            return lu.solve if rcond > REGULAR else None
        getrf, gecon = scipy.linalg.get_lapack_funcs(("getrf", "gecon"), (self._scaled,))
        lu, pivots, info = getrf(self._scaled)
        rcond = gecon(lu, np.abs(self._scaled).sum(axis=0).max())[0] if info == 0 else 0.0
        return (lambda rhs: scipy.linalg.lu_solve((lu, pivots), rhs, check_finite=False)) if rcond > REGULAR else None


def _kept(values):
    return np.abs(values) > NULL * np.max(np.abs(values), initial=np.finfo(float).tiny)


def _equilibrate(magnitude, sweeps: int = 5) -> np.ndarray:
    """d such that diag(d) K diag(d) has rows of largest entry about 1 (Ruiz 2001, RAL-TR-2001-034)."""
    d = np.ones(magnitude.shape[0])
    for _ in range(sweeps if magnitude.shape[0] else 0):
        largest = _scaled(magnitude, d).max(axis=1)
        largest = largest.toarray().ravel() if scipy.sparse.issparse(largest) else largest
        d /= np.sqrt(np.where(largest > 0, largest, 1.0))
    return d


def _scaled(matrix, d):
    if scipy.sparse.issparse(matrix):
        return scipy.sparse.csc_array(matrix.multiply(d[:, None]).multiply(d[None, :]))
    return d[:, None] * matrix * d[None, :]
