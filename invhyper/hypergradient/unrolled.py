"""The hypergradient of a finite run in reverse mode: backpropagation through its steps."""

import warnings

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np

from invhyper import tree
from invhyper.hypergradient.run import CHECKPOINTED, STORED, TAPE, Run, check_steps, criterion_of, moved, tape, weight
from invhyper.problem import restart


class Unrolled(Run):
    """The derivative of C(x_T(theta), theta), x_T the output after T steps of an iteration, in reverse mode.

        lambda_T = grad_x C,   lambda_t = (d step_t / d state)^T lambda_{t+1},
        grad F = grad_theta C + sum_t (d step_t / d theta)^T lambda_{t+1}

    It is the exact slope of the run of T steps, whatever its distance to a fixed point; the certificate's
    `lower_residual` is the last relative change of the state. One pass serves any number of hyperparameters.

    **Arguments**: `steps`: the number of steps T, at least 1; `window`: differentiate the last `window` steps alone
    (truncated backpropagation; at a fixed point that is `Neumann(window)`), None: all; `checkpoints`: states that are
    kept at once. Between them steps are computed again, in binomial fashion, so that memory grows like their number.
    None keeps all it needs of every step up to 32 MiB, else the states alone up to 256 MiB, else as many of them as fit
    there, about sqrt(2 T) at least.

    **Calling** is as for `Implicit`; a `warm` evaluation starts the run at its x. Raises TypeError if the lower level
    has no iteration; `NotConverged` if the run left the finite numbers: it says at which step, and carries the
    hypergradient of the longest finite run (`evaluation`). `tol` is not asked of it. Warns where few hyperparameters
    and a long tape make `Forward` cheaper.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> round(float(ih.Unrolled(50)(problem, {"l2": 1.0}).gradient["l2"]), 6)
    0.25

    Franceschi et al. (2017), proceedings.mlr.press/v70/franceschi17a; windows: Shaban et al. (2019),
    proceedings.mlr.press/v89/shaban19a; checkpoints: Stumm and Walther (2010), doi:10.1137/080742439.
    """

    steps: int
    window: int | None = None
    checkpoints: int | None = None

    def __check_init__(self):
        check_steps("Unrolled", self.steps)
        if self.window is not None:
            check_steps("Unrolled", self.window, "window")
            if self.window > self.steps:
                raise ValueError(
                    f"Unrolled window = {self.window} is longer than its steps = {self.steps}: a number up to "
                    "that, or None for all, is wanted"
                )
        if self.checkpoints is not None:
            check_steps("Unrolled", self.checkpoints, "checkpoints")

    def differentiated(self, problem, theta, start, stop, tol):
        return _evaluate(self, problem, theta, start, stop)

    def layer(self, lower, tol: float = 1e-8):
        """theta -> x_T(theta), differentiable by JAX itself, in reverse mode."""
        lower.iteration()

        def run(theta):
            theta = lower.check(theta)
            lower.check_run(theta, self.steps)
            return _run(self, lower, theta, None, None)[0]

        return run


@eqx.filter_jit
def _evaluate(method, problem, theta, start, stop):
    def criterion(theta):
        x, change, steps = _run(method, problem.lower, theta, start, stop)
        return criterion_of(problem, x, theta), (x, change, steps)

    (value, (x, change, steps)), gradient = jax.value_and_grad(criterion, has_aux=True)(theta)
    return value, x, change, gradient, steps


def _run(method, lower, theta, start, stop):
    """x_T, the last change and T; `stop`: end there if that is earlier."""
    iteration = lower.iteration()
    state = iteration.init(theta, restart(lower, theta, start))
    change = jnp.zeros((), jnp.result_type(*jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))))
    last = method.steps if stop is None else stop
    first = 0
    if method.window is not None and method.window < method.steps:
        first = jnp.maximum(last - method.window, 0)
        held, state = jax.lax.stop_gradient((theta, state))

        def unseen(t, carry):
            after = iteration.step(carry[0], held, t)
            return after, moved(after, carry[0])

        state, change = jax.lax.stop_gradient(jax.lax.fori_loop(0, first, unseen, (state, change)))

    def step(carry, t):
        state, _ = carry
        after = iteration.step(state, theta, t)
        return after, moved(after, state)

    seen = method.steps if method.window is None else method.window
    checkpoints = _plan(method, iteration, state, theta, seen)
    if stop is None and checkpoints is None:
        carry, _ = jax.lax.scan(lambda carry, t: (step(carry, t), None), (state, change), first + jnp.arange(seen))
    elif stop is None and checkpoints >= seen:
        again = jax.checkpoint(lambda carry, t: (step(carry, t), None))
        carry, _ = jax.lax.scan(again, (state, change), first + jnp.arange(seen))
    else:
        state, change, _ = eqxi.while_loop(
            lambda carry: carry[2] < last,
            lambda carry: (*step(carry[:2], carry[2]), carry[2] + 1),
            (state, change, jnp.asarray(first, int)),
            max_steps=seen,
            kind="checkpointed",
            checkpoints=checkpoints,
        )
        carry = state, change
    state, change = carry
    return iteration.output(state), change, jnp.asarray(last)


def _plan(method, iteration, state, theta, steps) -> int | None:
    """How many states to keep; None: all that the transposed steps need, and no step is computed twice."""
    if method.checkpoints is not None:
        return method.checkpoints
    each = tape(iteration, state, theta)
    if steps * each <= TAPE:
        return None
    least = int(np.ceil(np.sqrt(2 * steps)))
    few, kept = tree.size(theta), min(steps, max(least, STORED // max(weight(state), 1)))
    if 1 + few < CHECKPOINTED and kept < steps:
        mib = 2.0**-20
        warnings.warn(
            f"Unrolled({method.steps}) would keep {steps * weight(state) * mib:.0f} MiB of states and computes steps "
            f"again instead, about {CHECKPOINTED} times the work of the run; Forward({method.steps}) carries {few} "
            f"tangent{'s' * (few > 1)}, about {1 + few} times the run and {(1 + few) * weight(state) * mib:.1f} MiB",
            stacklevel=2,
        )
    return kept
