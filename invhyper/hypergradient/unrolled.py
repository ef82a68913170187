"""The hypergradient of a finite run: reverse mode through the steps of an iteration."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from invhyper import tree
from invhyper.hypergradient.implicit import certify
from invhyper.problem import Bilevel, Evaluation, LowerLevel, NotConverged, Solution, restart


class Unrolled(eqx.Module):
    """The derivative of C(x_T(theta), theta), x_T the output after T steps of `lower.iteration()`, in reverse mode.

    It is the exact slope of the truncated run, whatever its distance to the fixed point; the certificate's
    `lower_residual` is the last relative change of the state. Memory grows with `steps`.

    **Arguments**: `steps`: the number of steps T, at least 1.

    **Calling** is as for `Implicit`; a `warm` evaluation starts the run at its x. Raises TypeError if the lower level
    has no iteration, `NotConverged` if the run left the finite numbers (`tol` is not asked of it).

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> round(float(ih.Unrolled(50)(problem, {"l2": 1.0}).gradient["l2"]), 6)
    0.25

    Franceschi et al. (2017), proceedings.mlr.press/v70/franceschi17a.
    """

    # Its value is that of the run, known to rounding however far the run is from its limit.
    of_a_run: ClassVar[bool] = True
    steps: int

    def __check_init__(self):
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"Unrolled steps = {self.steps!r}: a whole number, at least 1, is wanted")

    def __call__(
        self, problem: Bilevel, theta: PyTree, *, warm: Evaluation | None = None, tol: float = 1e-8, throw: bool = True
    ) -> Evaluation:
        theta = problem.check(theta)
        start = None if warm is None else Solution(warm.solution.x)
        value, x, change, gradient = _evaluate(self, problem, theta, start)
        name = type(problem.lower).__name__
        said = f"{name} ran {self.steps} steps; the last moved the state by {float(change):.1e} of its norm"
        solution = Solution(x, float(change), self.steps, said)
        certificate = certify(solution, 0.0, float("inf"), "", None)
        gradient = tree.to_numpy(gradient)
        finite = jnp.isfinite(value) and all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
        if throw and not finite:
            raise NotConverged(
                f"{type(problem.lower).__name__} left the finite numbers within {self.steps} steps: "
                "lower the step size or the number of steps"
            )
        return Evaluation(float(value), gradient, solution, None, certificate)

    def layer(self, lower: LowerLevel, tol: float = 1e-8):
        """theta -> x_T(theta), differentiable by JAX itself."""
        lower.iteration()
        return lambda theta: _run(self, lower, lower.check(theta), None)[0]


@eqx.filter_jit
def _evaluate(method, problem, theta, start):
    def criterion(theta):
        x, change = _run(method, problem.lower, theta, start)
        return problem.criterion(x, theta), (x, change)

    (value, (x, change)), gradient = jax.value_and_grad(criterion, has_aux=True)(jax.tree.map(jnp.asarray, theta))
    return value, x, change, gradient


def _run(method, lower, theta, start):
    iteration = lower.iteration()
    state = iteration.init(theta, restart(lower, theta, start))

    def step(carry, t):
        state, _ = carry
        return (iteration.step(state, theta, t), state), None

    (state, before), _ = jax.lax.scan(step, (state, state), jnp.arange(method.steps))
    size = tree.norm(jax.tree.map(jax.lax.stop_gradient, state))
    moved = tree.norm(jax.tree.map(jax.lax.stop_gradient, tree.subtract(state, before)))
    return iteration.output(state), moved / jnp.where(size == 0, 1, size)
