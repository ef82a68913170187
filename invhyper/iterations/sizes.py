"""|A|^2, and upper bounds of it, which the steps of a first-order method may not exceed."""

import jax
import jax.numpy as jnp
import numpy as np

from invhyper.linear_solvers import largest_eigenvalue
from invhyper.operators import Operator


def size_bound(operator: Operator):
    """At least the largest eigenvalue of A^T A: exact where a transform diagonalises it, |A|_1 |A|_inf for a sparse
    matrix, a power iteration with a few percent on top else (its operator must be concrete).

    >>> import invhyper as ih
    >>> print(round(float(size_bound(ih.Differences((9, 9), boundary="periodic"))), 2), size_bound(ih.Identity((3,))))
    7.76 1.0
    """
    top = size_of_symbol(operator)
    if top is not None:
        return top
    try:
        matrix = abs(operator.to_scipy())
    except TypeError:
        return 1.05 * size_of(operator, steps=60, margin=1.02)
    return float(_largest(matrix.sum(axis=0)) * _largest(matrix.sum(axis=1))) or 1.0


def size_of(operator: Operator, steps: int = 40, margin: float = 1.0) -> float:
    """The largest eigenvalue of A^T A, by power iteration in NumPy from a fixed start, times `margin`; 1 for A = 0."""
    like = np.zeros(operator.shape_in)
    return largest_eigenvalue(lambda v: np.asarray(operator.rmv(operator.mv(v))), like, steps, margin)


def size_of_symbol(operator: Operator):
    """The largest eigenvalue of A^T A from its symbol; None where there is none."""
    for boundary in ("neumann", "periodic"):
        symbol = operator.symbol(boundary)
        if symbol is not None:
            return jnp.max(symbol) if isinstance(symbol, jax.Array) else float(np.max(symbol))
    return None


def _largest(sums):
    return np.max(np.asarray(sums), initial=0.0)
