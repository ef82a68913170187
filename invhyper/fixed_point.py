"""Iterations as lower levels: the fixed point of one that has it, the finite run of one that has not."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from invhyper import tree
from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, NOT_FINITE, Iteration, Linearisation, LowerLevel, Solution
from invhyper.theta import check_theta


class Process(LowerLevel):
    """An iteration as a lower level without a fixed point: x is where a finite run of it ends.

    `Bilevel` makes one of an iteration whose steps depend on t. It solves nothing: `Unrolled` and `Forward` run it.
    """

    iterate: Iteration

    def iteration(self):
        return self.iterate

    def bounds(self, theta):
        return self.iterate.bounds(theta)

    def check(self, theta):
        theta = check_theta(self, theta, type(self.iterate).__name__)
        self.iterate.check(theta)
        return theta

    def check_run(self, theta, steps):
        self.iterate.check(theta, steps)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        raise ValueError(no_fixed_point(self.iterate))

    def linearise(self, solution, theta):
        raise ValueError(no_fixed_point(self.iterate))


class FixedPoint(Process):
    """The fixed point of a stationary iteration as a lower level, differentiated without unrolling.

        R(state, theta) = state - step(state, theta),   x = output(state),   A = I - d step / d state

    A is singular where the state has free directions that do not show in x (dual variables that are not unique): its
    adjoint system has solutions all the same, and GMRES or Neumann(terms, step=1.0) find one.

    **Arguments**: `iteration`: an `Iteration` with `stationary = True`; `max_steps`: steps before it gives up.
    The error is |step(state) - state| relative to |state|. Raises ValueError for an iteration whose step depends on t.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.FixedPoint(ih.Ridge(np.eye(2), np.ones(2)).iteration())
    >>> print(np.round(ih.solve(lower, {"l2": 1.0}).x, 6))
    [0.5 0.5]
    """

    max_steps: int = eqx.field(static=True, default=100_000)
    tags: ClassVar = ()

    def __check_init__(self):
        if not self.iterate.stationary:
            raise ValueError(no_fixed_point(self.iterate))

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        if self.iterate.varies(theta):
            raise ValueError(no_fixed_point(self.iterate))
        state = self._state(theta, start)
        zero = jnp.zeros((), int)
        held, state = jax.lax.stop_gradient((theta, state))
        # Below a few ulps the state never comes to rest: the error then says how far it is from tol.
        least = jnp.maximum(tol / 4, 4 * jnp.finfo(jnp.result_type(*jax.tree.leaves(state))).eps)

        def moves(carry):
            state, moved, steps = carry
            return (moved > least * tree.norm(state)) & (steps < self.max_steps)

        def step(carry):
            state, _, steps = carry
            new = self.iterate.step(state, held, zero)
            return new, tree.norm(tree.subtract(new, state)), steps + 1

        first = step((state, None, zero))
        state, _, steps = jax.lax.while_loop(moves, step, first)
        moved = tree.norm(tree.subtract(self.iterate.step(state, held, zero), state))
        error = moved / jnp.maximum(tree.norm(state), jnp.finfo(moved.dtype).tiny)
        code = jnp.where(error <= tol, CONVERGED, ABOVE_TOLERANCE)
        code = jnp.where(jnp.isfinite(error), code, NOT_FINITE)
        return Solution(self.iterate.output(state), error, steps, code, state)

    def cold_start(self, theta):
        state = self.iterate.init(theta)
        return Solution(self.iterate.output(state), memo=state)

    def residual(self, x, theta):
        raise TypeError("FixedPoint has its residual in the state of its iteration, not in x: use linearise")

    def defect(self, solution, theta):
        return self._moved(self._state(theta, solution), theta)

    def shifted(self, solution, step):
        if solution.memo is None:
            raise TypeError(
                "FixedPoint needs the state of its iteration here: pass on the Solution that solve returned"
            )
        state = tree.subtract(solution.memo, step)
        return Solution(self.iterate.output(state), memo=state)

    def _moved(self, state, theta):
        return tree.subtract(state, self.iterate.step(state, theta, jnp.zeros((), int)))

    def linearise(self, solution, theta):
        state = self._state(theta, solution)
        _, along_state = jax.linearize(lambda state: self._moved(state, theta), state)
        _, along_theta = jax.linearize(lambda theta: self._moved(state, theta), theta)
        _, output = jax.linearize(self.iterate.output, state)
        back_output, back_theta = jax.linear_transpose(output, state), jax.linear_transpose(along_theta, theta)
        return Linearisation(
            A=lx.FunctionLinearOperator(along_state, jax.eval_shape(lambda: state), self.tags),
            P=output,
            P_transpose=lambda v: back_output(v)[0],
            B=along_theta,
            B_transpose=lambda z: back_theta(z)[0],
            singular=True,
        )

    def _state(self, theta, start):
        if start is not None and start.memo is not None:
            return start.memo
        return self.iterate.init(theta, start)


def no_fixed_point(iteration: Iteration) -> str:
    """Why an iteration is not solved, and what to do."""
    return f"{type(iteration).__name__} has no fixed point; use Unrolled or Forward: its step depends on t"


def as_lower(lower: LowerLevel | Iteration) -> LowerLevel:
    """The lower level that an iteration stands for; a lower level as it is."""
    if not isinstance(lower, Iteration):
        return lower
    return FixedPoint(lower) if lower.stationary else Process(lower)
