"""Criteria from data: distance to a known truth, error on held-out rows, and k-fold cross-validation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, PyTree

from invhyper.operators.sparse import Sparse
from invhyper.problem import Bilevel
from invhyper.together import Together


def squared(prediction: Array, y: Array) -> Array:
    """Squared error of each row: (prediction - y)^2.

    >>> import numpy as np, invhyper as ih
    >>> ih.squared(np.array([1.0, 3.0]), np.ones(2)).tolist()
    [0.0, 4.0]
    """
    return (prediction - y) ** 2


def log_loss(prediction: Array, y: Array) -> Array:
    """Logistic loss of each row, log(1 + exp(-y prediction)), for y = +-1.

    >>> import numpy as np, invhyper as ih
    >>> ih.log_loss(np.array([0.0, 2.0]), np.array([1.0, -1.0])).round(6).tolist()
    [0.693147, 2.126928]
    """
    return jnp.logaddexp(0.0, -y * prediction)


class Truth(eqx.Module):
    """Half the squared distance to a known x (a batch: the sum).

        C(x) = 1/2 sum |x - truth|^2

    >>> import numpy as np, invhyper as ih
    >>> float(ih.Truth(np.zeros(2))(np.ones(2), {}))
    1.0
    """

    truth: PyTree

    def __init__(self, truth: PyTree):
        self.truth = jax.tree.map(lambda leaf: _finite(leaf, "truth"), truth)

    def __call__(self, x: PyTree, theta: PyTree) -> Array:
        for part, known in zip(jax.tree.leaves(x), jax.tree.leaves(self.truth), strict=True):
            if jnp.shape(part) != jnp.shape(known):
                raise ValueError(f"Truth holds shape {jnp.shape(known)}, the solution has shape {jnp.shape(part)}")
        return 0.5 * sum(
            jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(self.truth), strict=True)
        )


class HeldOut(eqx.Module):
    """Mean loss on rows that the lower level did not see.

        C(x) = 1/m sum_i loss(a_i . x, y_i)

    **Arguments**: `A` (m, p), dense or scipy sparse; `y` (m,); `loss(prediction, y)` per row. None is the loss of the
    lower level it meets in `Bilevel`: `squared` for regressions, `log_loss` for `Logistic` (whose labels 0/1 become
    -1/+1). If x has p + 1 entries the last is the intercept. Raises ValueError for shapes and for NaN.

    >>> import numpy as np, invhyper as ih
    >>> float(ih.HeldOut(np.eye(2), np.zeros(2))(np.ones(2), {}))
    1.0
    """

    A: Array | Sparse
    y: Array
    loss: Callable | None = eqx.field(static=True)

    def __init__(self, A, y, loss: Callable | None = None):
        if scipy.sparse.issparse(A):
            A = Sparse.from_scipy(A)
        if not isinstance(A, Sparse):
            A = _finite(A, "A")
        y = _finite(y, "y")
        if len(A.shape) != 2 or y.ndim != 1 or A.shape[0] != y.shape[0]:
            raise ValueError(f"HeldOut wants A (m, p) and y (m,); it was given A {tuple(A.shape)} and y {y.shape}")
        if y.shape[0] == 0:
            raise ValueError("HeldOut was given no rows: at least one is wanted")
        self.A, self.y, self.loss = A, y, loss

    def bind(self, lower) -> "HeldOut":
        """The same criterion with the loss that belongs to `lower`, unless one was chosen."""
        own = getattr(lower, "loss", None)
        return self if self.loss is not None or own is None else HeldOut(self.A, _signs(self.y), own)

    def __call__(self, x: Array, theta: PyTree) -> Array:
        p = self.A.shape[1]
        if x.shape not in ((p,), (p + 1,)):
            raise ValueError(f"HeldOut has {p} columns in A; the solution has shape {x.shape}")
        prediction = self.A @ x[:p] + (x[p] if x.shape[0] == p + 1 else 0.0)
        return jnp.mean((self.loss or squared)(prediction, self.y))


class Mean(eqx.Module):
    """The mean of criteria, one for each lower level of a `Together`."""

    criteria: tuple[Callable, ...]

    def __call__(self, x: tuple, theta: PyTree) -> Array:
        parts = zip(self.criteria, x, strict=True)
        return sum(criterion(part, theta) for criterion, part in parts) / len(self.criteria)

    def bind(self, lower) -> "Mean":
        """Each criterion bound to its lower level."""
        pairs = zip(self.criteria, lower.lowers, strict=True)
        return Mean(tuple(c.bind(low) if hasattr(c, "bind") else c for c, low in pairs))


def KFold(make_lower: Callable, A, y, folds: int = 5, seed: int = 0, loss: Callable | None = None) -> Bilevel:
    """k-fold cross-validation as a bilevel problem: one lower level a fold, the mean of their held-out errors above.

        F(theta) = 1/k sum_f HeldOut(A_f, y_f)(x_f*(theta)),   x_f* fitted on the rows outside fold f

    **Arguments**: `make_lower(A, y)` builds a lower level; `A` (n, p), `y` (n,); the rows are shuffled by `seed`.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.KFold(ih.Ridge, np.eye(4), np.ones(4), folds=2)
    >>> problem.value({"l2": 1.0})
    1.0
    """
    n = A.shape[0]
    if not isinstance(folds, int | np.integer) or not 2 <= folds <= n:
        raise ValueError(f"KFold folds = {folds!r}: a whole number between 2 and the number of rows, {n}, is wanted")
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"KFold wants y of shape ({n},); it was given {y.shape}")
    A = A.tocsr() if scipy.sparse.issparse(A) else np.asarray(A)
    lowers, criteria = [], []
    for held in np.array_split(np.random.default_rng(seed).permutation(n), folds):
        kept = np.setdiff1d(np.arange(n), held)
        lowers.append(make_lower(A[kept], y[kept]))
        criteria.append(HeldOut(A[held], y[held], loss))
    return Bilevel(Together(lowers), Mean(tuple(criteria)))


def _finite(value, name: str) -> Array:
    if isinstance(value, jax.core.Tracer):
        return value
    value = jnp.asarray(value)
    value = value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(float)
    if not bool(jnp.all(jnp.isfinite(value))):
        raise ValueError(f"{name} holds NaN or infinity: remove or mask these entries")
    return value


def _signs(y: Array) -> Array:
    """Labels as -1/+1: 0/1 are converted, others left for the loss to meet."""
    if isinstance(y, jax.core.Tracer):
        return y
    return jnp.where(y == 0, -1.0, y)
