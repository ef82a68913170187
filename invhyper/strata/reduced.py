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
CG_STEPS, DENSE_LIMIT, SMALL = 1000, 2000, 1000


class Reduced:
    """A and C with a factor, made when it is first asked for.

    **Arguments**: `normal`: P^T K^T K P, a vector (its diagonal), a sparse matrix, or a function c -> A c; `size`: the
    entries of each region and `level`, the largest eigenvalue of K^T K, for the preconditioner; `curvature`: a sparse
    matrix or None; `constraints`: C or None; `tol` of conjugate gradients, the only solver that is not direct.
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
        n = self.unknowns

        def apply(v):
            return np.concatenate([self.apply_upper(v[:n]) + C.T @ v[n:], C @ v[:n]])

        return self._operator(apply, n + C.shape[0])

    @staticmethod
    def _operator(apply, n):
        return ssl.LinearOperator((n, n), matvec=lambda v: apply(np.ravel(v)), rmatvec=lambda v: apply(np.ravel(v)))

    def apply_upper(self, c: np.ndarray) -> np.ndarray:
        if self.sparse:
            return self.upper() @ c
        image = self.normal(c)
        return image if self.curvature is None else image + self.curvature @ c

    def solve(self, rhs: np.ndarray, defect: np.ndarray | None = None) -> np.ndarray:
        """(c, mu) of A c + C^T mu = rhs, C c = defect (zero if None)."""
        if self.unknowns == 0:
            return np.zeros(0 if self.constraints is None else self.constraints.shape[0])
        if self.diagonal:
            return rhs / self.normal
        if self._solve is None:
            self._solve = self._factor()
        if self.constraints is None:
            return self._solve(rhs)
        return self._multipliers(rhs, np.zeros(self.constraints.shape[0]) if defect is None else defect)

    def _multipliers(self, rhs, defect):
        """The method of multipliers with a penalty so large that each round gains about seven digits."""
        C, tau = self.constraints, self._penalty
        mu = np.zeros(C.shape[0])
        c = np.zeros(self.unknowns)
        for _ in range(6):
            # A residual correction: what is left of both equations is solved for, so rounding does not pile up.
            left = rhs - self.apply_upper(c) - C.T @ mu
            gap = defect - C @ c
            step = self._solve(left + tau * (C.T @ gap))
            c += step
            # Not tau (C c - defect): its rounding, tau times that of c, would stay in the first equation.
            mu += tau * (C @ step - gap)
            if np.abs(step).max() <= 1e-15 * np.abs(c).max():
                break
        return np.concatenate([c, mu])

    def _factor(self) -> Callable:
        if self.sparse:
            A = self.upper().tocsc()
            if self.constraints is not None:
                penalty = self.constraints.T @ self.constraints
                self._penalty = 1e6 * max(abs(A).max(), 1e-300) / max(abs(penalty).max(), 1e-300)
                A = (A + self._penalty * penalty).tocsc()
            return cholesky(A)
        return self._conjugate_gradients()

    def _dense(self):
        """A written out, one column a region, and its Cholesky factor."""
        identity = np.eye(self.unknowns)
        A = np.stack([self.apply_upper(e) for e in identity])
        A = 0.5 * (A + A.T)
        if self.constraints is not None:
            A += self._penalty * (self.constraints.T @ self.constraints).toarray()
        factor = scipy.linalg.cho_factor(A + 1e-15 * np.trace(A) / self.unknowns * identity)
        return lambda rhs: _refined(lambda r: scipy.linalg.cho_solve(factor, r), lambda c: A @ c, rhs)

    def _conjugate_gradients(self):
        """CG, preconditioned by the region sizes and the curvature."""
        diagonal = 0.5 * self.level * self.size
        base = diags_array(diagonal, format="csr")
        base = base if self.curvature is None else base + self.curvature
        penalty = None
        if self.constraints is not None:
            penalty = self.constraints.T @ self.constraints
            self._penalty = 1e3 * max(abs(base).max(), 1e-300) / max(abs(penalty).max(), 1e-300)
            base = base + self._penalty * penalty
        precondition = (lambda r: r / diagonal) if base.nnz == self.unknowns else cholesky(base.tocsc())

        def apply(c):
            image = self.apply_upper(c)
            return image if penalty is None else image + self._penalty * (penalty @ c)

        n = self.unknowns
        A, M = self._operator(apply, n), self._operator(precondition, n)

        dense = [self._dense()] if n <= SMALL else []

        def solve(rhs):
            if dense:
                return dense[0](rhs)
            c, failed = ssl.cg(A, rhs, rtol=self.tol, atol=0.0, maxiter=CG_STEPS, M=M, callback=self._count)
            if failed and n <= DENSE_LIMIT:
                dense.append(self._dense())
                return dense[0](rhs)
            return c

        return solve

    def _count(self, _):
        self.steps += 1


def cholesky(A: scipy.sparse.csc_array) -> Callable:
    """A solver for a sparse symmetric positive definite A: SuperLU with symmetric ordering and one refinement.

    A singular A (entries that no datum and no norm holds) is moved by rounding; the residual tells.
    """
    options = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    try:
        lu = ssl.splu(A, **options)
    except RuntimeError:
        shift = 1e-13 * max(float(np.abs(A.data).max(initial=0.0)), 1e-300)
        lu = ssl.splu((A + shift * scipy.sparse.eye_array(A.shape[0])).tocsc(), **options)
    return lambda rhs: _refined(lu.solve, lambda c: A @ c, rhs)


def _refined(solve, apply, rhs):
    c = solve(rhs)
    return c + solve(rhs - apply(c))
