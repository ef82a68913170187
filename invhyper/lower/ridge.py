"""Ridge regression: the lower level with a closed form, by a factor of the smaller side or by conjugate gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from invhyper import linear_solvers
from invhyper.iterations.optimisers import GradientDescent
from invhyper.iterations.schedules import Constant
from invhyper.lower.data import check_weight, decayed, design_and_target, nonnegative
from invhyper.lower.minimum import definite, refined
from invhyper.operators.sparse import Sparse, spectral_bound
from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, INDEFINITE, NOT_FINITE, LowerLevel, Solution


class Ridge(LowerLevel):
    """Least squares with a squared penalty.

        x*(theta) = argmin_x 1/2 |Ax - y|^2 + 1/2 sum_j l2_j x_j^2,   theta = {"l2"}

    **Arguments**: `A` (n, p), dense or scipy sparse; `y` (n,); theta["l2"] is a scalar or (p,), at least 0. `solver`:
    None factors A^T A + diag(l2) where n >= p, else I + A diag(1/l2) A^T (then every l2 must be above 0), and the
    adjoint uses the same factor; a sparse A is solved by `CG()`. A solver that is given (`CG()`, `CG(max_steps=100)`)
    is held to `tol` and no better.

    The error of a solution is |R| relative to |A^T y|. Raises ValueError for shapes, NaN and negative weights; a
    singular system ends in `NotConverged`.

    >>> import numpy as np, invhyper as ih
    >>> print(ih.solve(ih.Ridge(np.eye(2), np.array([1.0, 2.0])), {"l2": np.array([1.0, 3.0])}).x)
    [0.5 0.5]

    Hoerl and Kennard (1970), doi:10.1080/00401706.1970.10488634.
    """

    keys: ClassVar = ("l2",)
    tags: ClassVar = lx.positive_semidefinite_tag
    A: Float[Array, "n p"] | Sparse
    y: Float[Array, " n"]
    solver: Any

    def __init__(self, A, y, *, solver=None):
        self.A, self.y = design_and_target("Ridge", A, y)
        self.solver = linear_solvers.CG() if solver is None and isinstance(self.A, Sparse) else solver

    def bounds(self, theta):
        return nonnegative(theta)

    def check(self, theta):
        return check_weight(super().check(theta), "l2", self.A.shape[1], "Ridge")

    def objective(self, x, theta):
        return 0.5 * jnp.sum((self.A @ x - self.y) ** 2) + 0.5 * jnp.sum(theta["l2"] * x**2)

    def residual(self, x, theta):
        return self.A.T @ (self.A @ x - self.y) + theta["l2"] * x

    def constants(self, x, theta):
        curvature, l2 = spectral_bound(self.A) ** 2, theta["l2"]
        terms = curvature * jnp.linalg.norm(x) + jnp.linalg.norm(self.A.T @ self.y) + jnp.linalg.norm(l2 * x)
        return decayed(l2, x, curvature, 0.0, terms)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        pull = self.A.T @ self.y
        if self.solver is None:
            factor, certain = self._factor(theta)
            x = self._refined(factor, theta, pull)
        else:
            factor, certain = None, jnp.asarray(True)
            guess = None if start is None else start.x
            operator = lx.FunctionLinearOperator(self._product(theta), jax.eval_shape(lambda: pull), self.tags)
            x = linear_solvers.solve_traced(self.solver, operator, pull, guess, 0.5 * tol)
        scale = jnp.linalg.norm(pull)
        error = jnp.linalg.norm(self.residual(x, theta)) / jnp.where(scale == 0, 1, scale)
        n, p = self.A.shape
        unpenalised = jnp.sum(jnp.broadcast_to(theta["l2"], (p,)) == 0)
        code = jnp.where(error <= tol, CONVERGED, ABOVE_TOLERANCE)
        code = jnp.where(jnp.isfinite(error), code, NOT_FINITE)
        code = jnp.where(certain & (unpenalised <= n), code, INDEFINITE)
        return Solution(x, error, jnp.asarray(1), code, factor)

    def cold_start(self, theta):
        n, p = self.A.shape
        memo = np.eye(min(n, p), dtype=self.A.dtype) if self.solver is None else None
        return Solution(np.zeros(p, self.A.dtype), memo=memo)

    def linearise(self, solution, theta):
        linearisation = super().linearise(solution, theta)
        if self.solver is not None:
            return linearisation
        factor = self._factor(theta)[0] if solution.memo is None else solution.memo
        return replace(linearisation, solve=lambda rhs, transpose: self._refined(factor, theta, rhs))

    def iteration(self):
        """Gradient descent with the step 1/L, L = the largest eigenvalue of A^T A plus the largest l2."""
        curvature = linear_solvers.largest_eigenvalue(lambda v: self.A.T @ (self.A @ v), jnp.zeros(self.A.shape[1]))
        return descent(self, np.zeros(self.A.shape[1], self.A.dtype), curvature)

    def _product(self, theta) -> Callable:
        return lambda v: self.A.T @ (self.A @ v) + theta["l2"] * v

    def _factor(self, theta):
        """The Cholesky factor of the smaller side, and whether the system is safely positive definite."""
        n, p = self.A.shape
        weights = jnp.broadcast_to(theta["l2"], (p,))
        if n >= p:
            gram = self.A.T @ self.A + jnp.diag(weights)
            factor = jnp.linalg.cholesky(gram)
            return factor, definite(factor, gram)
        inner = jnp.eye(n, dtype=self.A.dtype) + (self.A / weights) @ self.A.T
        return jnp.linalg.cholesky(inner), jnp.all(weights > 0)

    def _refined(self, factor, theta, rhs):
        """The factor's solution, refined by CG with the system itself, which is better conditioned than its parts."""

        def small_side(v):
            if self.A.shape[0] >= self.A.shape[1]:
                return jsl.cho_solve((factor, True), v)
            scaled = v / theta["l2"]
            return scaled - (self.A.T @ jsl.cho_solve((factor, True), self.A @ scaled)) / theta["l2"]

        return refined(self._product(theta), rhs, small_side, 1e-15, 4)


def descent(lower: LowerLevel, start, curvature) -> GradientDescent:
    """Gradient descent on the objective with the step 1 / (curvature + the largest l2)."""
    size = Constant(jax.tree_util.Partial(_one_over_curvature, curvature))
    return GradientDescent(jax.tree_util.Partial(type(lower).objective, lower), start, size)


def _one_over_curvature(curvature, theta):
    return 1 / (curvature + jnp.max(jnp.asarray(theta["l2"])))
