"""Any optax transformation as an iteration, with hyperparameters of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import cond_p, div_p, jit_p, rsqrt_p, scan_p, sqrt_p, while_p

from invhyper.iterations.optimisers import Optimiser, root
from invhyper.theta import call


class Optax(Optimiser):
    """The steps of an optax transformation that is built from theta.

        u_t, s_{t+1} = transform(theta).update(grad_x loss(x_t, theta), s_t, x_t),   x_{t+1} = x_t + u_t

    Square roots inside the transformation have the derivative 0 at 0, quotients where their divisor is 0 (and 0 / 0 is
    0): a coordinate, or a step, whose gradients were all zero would else make the hypergradient of Adam and its
    relatives, of clipping and of normalising NaN.

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
        value, g = jax.value_and_grad(self.at)(x, theta, t)

        def update(value, g, x, inner, theta, t):
            extra = {"value": value, "grad": g, "value_fn": lambda x: self.at(x, theta, t)}
            moves, inner = self._built(theta).update(g, inner, x, **extra)
            return jax.tree.map(lambda x, move: x + move, x, moves), inner

        x, inner = _with_finite_slopes(update)(value, g, x, inner, theta, t)
        return jax.tree.map(lambda old, new: new.astype(old.dtype), state, (x, inner))

    def output(self, state):
        return state[0]

    def _built(self, theta):
        transform = call(self.transform, theta, "transform(theta)")
        if not hasattr(transform, "init") or not hasattr(transform, "update"):
            kind = type(transform).__name__
            raise TypeError(f"Optax transform(theta) returned a {kind}: an optax.GradientTransformation is wanted")
        return optax.with_extra_args_support(transform)


def _with_finite_slopes(function: Callable) -> Callable:
    """The same function, whose square roots and quotients have the derivative 0 where it would be infinite."""

    def safe(*args):
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        flat = _evaluated(closed, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), flat)

    return safe


def _evaluated(closed: ClosedJaxpr, *args) -> list:
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        given, rule = [read(atom) for atom in equation.invars], _RULES.get(equation.primitive)
        if rule is not None and _has_poles(equation):
            found = rule(equation.params, given)
        else:
            bound = equation.primitive.get_bind_params(equation.params)
            subfuns, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
            found = equation.primitive.bind(*subfuns, *given, **params)
            found = found if equation.primitive.multiple_results else [found]
        values |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _has_poles(equation) -> bool:
    """Whether an equation is a square root or a quotient, or a call, a branch or a loop around one."""
    if equation.primitive in (sqrt_p, rsqrt_p, div_p):
        # Divided by a number, or of integers: it stays as it is.
        return not isinstance(equation.invars[-1], Literal) and jnp.issubdtype(equation.invars[-1].aval.dtype, float)
    held = [part for part in jax.tree.leaves(list(equation.params.values())) if isinstance(part, ClosedJaxpr)]
    return any(_has_poles(inner) for part in held for inner in part.jaxpr.eqns)


def _root_of_inverse(params, given):
    """1 / sqrt(v), infinite at 0 with the derivative 0."""
    (v,) = given
    return [jnp.where(v == 0, jnp.inf, 1.0 / root(jnp.where(v == 0, 1.0, v))).astype(v.dtype)]


def _quotient(params, given):
    """a / b, with the derivative 0 where b is 0; there it is infinite, or 0 if a is 0 too: a branch that is not taken
    must not be NaN, for 0 times it is NaN in the derivative."""
    a, b = given
    infinite = (b == 0) & (a != 0)
    safe = jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))
    return [jnp.where(infinite, jax.lax.stop_gradient(a / b), safe).astype(a.dtype)]


def _branches(params, given):
    return jax.lax.switch(given[0], [partial(_evaluated, branch) for branch in params["branches"]], *given[1:])


def _scan(params, given):
    held, carried = params["num_consts"], params["num_carry"]
    consts, start, rows = given[:held], given[held : held + carried], given[held + carried :]

    def step(carry, row):
        found = _evaluated(params["jaxpr"], *consts, *carry, *row)
        return found[:carried], found[carried:]

    settings = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, found = jax.lax.scan(step, start, rows, **settings)
    return [*carry, *found]


def _while(params, given):
    of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
    test, body, start = given[:of_test], given[of_test : of_test + of_body], given[of_test + of_body :]
    return jax.lax.while_loop(
        lambda carry: _evaluated(params["cond_jaxpr"], *test, *carry)[0],
        lambda carry: _evaluated(params["body_jaxpr"], *body, *carry),
        start,
    )


# What is evaluated anew, and what may hold such an equation.
_RULES = {
    sqrt_p: lambda params, given: [root(*given)],
    rsqrt_p: _root_of_inverse,
    div_p: _quotient,
    jit_p: lambda params, given: _evaluated(params["jaxpr"], *given),
    cond_p: _branches,
    scan_p: _scan,
    while_p: _while,
}
