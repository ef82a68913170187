"""The spectrum of A and what it means for the series sum_j (I - step A)^j: does it converge, and how fast."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg as ssl

# Up to this size the eigenvalues are those of the matrix written out.
DENSE = 200


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of A at both ends, and the spectral radius of I - step A.

    The Neumann series step sum_{j < k} (I - step A)^j has the relative error `radius`^k: it converges if `radius` is
    below 1. For a positive definite A that is 0 < step < 2 / `largest`, and `best_step` = 2 / (`smallest` + `largest`)
    is the fastest. `smallest` and `largest` are real parts where A is not symmetric, NaN where there are no unknowns.

    >>> import numpy as np
    >>> found = spectrum_of(np.diag([1.0, 4.0]), 0.25)
    >>> found.radius, found.terms(1e-6)
    (0.75, 49)
    """

    smallest: float
    largest: float
    step: float
    radius: float

    @property
    def best_step(self) -> float:
        """The step with the smallest radius, of a symmetric A; NaN where A is indefinite and no step converges."""
        return 2 / (self.smallest + self.largest) if self.smallest > 0 else float("nan")

    @property
    def condition(self) -> float:
        """The condition number `largest` / `smallest` of a positive definite A; NaN where it is not."""
        return self.largest / self.smallest if self.smallest > 0 else float("nan")

    @property
    def converges(self) -> bool:
        """Whether the series does."""
        return self.radius < 1

    def terms(self, accuracy: float) -> int:
        """The number k of terms after which `radius`^k is at most `accuracy`; ValueError where the series diverges."""
        if not 0 < accuracy < 1:
            raise ValueError(f"terms accuracy = {accuracy!r}: a number between 0 and 1 is wanted")
        if not self.converges:
            raise ValueError(self.refusal)
        return max(1, math.ceil(math.log(accuracy) / math.log(self.radius))) if self.radius > 0 else 1

    @property
    def refusal(self) -> str:
        """Why the series is refused, in numbers."""
        said = (
            f"the Neumann series diverges: I - step A has spectral radius {self.radius:.4g} at step = {self.step:.4g} "
            f"(eigenvalues of A from {self.smallest:.3g} to {self.largest:.3g})"
        )
        if self.smallest > 0 and self.step < 2 / self.largest:
            return f"{said}; A is not symmetric, its eigenvalues are complex: take a smaller step, or GMRES()"
        if self.smallest > 0:
            return f"{said}; take a step below {2 / self.largest:.4g}, at best {self.best_step:.4g}, or CG()"
        return f"{said}; A is not positive definite, no step converges: use Direct() or GMRES()"

    @property
    def verdict(self) -> str:
        """What it means, in words."""
        if not self.converges:
            return self.refusal
        return (
            f"eigenvalues of A from {self.smallest:.3g} to {self.largest:.3g}; I - step A has spectral radius "
            f"{self.radius:.6g} at step = {self.step:.4g}: {self.terms(1e-3)} terms for 1e-3, "
            f"{self.terms(1e-8)} for 1e-8"
        )


def spectrum_of(A, step: float | None = None, *, symmetric: bool = True) -> Spectrum:
    """The spectrum of a matrix, a SciPy sparse matrix or a SciPy LinearOperator; `step` None: 1 / `largest`.

    Small ones are written out, larger ones by ARPACK's Lanczos and Arnoldi iterations.
    """
    n = A.shape[0]
    if n == 0:
        return Spectrum(float("nan"), float("nan"), 1.0 if step is None else float(step), 0.0)
    if n <= DENSE:
        dense = A if isinstance(A, np.ndarray) else A @ np.eye(n)
        values = np.linalg.eigvalsh(0.5 * (dense + dense.T)) if symmetric else np.linalg.eigvals(dense)
    else:
        values = _extreme(ssl.aslinearoperator(A), symmetric)
    smallest, largest = float(np.min(values.real)), float(np.max(values.real))
    top = largest if largest > 0 else float(np.max(np.abs(values)))
    step = (1 / top if top > 0 else 1.0) if step is None else float(step)
    if n > DENSE and not symmetric:
        shrunk = ssl.LinearOperator((n, n), matvec=lambda v: v - step * (A @ v), dtype=float)
        values = (1 - _arpack(ssl.eigs, shrunk, "LM")) / step
    return Spectrum(smallest, largest, step, float(np.max(np.abs(1 - step * values))))


def _extreme(A, symmetric) -> np.ndarray:
    """The eigenvalues at both ends. The smallest one is found as the largest of a shifted matrix, far faster."""
    largest = _arpack(ssl.eigsh if symmetric else ssl.eigs, A, "LA" if symmetric else "LR")
    top = float(np.max(largest.real))
    shifted = ssl.LinearOperator(A.shape, matvec=lambda v: top * v - A @ v, dtype=float)
    return np.concatenate([largest, top - _arpack(ssl.eigsh if symmetric else ssl.eigs, shifted, "LM", abs(top))])


def _arpack(solver: Callable, A, which: str, scale: float = 0.0) -> np.ndarray:
    """One eigenvalue; zero for a matrix that is nothing beside `scale`, from which ARPACK cannot start."""
    start = np.random.default_rng(0).standard_normal(A.shape[0])
    if np.linalg.norm(A @ start) <= 1e-13 * scale * np.linalg.norm(start):
        return np.zeros(1)
    try:
        return solver(A, k=1, which=which, v0=start, tol=1e-6, return_eigenvectors=False)
    except ssl.ArpackNoConvergence as stopped:
        if len(stopped.eigenvalues):
            return stopped.eigenvalues
        raise
