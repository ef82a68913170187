"""The hypergradient by one step at the solution: no linear solve, no unrolling, and an estimate of what that costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invhyper import tree
from invhyper.fixed_point import FixedPoint, no_fixed_point
from invhyper.hypergradient.adjoint import apply_transpose, pull
from invhyper.hypergradient.implicit import certify
from invhyper.problem import Evaluation, NotConverged, Solution, has_failed, sentence

# Terms of the neglected series that the estimate sums before it takes the rest for geometric.
TERMS = 8


class OneStep(eqx.Module):
    """The derivative of one step at the fixed point, in place of that of the fixed point.

        s* = step(s*, theta),   grad F is taken as grad_theta C + (d step / d theta)^T (d output / d s)^T grad_x C

    It neglects J (I - J)^{-1}, J = d step / d s: exact for Newton's steps (J = 0), good for fast ones, wrong for
    slow ones. The certificate's `error_estimate` says by how much: it sums the first eight terms of what is neglected
    and takes the rest for a geometric series.

    **Calling** is as for `Implicit`; the lower level is solved by its own iteration, to `tol`. Raises TypeError if it
    has none, ValueError for an iteration without a fixed point, `NotConverged` if `tol` is missed.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> found = ih.OneStep()(problem, {"l2": 1.0})
    >>> print(np.round([found.gradient["l2"], found.certificate.error_estimate], 3))
    [0.248 0.002]

    Bolte, Pauwels and Vaiter (2023), arXiv:2305.13768.
    """

    def __call__(self, problem, theta, *, warm=None, tol: float = 1e-8, throw: bool = True) -> Evaluation:
        theta = problem.check(theta)
        lower = at_rest(problem.lower, theta)
        start = lower.cold_start(theta)
        if warm is not None:
            same = jax.tree.structure(warm.solution.memo) == jax.tree.structure(start.memo)
            start = Solution(warm.solution.x, memo=warm.solution.memo if same else None)
        solution, value, gradient, error = _evaluate(lower, problem.criterion, theta, start, np.asarray(tol))
        failed = has_failed(solution)
        solution = sentence(lower, solution, tol)
        if throw and failed:
            raise NotConverged(solution.result)
        certificate = certify(solution, 0.0, float("inf"), "", float(error))
        return Evaluation(float(value), tree.to_numpy(gradient), solution, None, certificate)

    def layer(self, lower, tol: float = 1e-8):
        """theta -> x*(theta), whose derivative in JAX is that of the last step."""

        def solve(theta):
            theta = lower.check(theta)
            resting = at_rest(lower, theta)
            state = jax.lax.stop_gradient(resting.solve(theta, start=resting.cold_start(theta), tol=tol).memo)
            return resting.iterate.output(resting.iterate.step(state, theta, jnp.zeros((), int)))

        return solve


def at_rest(lower, theta) -> FixedPoint:
    """The fixed point of a lower level's own iteration."""
    if isinstance(lower, FixedPoint):
        return lower
    iteration = lower.iteration()
    if iteration.varies(theta):
        raise ValueError(no_fixed_point(iteration))
    return FixedPoint(iteration)


@eqx.filter_jit
def _evaluate(lower, criterion, theta, start, tol):
    solution = lower.solve(theta, start=start, tol=tol, throw=False)
    value, (along_x, along_theta) = pull(criterion, solution.x, theta)
    linearisation = lower.linearise(solution, theta)
    z = linearisation.P_transpose(along_x)
    gradient = tree.subtract(along_theta, linearisation.B_transpose(z))

    def term(carry, _):
        total, z, _ = carry
        after = tree.subtract(z, apply_transpose(linearisation, z, host=False))  # J^T z
        shrunk = tree.norm(after) / jnp.maximum(tree.norm(z), jnp.finfo(value.dtype).tiny)
        return (tree.axpy(1.0, total, after), after, shrunk), None

    start = (tree.scale(0.0, z), z, jnp.zeros((), value.dtype))
    (total, z, shrunk), _ = jax.lax.scan(term, start, length=TERMS)
    rest = jnp.where(shrunk < 1, shrunk / (1 - jnp.minimum(shrunk, 1 - 1e-15)), jnp.inf)
    rest = jnp.where(tree.norm(z) > 0, rest, 0.0)
    neglected = linearisation.B_transpose(tree.axpy(rest, z, total))
    return solution, value, gradient, tree.norm(neglected)
