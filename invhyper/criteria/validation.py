"""Criteria from data: distance to a known truth, error on what was held out, and k-fold cross-validation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, PyTree

from invhyper.bilevel import Bilevel
from invhyper.operators.mask import Mask
from invhyper.operators.operator import Composition, Operator
from invhyper.operators.sparse import Sparse, spectral_bound
from invhyper.theta import call
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
    """Half the squared distance to a known x (a batch, or the tuple of a `Together`: the sum).

        C(x) = 1/2 sum |x - truth|^2

    **Arguments**: `truth`: an array of the shape of x, or a tuple of arrays, one a solution. Raises ValueError for NaN
    and for shapes that differ.

    >>> import numpy as np, invhyper as ih
    >>> float(ih.Truth(np.zeros(2))(np.ones(2), {}))
    1.0
    """

    truth: PyTree

    def __init__(self, truth: PyTree):
        advice = "judge by the others, with HeldOut(Mask(keep), truth)"
        self.truth = jax.tree.map(lambda leaf: _finite(leaf, "truth", advice), truth)

    def lipschitz(self, x) -> float:
        """The Lipschitz constant of grad_x C."""
        return 1.0

    def __call__(self, x: PyTree, theta: PyTree) -> Array:
        parts, known = jax.tree.leaves(x), jax.tree.leaves(self.truth)
        if len(parts) != len(known):
            raise ValueError(f"Truth holds {len(known)} arrays, the solution {len(parts)}: one for each is wanted")
        for part, true in zip(parts, known, strict=True):
            if jnp.shape(part) != jnp.shape(true):
                raise ValueError(f"Truth holds shape {jnp.shape(true)}, the solution has shape {jnp.shape(part)}")
        return 0.5 * sum(jnp.sum((part - true) ** 2) for part, true in zip(parts, known, strict=True))


class HeldOut(eqx.Module):
    """Mean loss on what the lower level did not see: rows of a regression, pixels or measurements of an image.

        C(x) = 1/m sum_i loss((A x)_i, y_i)

    **Arguments**: `A`: a matrix (m, p), dense or scipy sparse, with `y` (m,); or an `Operator` from images to
    measurements, or a function theta -> Operator, with `y` of the shape of its output. Of a `Mask`, or of
    `Mask(keep) @ K`, only the entries kept count: they are the m of the mean, and y may hold anything elsewhere (with
    a function of theta, any number). `loss(prediction, y)` per entry; None is the loss of the lower level it meets in
    `Bilevel`: `squared` for regressions and images, `log_loss` for `Logistic` (whose labels 0/1 become -1/+1). If A is
    a matrix and x has p + 1 entries, the last is the intercept. Raises ValueError for shapes, for
    NaN, and for a key that A looks up and theta lacks.

    >>> import numpy as np, invhyper as ih
    >>> float(ih.HeldOut(np.eye(2), np.zeros(2))(np.ones(2), {}))
    1.0
    >>> left_out = ih.Mask(np.array([[True, False], [False, True]]))
    >>> float(ih.HeldOut(left_out, np.array([[0.0, np.nan], [np.nan, 3.0]]))(np.ones((2, 2)), {}))
    2.5
    """

    A: Array | Sparse | Operator | Callable
    y: Array
    loss: Callable | None = eqx.field(static=True)

    def __init__(self, A, y, loss: Callable | None = None):
        if isinstance(A, Operator):
            A = A.at(np.shape(y)) if A.shape_out is None else A
            self.A, self.y, self.loss = A, _measurements(A, y), loss
            return
        if callable(A):
            self.A, self.y, self.loss = A, _finite(y, "y"), loss
            return
        if scipy.sparse.issparse(A):
            A = Sparse.from_scipy(A)
        if not isinstance(A, Sparse):
            A = _finite(A, "A")
        y = _finite(y, "y")
        if len(A.shape) != 2 or y.ndim != 1 or A.shape[0] != y.shape[0]:
            raise ValueError(
                f"HeldOut wants A (m, p) and y (m,); it was given A {tuple(A.shape)} and y {y.shape} (for an image "
                "A is an Operator: Mask, from_scipy)"
            )
        if y.shape[0] == 0:
            raise ValueError("HeldOut was given no rows: at least one is wanted")
        self.A, self.y, self.loss = A, y, loss

    def bind(self, lower) -> "HeldOut":
        """The same criterion with the loss that belongs to `lower`, unless one was chosen."""
        own = getattr(lower, "loss", None)
        return self if self.loss is not None or own is None else HeldOut(self.A, _signs(self.y), own)

    def lipschitz(self, x):
        """A Lipschitz constant of grad_x C, |A|^2 / m times the largest curvature of the loss; None if not known."""
        curvature = {None: 2.0, squared: 2.0, log_loss: 0.25}.get(self.loss)
        if curvature is None or isinstance(self.A, Operator) or callable(self.A) and not isinstance(self.A, Sparse):
            return None
        offset = x.shape[0] - self.A.shape[1]  # an intercept: one more column of ones
        return curvature * (spectral_bound(self.A) ** 2 / self.A.shape[0] + offset)

    def __call__(self, x: Array, theta: PyTree) -> Array:
        if isinstance(self.A, Operator):
            return self._of_image(self.A, x)
        if not isinstance(self.A, Sparse) and callable(self.A):
            return self._of_image(self._at(theta), x)
        p = self.A.shape[1]
        if jnp.shape(x) not in ((p,), (p + 1,)):
            raise ValueError(f"HeldOut has {p} columns in A; the solution has shape {jnp.shape(x)}")
        prediction = self.A @ x[:p] + (x[p] if x.shape[0] == p + 1 else 0.0)
        return jnp.mean((self.loss or squared)(prediction, self.y))

    def _at(self, theta) -> Operator:
        operator = call(self.A, theta, "HeldOut A(theta)")
        if not isinstance(operator, Operator):
            raise TypeError(f"HeldOut A(theta) is a {type(operator).__name__}: an Operator is wanted")
        operator = operator.at(self.y.shape) if operator.shape_out is None else operator
        _check_measured(operator, self.y.shape)
        return operator

    def _of_image(self, operator: Operator, x: Array) -> Array:
        if jnp.shape(x) != tuple(operator.shape_in):
            name = type(operator).__name__
            raise ValueError(
                f"HeldOut holds a {name} of images of shape {tuple(operator.shape_in)}; the solution has shape "
                f"{jnp.shape(x)}"
            )
        losses = (self.loss or squared)(operator.mv(jnp.asarray(x)), self.y)
        keep = _kept(operator)
        return jnp.mean(losses) if keep is None else jnp.sum(jnp.where(keep, losses, 0.0)) / jnp.sum(keep)


def _kept(operator: Operator) -> Array | None:
    """Which measurements a mask in front keeps; None: there is no mask, all count."""
    while isinstance(operator, Composition):
        operator = operator.left
    return operator.keep if isinstance(operator, Mask) else None


def _check_measured(operator: Operator, shape):
    if tuple(operator.shape_out) != tuple(shape):
        raise ValueError(
            f"HeldOut A gives arrays of shape {tuple(operator.shape_out)}; y has shape {tuple(shape)}: they must agree"
        )


def _measurements(operator: Operator, y) -> Array:
    """y of the shape of the operator's output, zero where its mask keeps nothing."""
    _check_measured(operator, np.shape(y))
    keep = _kept(operator)
    return _finite(y if keep is None else jnp.where(keep, jnp.asarray(y), 0), "y")


class Mean(eqx.Module):
    """The mean of criteria, one for each lower level of a `Together`: a training set judged by what each left out.

        C(x) = 1/k sum_f C_f(x_f)

    **Arguments**: `criteria`: one for each lower level, in their order. Raises ValueError for another number of them.

    >>> import numpy as np, invhyper as ih
    >>> left, right = ih.Truth(np.zeros(2)), ih.Truth(np.zeros((3, 3)))
    >>> float(ih.Mean([left, right])((np.ones(2), np.zeros((3, 3))), {}))
    0.5
    """

    criteria: tuple[Callable, ...]

    def __init__(self, criteria):
        self.criteria = tuple(criteria)
        if not self.criteria:
            raise ValueError("Mean was given no criterion: at least one is wanted")

    def __call__(self, x: tuple, theta: PyTree) -> Array:
        if not isinstance(x, tuple) or len(x) != len(self.criteria):
            found = f"{len(x)} solutions" if isinstance(x, tuple) else "one solution, not a tuple"
            raise ValueError(f"Mean holds {len(self.criteria)} criteria and was given {found}: one for each is wanted")
        parts = zip(self.criteria, x, strict=True)
        return sum(criterion(part, theta) for criterion, part in parts) / len(self.criteria)

    def bind(self, lower) -> "Mean":
        """Each criterion bound to its lower level."""
        lowers = getattr(lower, "lowers", None)
        if lowers is None:
            return self
        if len(lowers) != len(self.criteria):
            raise ValueError(
                f"Mean holds {len(self.criteria)} criteria and meets {len(lowers)} lower levels: one for each is wanted"
            )
        pairs = zip(self.criteria, lowers, strict=True)
        return Mean(tuple(c.bind(low) if hasattr(c, "bind") else c for c, low in pairs))

    def check(self, theta: PyTree) -> PyTree:
        """theta seen by each criterion that wants to."""
        for criterion in self.criteria:
            if hasattr(criterion, "check"):
                criterion.check(theta)
        return theta

    def finer(self) -> "Mean":
        """The same with what its criteria simulate at a tenth of the tolerances."""
        return Mean(tuple(c.finer() if hasattr(c, "finer") else c for c in self.criteria))


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
    return Bilevel(Together(lowers), Mean(criteria))


def _finite(value, name: str, advice: str = "remove or mask these entries") -> Array:
    if isinstance(value, jax.core.Tracer):
        return value
    value = jnp.asarray(value)
    value = value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(float)
    if not bool(jnp.all(jnp.isfinite(value))):
        raise ValueError(f"{name} holds NaN or infinity: {advice}")
    return value


def _signs(y: Array) -> Array:
    """Labels as -1/+1: 0/1 are converted, others left for the loss to meet."""
    if isinstance(y, jax.core.Tracer):
        return y
    return jnp.where(y == 0, -1.0, y)
