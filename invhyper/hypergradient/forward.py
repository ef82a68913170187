"""The hypergradient of a run in forward mode: tangents carried along with the steps."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from invhyper import tree
from invhyper.fixed_point import no_fixed_point
from invhyper.hypergradient.run import (
    CHECKPOINTED,
    STORED,
    TAPE,
    TAPED,
    Run,
    check_steps,
    criterion_of,
    moved,
    name_of,
    tape,
    weight,
)
from invhyper.problem import NotConverged, restart


class Forward(Run):
    """The derivative of C(x_T(theta), theta) in forward mode: one tangent of the state for each number of theta.

        s_{t+1} = (d step / d state) s_t + d step / d theta,   grad F = grad_theta C + (d x_T / d s_T s_T)^T grad_x C

    The numbers are those of `Unrolled`; memory does not depend on T, work and memory grow with the size of theta.

    **Arguments**: `steps`: T, at least 1; None goes on until state and tangents have come to rest to `tol`, at most
    `max_steps` (for iterations with a fixed point).

    **Calling** is as for `Unrolled`. Warns where theta is so large that `Unrolled` is cheaper.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> [round(float(ih.Forward(steps)(problem, {"l2": 1.0}).gradient["l2"]), 6) for steps in (50, None)]
    [0.25, 0.25]

    Franceschi et al. (2017), proceedings.mlr.press/v70/franceschi17a; to the limit: Griewank and Faure (2002),
    doi:10.1023/A:1020848710582.
    """

    steps: int | None = None
    max_steps: int = 100_000

    def __check_init__(self):
        if self.steps is not None:
            check_steps("Forward", self.steps)
        check_steps("Forward", self.max_steps, "max_steps")

    @property
    def of_a_run(self):
        """The value of a run of given length is known to rounding; that of the limit, to `tol`."""
        return self.steps is not None

    @property
    def most(self):
        return self.max_steps if self.steps is None else self.steps

    def __call__(self, problem, theta, *, warm=None, tol=1e-8, throw=True):
        if self.steps is None:
            iteration = problem.lower.iteration()
            if iteration.varies(theta):
                raise ValueError(f"{no_fixed_point(iteration)}; Forward() goes on to the fixed point: give its steps")
        evaluation = super().__call__(problem, theta, warm=warm, tol=tol, throw=throw)
        change = evaluation.certificate.lower_residual
        if throw and self.steps is None and not change <= tol:
            raise NotConverged(
                f"{name_of(problem.lower)}: state or tangents still moved by {change:.1e} after {self.max_steps} "
                f"steps, above tol {tol:.1e}: raise max_steps or loosen tol",
                evaluation,
            )
        return evaluation

    def differentiated(self, problem, theta, start, stop, tol):
        return _evaluate(self, problem, theta, start, stop, tol)

    def layer(self, lower, tol: float = 1e-8):
        """theta -> x_T(theta), for JAX to differentiate in forward mode (`jax.jvp`, `jax.jacfwd`)."""
        lower.iteration()
        if self.steps is None:
            raise ValueError("layer(lower, Forward()) runs no number of steps: give Forward(steps)")

        def run(theta):
            theta = lower.check(theta)
            lower.check_run(theta, self.steps)
            iteration = lower.iteration()
            state = iteration.init(theta, restart(lower, theta, None))
            end = jax.lax.fori_loop(0, self.steps, lambda t, state: iteration.step(state, theta, t), state)
            return iteration.output(end)

        return run


@eqx.filter_jit
def _evaluate(method, problem, theta, start, stop, tol):
    iteration = problem.lower.iteration()
    flat, unravel = ravel_pytree(theta)
    directions = jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype))

    def along(function, state, tangents):
        """function(state, theta) and its derivative along every tangent of the state and its direction of theta."""
        moving, counters = eqx.partition(state, eqx.is_inexact_array)

        def parted(moving, theta):
            return eqx.partition(function(eqx.combine(moving, counters), theta), eqx.is_inexact_array)

        def one(tangent, direction):
            return jax.jvp(parted, (moving, theta), (tangent, direction), has_aux=True)

        after, along_after, counted = jax.vmap(one, out_axes=(None, 0, None))(tangents, directions)
        return eqx.combine(after, counted), along_after

    nothing = jnp.zeros(())
    state, tangents = along(
        lambda _, theta: iteration.init(theta, restart(problem.lower, theta, start)), nothing, jnp.zeros(flat.size)
    )
    if method.steps is not None:
        _warn(method, iteration, state, theta)
    last = method.most if stop is None else stop

    def going(carry):
        _, _, change, t = carry
        return (t < last) & ((change > tol) if method.steps is None else True)

    def step(carry):
        state, tangents, _, t = carry
        after, along_after = along(lambda state, theta: iteration.step(state, theta, t), state, tangents)
        change = moved(after, state)
        if method.steps is None:
            change = jnp.maximum(change, jnp.max(jax.vmap(moved)(along_after, tangents)))
        return after, along_after, change, t + 1

    # In the precision that a step finds it in, whatever those of x and theta are.
    change = jnp.full((), jnp.inf, jax.eval_shape(step, (state, tangents, None, jnp.zeros((), int)))[2].dtype)
    state, tangents, change, steps = jax.lax.while_loop(going, step, (state, tangents, change, jnp.zeros((), int)))
    x = iteration.output(state)
    value, slopes = along(lambda state, theta: criterion_of(problem, iteration.output(state), theta), state, tangents)
    return value, x, change, unravel(slopes), steps


def _warn(method, iteration, state, theta):
    """Says in numbers when reverse mode would be cheaper."""
    many, each = tree.size(theta), tape(iteration, state, theta)
    states = method.steps * weight(state)
    reverse = TAPED if states <= STORED else CHECKPOINTED
    if 1 + many > 2 * reverse:
        mib = 2.0**-20
        memory = method.steps * each if method.steps * each <= TAPE else min(states, STORED)
        warnings.warn(
            f"Forward({method.steps}) carries {many} tangents, about {1 + many} times the work of the run and "
            f"{(1 + many) * weight(state) * mib:.1f} MiB; Unrolled({method.steps}) takes about {reverse} times the run "
            f"and {memory * mib:.1f} MiB",
            stacklevel=2,
        )
