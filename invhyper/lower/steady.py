"""Where a state comes to rest: followed until it hardly moves, then Newton's steps, which carry the derivatives.

f(x) = 0,   L x = L x0,   L: the left null space of df/dx (what the equations conserve)
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from invhyper.lower.rosenbrock import Rodas5P

# A steady state is followed this much more tightly than a trajectory.
SETTLED = 1e-2
# Singular values below this share of the largest are zero: something is conserved.
CONSERVED = 1e-12
# Newton's steps may move by so many times what was left to move: by more where the rest state is not a simple one.
FAR = 1e3
# Each step doubles the order of the derivatives that are right.
NEWTON_STEPS = 2


def settle(
    rhs: Callable, state: PyTree, given: tuple, rtol: Array, atol: Array, max_steps: int
) -> tuple[PyTree, Array, Array]:
    """The rest state of dx/dt = rhs(x, *given) from `state`, whether it was found, and the steps spent.

    Differentiable to second order, in either mode, by the implicit function theorem: where the state is at rest from
    the start as well. What is conserved must be linear in x.
    """
    rtol, atol = SETTLED * rtol, SETTLED * atol
    first, unravel = ravel_pytree(state)
    followed, rested, steps = _followed(rhs, *jax.lax.stop_gradient((state, given)), rtol, atol, max_steps)
    rest = jax.lax.stop_gradient(ravel_pytree(followed)[0])

    def slope(x):
        return ravel_pytree(rhs(unravel(x), *given))[0]

    size = atol + jnp.abs(rest)
    jacobian = jax.lax.stop_gradient(jax.jacfwd(slope)(rest)) * size / size[:, None]
    jacobian = jnp.where(jnp.all(jnp.isfinite(jacobian)), jacobian, jnp.eye(rest.size))
    left, values, _ = jnp.linalg.svd(jacobian)
    left = left * (values <= CONSERVED * values[0])
    kept = left @ left.T / size * size[:, None]  # the projection on what is conserved, in the units of x
    pace = jnp.where(values[0] > 0, values[0], 1.0)

    def newton(x, _):
        matrix = jax.jacfwd(slope)(x) + pace * kept
        return x - jnp.linalg.solve(matrix, slope(x) - pace * kept @ (first - x)), None

    x, _ = jax.lax.scan(newton, rest, length=NEWTON_STEPS)
    near = jnp.all(jnp.abs(x - rest) <= FAR * (atol + rtol * jnp.abs(rest)))
    return unravel(x), rested & near, steps


def _followed(rhs, state, given, rtol, atol, max_steps):
    """The state when over as long again as it has been moving it would move by less than rtol."""

    def at_rest(t, x, args, *, terms, **_):
        moved = jax.tree.map(lambda v, x: jnp.max(jnp.abs(t * v) / (atol + rtol * jnp.abs(x))), rhs(x, *args), x)
        return (t > 0) & (jax.tree.reduce(jnp.maximum, moved) < 1)

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: rhs(x, *args)),
        Rodas5P(),
        0.0,
        jnp.inf,
        None,
        state,
        given,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        event=diffrax.Event(at_rest),
        adjoint=diffrax.ForwardMode(),
        max_steps=max_steps,
        throw=False,
    )
    rested = found.result == diffrax.RESULTS.event_occurred
    return jax.tree.map(lambda leaf: leaf[0], found.ys), rested, found.stats["num_steps"]
