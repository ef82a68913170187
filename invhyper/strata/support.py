"""The stratum of an l1 penalty: the support, its signs, and the normal equations on it."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.linalg.lapack as lapack
import scipy.sparse
import scipy.sparse.linalg as ssl
from jaxtyping import Float, Int

SPARSE_FILL = 0.1
SINGULAR = 1e-13


class SingularSupport(ValueError):
    """The columns of A on the support are linearly dependent: x* is not unique, so it has no derivative."""

    def __init__(self, positions: Int[np.ndarray, " m"]):
        super().__init__(f"column {int(positions[0])} of the support depends on the columns before it")
        self.positions = positions


@dataclass(frozen=True)
class Support:
    """The active coefficients and their signs (0: unpenalised, free to cross zero)."""

    indices: Int[np.ndarray, " k"]
    signs: Float[np.ndarray, " k"]

    def sorted(self) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """(indices, signs) in the order of the columns, so that two strata compare."""
        order = np.argsort(self.indices)
        return self.indices[order], self.signs[order]


class NormalEquations:
    """K = A_S^T W A_S + diag(l2_S), factored once, for the polish and the adjoint alike.

    Dense: Cholesky; sparse and thinly filled: SuperLU. A pivot is the squared distance of a column from those before:
    where it is nothing beside the column's own square, `SingularSupport` is raised.
    """

    def __init__(self, matrix):
        if scipy.sparse.issparse(matrix) and matrix.nnz >= SPARSE_FILL * matrix.shape[0] ** 2:
            matrix = matrix.toarray()
        self.matrix, self.diagonal = matrix, matrix.diagonal()
        factorise = _factor_sparse if scipy.sparse.issparse(matrix) else _factor_dense
        self._solve = factorise(matrix, self.diagonal) if self.diagonal.size else np.copy

    def solve(self, rhs: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """K^-1 rhs."""
        return self._solve(rhs)


def _factor_dense(matrix, diagonal):
    factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0)
    pivots = factor.diagonal()[: info - 1 if info else None] ** 2
    small = np.flatnonzero(pivots <= SINGULAR * diagonal[: pivots.size])
    if small.size or info:
        raise SingularSupport(np.append(small, info - 1)[:1])
    return lambda rhs: lapack.dpotrs(factor, rhs, lower=1)[0]


def _factor_sparse(matrix, diagonal):
    if np.any(diagonal <= 0):
        raise SingularSupport(np.flatnonzero(diagonal <= 0))
    scale = scipy.sparse.diags_array(1.0 / np.sqrt(diagonal))
    scaled = scipy.sparse.csc_array(scale @ matrix @ scale)
    try:
        factor = _symmetric_lu(scaled, "MMD_AT_PLUS_A")
    except RuntimeError:
        factor = None
    if factor is None or np.any(factor.U.diagonal() <= SINGULAR):
        ridge = scipy.sparse.eye_array(matrix.shape[0], format="csc") * (SINGULAR / 10)
        pivots = _symmetric_lu(scaled + ridge, "NATURAL").U.diagonal()
        raise SingularSupport(np.flatnonzero(pivots <= max(2 * SINGULAR, pivots.min())))
    return lambda rhs: scale @ factor.solve(scale @ rhs)


def _symmetric_lu(matrix, order: str):
    return ssl.splu(matrix, permc_spec=order, diag_pivot_thresh=0.0, options={"SymmetricMode": True})


class Woodbury:
    """K as above for a support larger than the number of samples, every l2_S > 0, by an n x n system.

        D c + M^T v = rhs,   M c - v = 0,   M = W^1/2 A_S,   D = diag(l2_S):   (I + M D^-1 M^T) v = M D^-1 rhs

    Refined in (c, v): what rounding leaves in M c then stays in the rows' space, where K is large, and is not divided
    by l2.
    """

    def __init__(self, columns, sample_weight, l2):
        self.root = np.ones(columns.shape[0]) if sample_weight is None else np.sqrt(sample_weight)
        self.rows, self.l2 = self.root[:, None] * columns, l2
        self.diagonal = np.einsum("ij,ij->j", self.rows, self.rows) + l2
        k = l2.size
        self.matrix = ssl.LinearOperator((k, k), matvec=self._apply, rmatvec=self._apply, dtype=float)
        inner = (self.rows / l2) @ self.rows.T
        inner[np.diag_indices_from(inner)] += 1.0
        self.factor = scipy.linalg.cho_factor(inner, lower=True, overwrite_a=True)

    def solve(self, rhs: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """K^-1 rhs."""
        return self._refined(rhs, np.zeros(self.root.size))[0]

    def fit(self, y: Float[np.ndarray, " n"], pull: Float[np.ndarray, " k"]) -> tuple[np.ndarray, np.ndarray]:
        """(c, misfit) with A^T W misfit = D c + pull and misfit = y - A c: as `solve`, without forming A^T W y."""
        c, v = self._refined(-pull, self.root * y)
        exact = self.root > 0
        return c, np.where(exact, -v / np.where(exact, self.root, 1.0), 0.0)

    def _refined(self, above, below):
        c, v = self._step(above, below)
        for _ in range(2):
            dc, dv = self._step(above - self.l2 * c - self.rows.T @ v, below + v - self.rows @ c)
            c, v = c + dc, v + dv
        return c, v

    def _step(self, above, below):
        """(c, v) with D c + M^T v = above, M c - v = below."""
        v = scipy.linalg.cho_solve(self.factor, self.rows @ (above / self.l2) - below)
        return (above - self.rows.T @ v) / self.l2, v

    def _apply(self, c):
        c = np.ravel(c)
        return self.rows.T @ (self.rows @ c) + self.l2 * c
