"""Any smooth loss as a lower level."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invhyper.iterations.optimisers import GradientDescent
from invhyper.iterations.schedules import Constant
from invhyper.lower.minimum import Minimum


class Smooth(Minimum):
    """The minimiser of a twice-differentiable loss.

        x*(theta) = argmin_x loss(x, theta),   R = grad_x loss,   A = the Hessian

    **Arguments**: `loss(x, theta)`: a JAX function that returns a scalar; arrays it closes over are constants (give
    data that is to be differentiated as part of theta, or as an `eqx.Module` with a `__call__`). `start`: x of a cold
    solve, any tree of floating-point arrays; `max_steps`: of L-BFGS and Newton together; `step`: of
    gradient descent, for `Unrolled`. theta is any tree.

    The error of a solution is |R| relative to the larger of |A x| and |A (x - start)|; at a tolerance of 1e-6 or below,
    Newton steps go on to rounding. Raises ValueError for a loss that is not a scalar or a start that is not finite. A
    solve ends in `NotConverged` at NaN, and at a stationary point whose Hessian is not positive definite.

    >>> import jax.numpy as jnp, invhyper as ih
    >>> lower = ih.Smooth(lambda x, theta: jnp.sum((x - theta["a"]) ** 4 + (x - 1) ** 2), start=jnp.zeros(1))
    >>> print(ih.solve(lower, {"a": 2.0}).x.round(6))
    [1.410245]

    Liu and Nocedal (1989), doi:10.1007/BF01589116; Dembo, Eisenstat and Steihaug (1982), doi:10.1137/0719025.
    """

    loss_function: Callable
    start: PyTree
    max_steps: int = eqx.field(static=True)
    step: float | None

    def __init__(self, loss: Callable, start: PyTree, *, max_steps: int = 1000, step: float | None = None):
        if not callable(loss):
            raise ValueError(f"Smooth wants a function loss(x, theta); it was given a {type(loss).__name__}")
        self.loss_function, self.max_steps, self.step = loss, max_steps, step
        self.start = jax.tree.map(_start_leaf, start)
        if not jax.tree.leaves(self.start):
            raise ValueError("Smooth start holds no array: x needs at least one number")

    def first(self, theta):
        return self.start

    def objective(self, x, theta):
        value = self.loss_function(x, theta)
        if jnp.shape(value) != ():
            raise ValueError(
                f"the loss of Smooth returned shape {jnp.shape(value)}: a scalar is wanted (sum or mean it)"
            )
        return value

    def iteration(self):
        """Gradient descent with the constant `step`."""
        if self.step is None:
            raise TypeError("Smooth knows no safe step for gradient descent: give one, Smooth(loss, start, step=0.1)")
        return GradientDescent(self.loss_function, self.start, Constant(self.step))


def _start_leaf(leaf):
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    leaf = np.asarray(leaf)
    leaf = leaf if leaf.dtype == np.float32 else leaf.astype(float)
    if not np.all(np.isfinite(leaf)):
        raise ValueError("Smooth start holds NaN or infinity: give finite numbers")
    return jnp.asarray(leaf)
