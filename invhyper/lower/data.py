"""The door of lower levels that hold a matrix and a target: shapes always, values when they are concrete."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from invhyper.operators.sparse import Sparse
from invhyper.problem import Constants


def design_and_target(name: str, A, y, y_name: str = "y"):
    """A (n, p) as a JAX array or `Sparse`, y (n,) as a JAX array; tracers pass with their shapes checked."""
    A = Sparse.from_scipy(A) if scipy.sparse.issparse(A) else A
    A = A if isinstance(A, Sparse) else _array(name, "A", A)
    y = _array(name, y_name, y)
    if len(A.shape) != 2 or y.ndim != 1 or A.shape[0] != y.shape[0]:
        raise ValueError(
            f"{name} wants A (n, p) and {y_name} (n,); it was given A {tuple(A.shape)} and {y_name} {tuple(y.shape)}"
        )
    if 0 in A.shape:
        raise ValueError(f"{name} was given A of shape {tuple(A.shape)}: at least one row and one column is wanted")
    return A, y


def check_weight(theta, key: str, p: int, name: str):
    """theta, if theta[key] is a scalar or has one entry for each of p coefficients; else a ValueError."""
    shape = jnp.shape(theta[key])
    if shape not in ((), (p,)):
        raise ValueError(f"theta {key!r} has shape {shape}: a scalar or ({p},) is wanted in {name}")
    return theta


def nonnegative(theta):
    """The bounds 0 <= theta, as trees like theta."""
    floor = jax.tree.map(lambda leaf: np.zeros(jnp.shape(leaf)), theta)
    return floor, jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), np.inf), theta)


def _array(name, field, value):
    if isinstance(value, jax.core.Tracer):
        return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(float)
    try:
        value = np.asarray(value)
        value = value if value.dtype == np.float32 else value.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} {field} is a {type(value).__name__}: an array of numbers is wanted") from None
    if not np.all(np.isfinite(value)):
        raise ValueError(f"{name} {field} holds NaN or infinity: remove or mask these entries")
    return jnp.asarray(value)


def host_matrix(name: str, A):
    """A (n, p) for NumPy, in Fortran order or a `Sparse` with NumPy leaves; tracers pass with their shapes."""
    if scipy.sparse.issparse(A):
        A = Sparse.from_scipy(A)
    if isinstance(A, Sparse):
        A = A if traced(A) else jax.tree.map(np.asarray, A)
    elif not traced(A):
        A = np.asfortranarray(_real(name, "A", A))
    if len(A.shape) != 2 or 0 in A.shape:
        raise ValueError(f"{name} wants A of shape (n, p), both at least 1; it was given {tuple(A.shape)}")
    _finite(name, "A", A.data if isinstance(A, Sparse) else A)
    return A


def host_vector(name: str, field: str, value, n: int):
    """A vector (n,) for NumPy; tracers pass with their shapes."""
    value = value if traced(value) else _real(name, field, value)
    if value.shape != (n,):
        raise ValueError(
            f"{name} wants {field} of shape ({n},), one entry a row of A; it was given {tuple(value.shape)}"
        )
    _finite(name, field, value)
    return value


def host_weight(name: str, value, n: int):
    """Sample weights (n,) for NumPy: none negative, some positive."""
    value = host_vector(name, "sample_weight", value, n)
    if not traced(value):
        if np.any(value < 0):
            raise ValueError(f"{name} sample_weight holds {value.min():g}: weights of zero or more are wanted")
        if not np.any(value > 0):
            raise ValueError(f"{name} sample_weight is zero for every row: at least one positive weight is wanted")
    return value


def traced(value) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _real(name, field, value):
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} {field} is ragged: an array of numbers is wanted") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} {field} holds entries of type {array.dtype}: real numbers are wanted")
    return array.astype(float, copy=False)


def _finite(name, field, value):
    if not traced(value) and not np.all(np.isfinite(value)):
        raise ValueError(f"{name} {field} holds NaN or infinity: remove or mask these entries")


def decayed(l2, x, curvature, lipschitz_A, rounding) -> Constants:
    """The constants of f(x) + 1/2 sum_j l2_j x_j^2, f convex: B is x or diag(x)."""
    weights = jnp.broadcast_to(l2, x.shape)
    across = jnp.max(jnp.abs(x)) if jnp.ndim(l2) else jnp.linalg.norm(x)
    return Constants(jnp.min(weights), lipschitz_A, 1.0, across, curvature + jnp.max(weights), rounding)
