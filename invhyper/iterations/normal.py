"""The linear step of Split Bregman: (K^T K + sum_k rho_k D_k^T D_k) z = rhs, by the cheapest way that is exact.

A cosine or Fourier transform where it diagonalises every operator; a sparse Cholesky factor where all have matrices;
preconditioned conjugate gradients else. NumPy in, NumPy out; in traced code the transform or conjugate gradients.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.scipy.fft
import jax.scipy.sparse.linalg
import numpy as np
import scipy.fft
import scipy.sparse
import scipy.sparse.linalg as ssl

from invhyper.iterations.sizes import size_of
from invhyper.operators import Operator
from invhyper.strata.reduced import cholesky

CG_TOL = 1e-12
# A matrix with more than this share of entries is better applied as an operator.
FULL = 0.1


def normal_equations(forward: Operator, analyses: Sequence[Operator], rho: Sequence):
    """An object with `solve(rhs, start)` and `kind`, for NumPy arrays."""
    symbol, basis = _symbol(forward, analyses, rho)
    if basis is not None:
        return Spectral(1.0 / symbol, basis)
    try:
        matrix = forward.to_scipy()
    except TypeError:
        return _conjugate_gradients(forward, analyses, rho)
    if matrix.nnz > FULL * matrix.shape[0] * matrix.shape[1]:
        return _conjugate_gradients(forward, analyses, rho)
    return Factored(matrix.T @ matrix + _penalty(analyses, rho), forward.shape_in)


def gram(operator: Operator):
    """z -> K^T K z for flat NumPy arrays, by one transform and back where there is one."""
    shape = tuple(operator.shape_in)
    for basis in ("neumann", "periodic"):
        symbol = operator.symbol(basis)
        if symbol is not None:
            spectral = Spectral(np.asarray(symbol), basis)
            return lambda z: spectral.solve(z.reshape(shape)).ravel()
    return lambda z: np.asarray(operator.rmv(operator.mv(z.reshape(shape)))).ravel()


class Spectral:
    """A map in the basis that diagonalises it: `inverse` holds what its coefficients are multiplied by."""

    kind = "transform"

    def __init__(self, inverse, basis):
        self.inverse, self.basis = inverse, basis
        # Rows apart by a power of two share cache lines: padded, a cosine transform takes half the time at 512 x 512.
        padded = (*inverse.shape[:-1], inverse.shape[-1] + 8)
        self.padded = np.empty(padded)[..., :-8] if isinstance(inverse, np.ndarray) else None

    def solve(self, rhs, start=None):
        if not isinstance(rhs, np.ndarray) or not isinstance(self.inverse, np.ndarray):
            if self.basis == "neumann":
                image = jax.scipy.fft.dctn(rhs, norm="ortho") * self.inverse
                return jax.scipy.fft.idctn(image, norm="ortho")
            return jnp.fft.ifftn(jnp.fft.fftn(rhs) * self.inverse).real
        if self.basis == "neumann":
            self.padded[...] = rhs
            image = scipy.fft.dctn(self.padded, norm="ortho", overwrite_x=True)
            image *= self.inverse
            return scipy.fft.idctn(image, norm="ortho", overwrite_x=True).copy()
        image = scipy.fft.rfftn(rhs)
        image *= self.inverse[..., : image.shape[-1]]
        return scipy.fft.irfftn(image, s=rhs.shape, overwrite_x=True)


class Factored:
    """The system by its sparse Cholesky factor."""

    kind = "sparse factor"

    def __init__(self, matrix, shape):
        self.shape, self._solve = shape, cholesky(matrix.tocsc())

    def solve(self, rhs, start=None):
        return self._solve(rhs.ravel()).reshape(self.shape)


class ConjugateGradients:
    """The system by conjugate gradients; `precondition` is the same system with a multiple of I for K^T K."""

    kind = "conjugate gradients"

    def __init__(self, forward, analyses, rho, precondition):
        self.shape = forward.shape_in
        n = int(np.prod(self.shape))

        def apply(v):
            return _apply(forward, analyses, rho, v.reshape(self.shape)).ravel()

        def inverse(v):
            return precondition.solve(v.reshape(self.shape)).ravel()

        self.A = ssl.LinearOperator((n, n), matvec=apply, dtype=float)
        self.M = ssl.LinearOperator((n, n), matvec=inverse, dtype=float)

    def solve(self, rhs, start=None):
        guess = None if start is None else start.ravel()
        z, _ = ssl.cg(self.A, rhs.ravel(), x0=guess, rtol=CG_TOL, atol=0.0, maxiter=200, M=self.M)
        return z.reshape(self.shape)


class Traced:
    """The system inside traced code: the transform, else conjugate gradients (differentiated by their own adjoint)."""

    def __init__(self, forward, analyses, rho):
        symbol, basis = _symbol(forward, analyses, rho)
        self.spectral = None if basis is None else Spectral(1.0 / symbol, basis)
        self.apply = lambda z: _apply(forward, analyses, rho, z)

    def solve(self, rhs, start=None):
        if self.spectral is not None:
            return self.spectral.solve(rhs)
        start = None if start is None else jax.lax.stop_gradient(start)
        return jax.scipy.sparse.linalg.cg(self.apply, rhs, x0=start, tol=CG_TOL, maxiter=500)[0]


def _apply(forward, analyses, rho, z):
    image = forward.rmv(forward.mv(z))
    for analysis, weight in zip(analyses, rho, strict=True):
        image = image + weight * analysis.rmv(analysis.mv(z))
    return image


def _symbol(forward, analyses, rho):
    for basis in ("neumann", "periodic"):
        symbols = [operator.symbol(basis) for operator in (forward, *analyses)]
        if all(symbol is not None for symbol in symbols):
            total = symbols[0]
            for weight, symbol in zip(rho, symbols[1:], strict=True):
                total = total + weight * symbol
            return total, basis
    return None, None


def _gram(operator):
    matrix = operator.to_scipy()
    return matrix.T @ matrix


def _penalty(analyses, rho):
    return sum(weight * _gram(analysis) for analysis, weight in zip(analyses, rho, strict=True))


def _conjugate_gradients(forward, analyses, rho):
    level = 0.5 * size_of(forward)
    symbol, basis = _symbol(_Multiple(forward.shape_in, level), analyses, rho)
    if basis is not None:
        precondition = Spectral(1.0 / symbol, basis)
    else:
        n = int(np.prod(forward.shape_in))
        precondition = Factored(level * scipy.sparse.eye_array(n) + _penalty(analyses, rho), forward.shape_in)
    return ConjugateGradients(forward, analyses, rho, precondition)


class _Multiple:
    """Stands for an operator with K^T K = level I."""

    def __init__(self, shape, level):
        self.shape_in, self.level = shape, level

    def symbol(self, basis):
        return np.full(self.shape_in, self.level)
