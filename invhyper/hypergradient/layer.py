"""theta -> x*(theta) as a JAX function: usable under `jax.grad`, `jax.jit` and `jax.vmap`."""

from collections.abc import Callable

from jaxtyping import PyTree

from invhyper.fixed_point import as_lower
from invhyper.hypergradient.implicit import Implicit
from invhyper.problem import Iteration, LowerLevel


def layer(lower: LowerLevel | Iteration, hypergradient=None, *, tol: float = 1e-8) -> Callable[[PyTree], PyTree]:
    """x*(theta) as a differentiable function of theta, and of the data that `lower` holds.

    Host lower levels run in a callback (solve, polish and adjoint in NumPy/SciPy); traced ones are compiled in. The
    cotangents of data are real, or the differentiation is refused in words; they are never a silent zero.

    >>> import jax, numpy as np, invhyper as ih
    >>> x = ih.layer(ih.Ridge(np.eye(2), np.ones(2)))
    >>> print(jax.grad(lambda theta: x(theta).sum())({"l2": 1.0})["l2"])
    -0.5
    """
    hypergradient = Implicit() if hypergradient is None else hypergradient
    return hypergradient.layer(as_lower(lower), tol)
