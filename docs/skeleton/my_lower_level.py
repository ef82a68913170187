"""A lower level to copy: x*(theta) from its residual, solved by a Newton iteration of optimistix.

    x*(theta) = argmin_x  1/2 |x - y|^2 + smooth/2 |D x|^2 + cap sum_j (x_j / height)^4

Signals between hard limits: a smoothness penalty on the differences D x, and a soft wall at +-height. Replace the
objective by your own; the rest can stay as it is.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float

import invhyper as ih
from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, NOT_FINITE


class SmoothedSignal(ih.LowerLevel):
    """A smoothed signal between soft walls: one sentence, then the equation of the module docstring.

    **Arguments**: `y` (n,): the signal, in its own unit; `height`: the soft wall, same unit.
    theta = {"smooth", "cap"}, both at least 0. Raises ValueError for NaN.

    >>> lower = SmoothedSignal(np.array([0.0, 1.0, 0.0]))
    >>> ih.solve(lower, {"smooth": 1.0, "cap": 0.0}).x.round(4).tolist()
    [0.25, 0.5, 0.25]
    """

    # What the rest of the library asks of a class: theta's keys, and what it may know about A (here: a Hessian).
    keys: ClassVar = ("smooth", "cap")
    tags: ClassVar = lx.positive_semidefinite_tag

    # Fields: arrays are leaves (differentiable, never compiled in); settings are static.
    y: Float[Array, " n"]
    height: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(self, y, height: float = 2.0, max_steps: int = 100):
        # Values are checked where they are concrete: under jit, vmap or grad they are tracers.
        if not isinstance(y, jax.core.Tracer) and not np.all(np.isfinite(y)):
            raise ValueError("y holds NaN or infinity: remove or mask these entries")
        self.y, self.height, self.max_steps = jnp.asarray(y, float), height, max_steps

    def bounds(self, theta):
        zero, infinite = np.zeros(()), np.full((), np.inf)
        return {"smooth": zero, "cap": zero}, {"smooth": infinite, "cap": infinite}

    def objective(self, x, theta):
        fit = 0.5 * jnp.sum((x - self.y) ** 2) + 0.5 * theta["smooth"] * jnp.sum(jnp.diff(x) ** 2)
        return fit + theta["cap"] * jnp.sum((x / self.height) ** 4)

    def residual(self, x, theta):
        return jax.grad(self.objective)(x, theta)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        scale = jnp.linalg.norm(self.residual(jnp.zeros_like(self.y), theta))
        scale = jnp.where(scale == 0, 1.0, scale)
        guess = self.y if start is None else start.x
        found = optx.root_find(
            lambda x, theta: self.residual(x, theta) / scale,
            optx.Newton(rtol=tol, atol=tol),
            guess,
            theta,
            max_steps=self.max_steps,
            throw=False,
        )
        # The derivative comes from the residual, never from differentiating the solver.
        x = jax.lax.stop_gradient(found.value)
        # Report the error that was reached, relative to the scale of R's terms, not the tolerance that was asked for.
        error = jnp.linalg.norm(self.residual(x, theta)) / scale
        code = jnp.where(error <= tol, CONVERGED, ABOVE_TOLERANCE)
        code = jnp.where(jnp.isfinite(error), code, NOT_FINITE)
        return ih.Solution(x, error, found.stats["num_steps"], code)

    def cold_start(self, theta):
        return ih.Solution(self.y)
