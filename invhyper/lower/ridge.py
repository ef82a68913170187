"""Ridge regression: the lower level with a closed form."""

from typing import ClassVar

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, LowerLevel, Solution


class Ridge(LowerLevel):
    """Least squares with a squared penalty.

    x*(theta) = argmin_x 1/2 |Ax - y|^2 + 1/2 sum_j l2_j x_j^2,   theta = {"l2"}: a scalar or one weight per coefficient
    """

    keys: ClassVar = ("l2",)
    tags: ClassVar = lx.positive_semidefinite_tag
    A: Float[Array, "n p"]
    y: Float[Array, " n"]

    def __init__(self, A, y):
        self.A, self.y = jnp.asarray(A, float), jnp.asarray(y, float)

    def bounds(self, theta):
        shape = np.shape(theta["l2"])
        return {"l2": np.zeros(shape)}, {"l2": np.full(shape, np.inf)}

    def objective(self, x, theta):
        return 0.5 * jnp.sum((self.A @ x - self.y) ** 2) + 0.5 * jnp.sum(theta["l2"] * x**2)

    def residual(self, x, theta):
        return self.A.T @ (self.A @ x - self.y) + theta["l2"] * x

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        p = self.A.shape[1]
        hessian = self.A.T @ self.A + jnp.diag(jnp.broadcast_to(theta["l2"], (p,)))
        x = jnp.linalg.solve(hessian, self.A.T @ self.y)
        scale = jnp.linalg.norm(self.A.T @ self.y)
        error = jnp.linalg.norm(self.residual(x, theta)) / jnp.where(scale == 0, 1, scale)
        return Solution(x, error, jnp.asarray(1), jnp.where(error <= tol, CONVERGED, ABOVE_TOLERANCE))

    def cold_start(self, theta):
        return Solution(jnp.zeros(self.A.shape[1]))
