"""Any optax transformation as an iteration, with hyperparameters of its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import jit_p, sqrt_p

from invhyper.iterations.optimisers import Optimiser, root


class Optax(Optimiser):
    """The steps of an optax transformation that is built from theta.

        u_t, s_{t+1} = transform(theta).update(grad_x loss(x_t, theta), s_t, x_t),   x_{t+1} = x_t + u_t

    Square roots inside the transformation have the derivative 0 at 0: a coordinate whose gradients were all zero would
    else make the hypergradient of Adam and its relatives NaN.

    **Arguments**: `loss`, `start`, `batches`: as for `GradientDescent`; `transform(theta)`: returns the
    `optax.GradientTransformation`.

    >>> import jax.numpy as jnp, numpy as np, optax, invhyper as ih
    >>> run = ih.Optax(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(2), lambda theta: optax.adam(theta["alpha"]))
    >>> found = ih.Unrolled(1)(ih.Bilevel(run, lambda x, theta: jnp.sum(x)), {"alpha": 0.1})
    >>> print(found.solution.x.round(6), round(float(found.gradient["alpha"]), 6))
    [0.9 0.9] -2.0

    Babuschkin et al. (2020), The DeepMind JAX Ecosystem, github.com/google-deepmind/optax.
    """

    transform: Callable

    def __init__(self, loss: Callable, start: Any, transform: Callable, *, batches: Any = None):
        super().__init__(loss, start, batches=batches)
        if not callable(transform):
            kind = type(transform).__name__
            raise TypeError(
                f"Optax wants a function transform(theta) that returns a transformation; it was given a {kind}"
            )
        self.transform = transform

    @property
    def stationary(self):
        return False

    def first(self, x):
        return x, None

    def init(self, theta, start=None):
        x, _ = super().init(theta, start)
        state = self._built(theta).init(x)
        return x, jax.tree.map(jnp.asarray, state)

    def step(self, state, theta, t):
        x, inner = state

        def update(x, inner, theta, t):
            value, g = jax.value_and_grad(self.at)(x, theta, t)
            extra = {"value": value, "grad": g, "value_fn": lambda x: self.at(x, theta, t)}
            moves, inner = self._built(theta).update(g, inner, x, **extra)
            return jax.tree.map(lambda x, move: x + move, x, moves), inner

        x, inner = _with_safe_roots(update)(x, inner, theta, t)
        return jax.tree.map(lambda old, new: new.astype(old.dtype), state, (x, inner))

    def output(self, state):
        return state[0]

    def _built(self, theta):
        transform = self.transform(theta)
        if not hasattr(transform, "init") or not hasattr(transform, "update"):
            kind = type(transform).__name__
            raise TypeError(f"Optax transform(theta) returned a {kind}: an optax.GradientTransformation is wanted")
        return optax.with_extra_args_support(transform)


def _with_safe_roots(function: Callable) -> Callable:
    """The same function with `root` in place of every square root."""

    def safe(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        flat = _evaluated(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return safe


def _evaluated(closed: ClosedJaxpr, args: list) -> list:
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        if equation.primitive is sqrt_p:
            found = [root(*given)]
        elif equation.primitive is jit_p:
            found = _evaluated(equation.params["jaxpr"], given)
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            subfuns, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
            found = equation.primitive.bind(*subfuns, *given, **params)
            found = found if equation.primitive.multiple_results else [found]
        values |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]
