"""The door of lower levels that hold a matrix and a target: shapes always, values when they are concrete."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from invhyper.operators.sparse import Sparse


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
