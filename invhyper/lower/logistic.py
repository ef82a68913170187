"""Logistic regression with weight decay."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from invhyper import linear_solvers
from invhyper.criteria.validation import log_loss
from invhyper.lower.data import check_weight, decayed, design_and_target, nonnegative
from invhyper.lower.minimum import Minimum
from invhyper.lower.ridge import descent
from invhyper.operators.sparse import Sparse, spectral_bound


class Logistic(Minimum):
    """Logistic regression with one weight decay, or one for each coefficient.

        x*(theta) = argmin_x 1/n sum_i log(1 + exp(-y_i a_i . x)) + 1/2 sum_j l2_j x_j^2,   theta = {"l2"}

    **Arguments**: `A` (n, p), dense or scipy sparse; `labels` (n,), -1/+1 or 0/1; `intercept`: True appends a last
    entry to x, an unpenalised offset of every a_i . x. theta["l2"] is a scalar or (p,), at least 0.

    The error of a solution is |R| relative to the size of R's terms before they cancel: the larger of |l2 x| and the
    root of the sum of squares of the rows' terms. Raises ValueError for shapes, NaN and labels of any other kind; a
    solve ends in `NotConverged` if the classes are separable and l2 = 0 (no minimum) or the Hessian is singular.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.Logistic(np.array([[1.0], [2.0], [-1.0]]), np.array([1, 1, 1]))
    >>> print(ih.solve(lower, {"l2": 0.1}).x.round(6))
    [0.594318]

    Hosmer, Lemeshow and Sturdivant (2013), doi:10.1002/9781118548387.
    """

    keys: ClassVar = ("l2",)
    dense_limit: ClassVar[int] = 64  # convex anyway: for more unknowns a Hessian costs more than it saves
    loss: ClassVar[Callable] = staticmethod(log_loss)
    A: Float[Array, "n p"] | Sparse
    labels: Float[Array, " n"]
    intercept: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(self, A, labels, intercept: bool = False, *, max_steps: int = 1000):
        A, labels = design_and_target("Logistic", A, labels, "labels")
        if not isinstance(labels, jax.core.Tracer):
            unknown = np.setdiff1d(np.unique(labels), [-1.0, 0.0, 1.0])
            if unknown.size or {-1.0, 0.0} <= set(np.unique(labels).tolist()):
                raise ValueError(f"Logistic labels hold {np.unique(labels)[:5].tolist()}: -1/+1 or 0/1 is wanted")
        if intercept:
            A = _with_ones(A)
        self.A, self.labels = A, jnp.where(labels == 0, -1.0, labels)
        self.intercept, self.max_steps = bool(intercept), max_steps

    def bounds(self, theta):
        return nonnegative(theta)

    def check(self, theta):
        return check_weight(super().check(theta), "l2", self.A.shape[1] - self.intercept, "Logistic")

    def first(self, theta):
        return np.zeros(self.A.shape[1], self.A.dtype)

    def objective(self, x, theta):
        fit = jnp.mean(log_loss(self.A @ x, self.labels))
        return fit + 0.5 * jnp.sum(self._decay(theta) * x**2)

    def residual(self, x, theta):
        return self._pull(x) @ self.A + self._decay(theta) * x

    def scale(self, x, theta):
        squares = self.A.squared() if isinstance(self.A, Sparse) else self.A**2
        rows = squares @ jnp.ones(x.shape, x.dtype)
        return jnp.maximum(jnp.linalg.norm(self._decay(theta) * x), jnp.sqrt(jnp.sum(rows * self._pull(x) ** 2)))

    def hessian(self, x, theta):
        if isinstance(self.A, Sparse):
            return super().hessian(x, theta)
        decay = jnp.broadcast_to(self._decay(theta), x.shape)
        return (self.A.T * self._bend(x)) @ self.A + jnp.diag(decay)

    def diagonal(self, x, theta):
        squares = self.A.squared() if isinstance(self.A, Sparse) else self.A**2
        return self._bend(x) @ squares + self._decay(theta)

    def constants(self, x, theta):
        """The second derivative of log(1 + exp(-t)) is at most 1/4, the third at most 1 / (6 sqrt 3)."""
        if self.intercept:  # not penalised: strongly convex, but not with a known modulus
            return None
        squares = self.A.squared() if isinstance(self.A, Sparse) else self.A**2
        longest = jnp.sqrt(jnp.max(squares @ jnp.ones(x.shape, x.dtype)))
        bend = spectral_bound(self.A) ** 2 / self.A.shape[0]
        terms = self.scale(x, theta) * jnp.sqrt(self.A.shape[0])
        return decayed(theta["l2"], x, bend / 4, bend * longest / (6 * np.sqrt(3)), terms)

    def iteration(self):
        """Gradient descent with the step 1/L, L = the largest eigenvalue of A^T A / (4 n) plus the largest l2."""

        def bound(v):
            return (self.A @ v) @ self.A / (4 * self.A.shape[0])

        curvature = linear_solvers.largest_eigenvalue(bound, jnp.zeros(self.A.shape[1]))
        return descent(self, self.first(None), curvature)

    def _bend(self, x):
        """The curvature of each row's loss in its prediction."""
        chance = jax.nn.sigmoid(self.A @ x)
        return chance * (1 - chance) / self.A.shape[0]

    def _pull(self, x):
        """The slope of each row's loss in its prediction."""
        return -self.labels * jax.nn.sigmoid(-self.labels * (self.A @ x)) / self.A.shape[0]

    def _decay(self, theta):
        l2 = jnp.asarray(theta["l2"])
        if not self.intercept:
            return l2
        p = self.A.shape[1] - 1
        return jnp.append(jnp.broadcast_to(l2, (p,)), 0.0)


def _with_ones(A):
    if isinstance(A, Sparse):
        return Sparse.from_scipy(scipy.sparse.hstack([A.to_scipy(), np.ones((A.shape[0], 1))]))
    return jnp.concatenate([A, jnp.ones((A.shape[0], 1), A.dtype)], axis=1)
