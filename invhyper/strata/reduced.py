"""The linear system of a stratum: A c = rhs on the regions, with the constraints that are left between them.

    [A  C^T] [c ]   [rhs]
    [C   0 ] [mu] = [ 0 ],      A = P^T (K^T K) P + curvature

Rows of C may depend on each other; the multipliers are then not unique, c is.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as ssl
from scipy.sparse import csr_array, diags_array

# A matrix-free A of a few regions is written out, a larger one solved by conjugate gradients; where these fail, it is
# written out as well, up to a limit.
CG_STEPS, DENSE_LIMIT, SMALL = 1000, 4096, 1000
# The corner of a constrained system, relative to its smallest diagonal entry, and the refinements that undo it.
DELTA, REFINEMENTS = 1e-10, 6
# From this tolerance on a direction is wanted, not a solution: nothing is refined.
INEXACT = 1e-6


class Reduced:
    """A and C with a factor, made when it is first asked for.

    **Arguments**: `normal`: P^T K^T K P, a vector (its diagonal), a sparse matrix, or a function c -> A c; `size`: the
    entries of each region and `level`, the largest eigenvalue of K^T K, for the preconditioner; `curvature`: a sparse
    matrix or None; `constraints`: C or None; `tol` of the solver, from INEXACT on for directions only.
    """

    def __init__(self, normal, size: np.ndarray, curvature: csr_array | None, constraints=None, level=1.0, tol=1e-13):
        self.size, self.unknowns = size, size.size
        self.constraints = constraints if constraints is not None and constraints.shape[0] else None
        self.curvature = curvature
        self.normal, self.level, self.tol = normal, level, tol
        self.steps = 0
        self._solve = None

    @property
    def diagonal(self) -> bool:
        return isinstance(self.normal, np.ndarray) and self.curvature is None and self.constraints is None

    @property
    def sparse(self) -> bool:
        return not callable(self.normal)

    def upper(self):
        """A alone: a sparse matrix, or a LinearOperator where K has no matrix."""
        if self.sparse:
            normal = diags_array(self.normal) if isinstance(self.normal, np.ndarray) else self.normal
            return normal if self.curvature is None else normal + self.curvature
        return self._operator(self.apply_upper, self.unknowns)

    def matrix(self):
        """The whole system, bordered by C."""
        if self.constraints is None:
            return self.upper()
        C = self.constraints
        if self.sparse:
            return scipy.sparse.block_array([[self.upper(), C.T], [C, None]], format="csr")
        return self._operator(self.apply, self.unknowns + C.shape[0])

    @staticmethod
    def _operator(apply, n):
        return ssl.LinearOperator((n, n), matvec=lambda v: apply(np.ravel(v)), rmatvec=lambda v: apply(np.ravel(v)))

    def apply_upper(self, c: np.ndarray) -> np.ndarray:
        if self.sparse:
            return self.upper() @ c
        image = self.normal(c)
        return image if self.curvature is None else image + self.curvature @ c

    def solve(self, rhs: np.ndarray, defect: np.ndarray | None = None) -> np.ndarray:
        """(c, mu) of A c + C^T mu = rhs, C c = defect (zero if None), in one vector."""
        if self.diagonal:
            return rhs / self.normal
        if self._solve is None:
            self._solve = self._factor()
        if self.constraints is None:
            return self._solve(rhs)
        return self._solve(np.concatenate([rhs, np.zeros(self.constraints.shape[0]) if defect is None else defect]))

    def apply(self, v: np.ndarray) -> np.ndarray:
        """The whole system times (c, mu)."""
        if self.constraints is None:
            return self.apply_upper(v)
        n, C = self.unknowns, self.constraints
        return np.concatenate([self.apply_upper(v[:n]) + C.T @ v[n:], C @ v[:n]])

    def _factor(self) -> Callable:
        if self.sparse:
            steps = 0 if self.tol >= INEXACT else REFINEMENTS
            return self._refined(self._direct(self.upper()), steps)
        if self.unknowns <= SMALL:
            return self._dense()
        return self._conjugate_gradients()

    def _direct(self, A) -> Callable:
        """The factor of [A C^T; C -delta I], a little off the system so that dependent rows of C do no harm."""
        if self.constraints is None:
            return cholesky(A.tocsc())
        C, n = self.constraints, self.unknowns
        diagonal = A.diagonal()
        size = float(np.median(diagonal[diagonal > 0])) if (diagonal > 0).any() else 1.0
        upper = A + 1e-12 * size * scipy.sparse.eye_array(n)
        lower = -DELTA / size * scipy.sparse.eye_array(C.shape[0])
        return _lu(scipy.sparse.block_array([[upper, C.T], [C, lower]], format="csc"), "COLAMD")

    def _refined(self, solve: Callable, steps: int) -> Callable:
        def improve(rhs):
            v = solve(rhs)
            size = np.inf
            for _ in range(steps):
                left = rhs - self.apply(v)
                before, size = size, np.linalg.norm(left)
                if not 1e-15 * np.linalg.norm(rhs) < size < 0.5 * before:
                    break
                v = v + solve(left)
            return v

        return improve

    def _dense(self) -> Callable:
        """The system written out, one column a region."""
        n = self.unknowns
        A = np.stack([self.apply_upper(e) for e in np.eye(n)])
        A = 0.5 * (A + A.T)
        if self.constraints is None:
            A += 1e-15 * np.trace(A) / n * np.eye(n)
            factor = scipy.linalg.cho_factor(A)
            return self._refined(lambda r: scipy.linalg.cho_solve(factor, r), 1)
        C = self.constraints.toarray()
        corner = -DELTA / max(float(np.abs(A).max()), 1e-300) * np.eye(C.shape[0])
        factor = scipy.linalg.lu_factor(np.block([[A, C.T], [C, corner]]))
        return self._refined(lambda r: scipy.linalg.lu_solve(factor, r), REFINEMENTS)

    def _conjugate_gradients(self) -> Callable:
        """CG in the null space of C, preconditioned by the same system with the region sizes for P^T K^T K P.

        The preconditioner's own solutions obey the constraints, so every step does: Gould, Hribar and Nocedal (2001),
        doi:10.1137/S1064827598345667.
        """
        n = self.unknowns
        diagonal = diags_array(0.5 * self.level * self.size, format="csr")
        base = diagonal if self.curvature is None else diagonal + self.curvature
        nearby = (lambda r: r / diagonal.diagonal()) if base.nnz == n and self.constraints is None else None
        nearby = self._direct(base) if nearby is None else nearby
        zeros = np.zeros(0 if self.constraints is None else self.constraints.shape[0])
        A = self._operator(self.apply_upper, n)
        M = self._operator(lambda r: nearby(np.concatenate([r, zeros]))[:n], n)
        dense = []

        def solve(rhs):
            if dense:
                return dense[0](rhs)
            first = nearby(np.concatenate([np.zeros(n), rhs[n:]]))[:n]
            left = rhs[:n] - self.apply_upper(first)
            c, failed = ssl.cg(A, left, rtol=self.tol, atol=0.0, maxiter=CG_STEPS, M=M, callback=self._count)
            if failed and n <= DENSE_LIMIT:
                dense.append(self._dense())
                return dense[0](rhs)
            c = c + first
            return c if not zeros.size else np.append(c, nearby(np.append(rhs[:n] - self.apply_upper(c), zeros))[n:])

        return solve

    def _count(self, _):
        self.steps += 1


def bent(D: csr_array, group: np.ndarray, groups: int, diagonal: np.ndarray, across: np.ndarray) -> csr_array:
    """D^T (diag(diagonal) - a a^T group by group) D, a the entries of `across` in a group: the curvature of norms."""
    V = csr_array((across, (group, np.arange(group.size))), shape=(groups, group.size)) @ D
    return D.T @ diags_array(diagonal) @ D - V.T @ V


def cholesky(A: scipy.sparse.csc_array) -> Callable:
    """A solver for a sparse symmetric positive definite A: SuperLU with symmetric ordering.

    A singular A (entries that no datum and no norm holds) is moved by rounding; the residual tells.
    """
    return _lu(A, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _lu(A: scipy.sparse.csc_array, ordering: str, **options) -> Callable:
    """SuperLU; NaN where even a matrix moved by rounding is singular (the caller meets it as not converged)."""
    for shift in (0.0, 1e-13, 1e-9):
        moved = A
        if shift:
            scale = shift * float(np.abs(A.data).max(initial=0.0))
            moved = (A + scale * scipy.sparse.eye_array(A.shape[0])).tocsc()
        try:
            return ssl.splu(moved, permc_spec=ordering, **options).solve
        except RuntimeError:
            continue
    return lambda rhs: np.full(rhs.shape, np.nan)
