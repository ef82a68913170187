"""Lower levels that minimise a twice-differentiable function: L-BFGS from afar, Newton steps to rounding nearby.

x*(theta) = argmin_x f(x, theta),   R(x, theta) = grad_x f,   A = the Hessian, factored once for Newton and adjoint
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import lineax as lx
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, PyTree

from invhyper import tree
from invhyper.linear_solvers import DENSE_LIMIT
from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, INDEFINITE, NOT_FINITE, LowerLevel, Solution

POLISH_BELOW = 1e-6  # a tolerance from here down is taken as "exact": Newton goes on until rounding stops it
DESCENT_DROP = 1e-2  # where L-BFGS hands over to Newton: the relative change of x and of the value
NEAR = 0.3  # the error of a start from which Newton is tried first
NEWTON_STEPS = 12
EXACT = 1e-13
TINY = 1e-300


class Minimum(LowerLevel):
    """x*(theta) = argmin_x objective(x, theta), for subclasses that give `objective` and `first` (a cold x).

    They may sharpen `residual` (the gradient, else by automatic differentiation), `scale` (the size of its terms) and
    `hessian` (the dense matrix, for x of a few hundred entries). `max_steps` bounds L-BFGS and Newton steps together.
    """

    tags: ClassVar = lx.positive_semidefinite_tag
    max_steps: ClassVar[int] = 1000
    dense_limit: ClassVar[int] = DENSE_LIMIT

    def first(self, theta: PyTree) -> PyTree:
        """The x of a cold start."""
        raise NotImplementedError(f"{type(self).__name__} defines no first x")

    def residual(self, x, theta):
        return jax.grad(self.objective)(x, theta)

    def scale(self, x: PyTree, theta: PyTree) -> Array:
        """The size of the terms of R at x, which `error` and `tol` are relative to: here |A x| or |A (x - first x)|."""

        def slope(x):
            return self.residual(x, theta)

        away = tree.subtract(x, self.first(theta))
        sizes = [tree.norm(jax.jvp(slope, (x,), (v,))[1]) for v in (x, away)]
        return jnp.maximum(*sizes)

    def hessian(self, x: PyTree, theta: PyTree) -> Array:
        """The dense Hessian in the flat coordinates of x."""
        flat, unravel = ravel_pytree(x)
        return jax.jacfwd(lambda v: ravel_pytree(self.residual(unravel(v), theta))[0])(flat)

    def diagonal(self, x: PyTree, theta: PyTree) -> Array | None:
        """The diagonal of the Hessian in the flat coordinates of x; None where it is not known cheaply."""
        return None

    def cold_start(self, theta):
        x = self.first(theta)
        size, dtype = tree.size(x), jnp.result_type(*jax.tree.leaves(x))
        if size <= self.dense_limit:
            return Solution(x, memo=np.eye(size, dtype=dtype))
        known = type(self).diagonal is not Minimum.diagonal
        return Solution(x, memo=np.ones(size, dtype) if known else None)

    def shape(self, theta):
        return jax.eval_shape(self.first, theta)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        first = self.first(theta) if start is None else start.x
        flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, first))
        found = _minimise(self, flat, unravel, theta, tol)
        finite = jnp.isfinite(found.value) & jnp.all(jnp.isfinite(found.x)) & jnp.isfinite(found.error)
        code = jnp.where(found.error <= tol, CONVERGED, ABOVE_TOLERANCE)
        code = jnp.where((code == CONVERGED) & ~found.convex, INDEFINITE, code)
        code = jnp.where(finite, code, NOT_FINITE)
        return Solution(unravel(found.x), found.error, found.steps, code, found.factor)

    def linearise(self, solution, theta):
        linearisation = super().linearise(solution, theta)
        if solution.memo is None:
            return linearisation
        precondition = _preconditioner(solution.memo)
        max_steps = 50 if jnp.ndim(solution.memo) == 2 else None

        def own_factor(rhs, transpose):
            flat, unravel = ravel_pytree(rhs)

            def product(v):
                return ravel_pytree(linearisation.A.mv(unravel(v)))[0]

            return unravel(refined(product, flat, precondition, 1e-13, max_steps))

        return replace(linearisation, solve=own_factor)


class _Found(NamedTuple):
    x: Array
    value: Array
    slope: Array
    scale: Array
    steps: Array
    factor: Any
    convex: Array
    moving: Array
    drop: Array

    @property
    def error(self):
        size = jnp.linalg.norm(self.slope)
        return jnp.where(size == 0, 0.0, size / jnp.maximum(self.scale, TINY))


def _minimise(lower, x, unravel, theta, tol) -> _Found:
    """L-BFGS until Newton's region, Newton steps by a factored (or CG-solved) Hessian, and again if those fail."""
    target = jnp.where(tol <= POLISH_BELOW, EXACT, tol)

    def value_at(x):
        return lower.objective(unravel(x), theta)

    def slope_at(x):
        return ravel_pytree(lower.residual(unravel(x), theta))[0]

    def at(x, before, **changes):
        return before._replace(x=x, value=value_at(x), slope=slope_at(x), **changes)

    def scaled(found):
        return found._replace(scale=lower.scale(unravel(found.x), theta))

    def newton(found):
        factor, convex = _curvature(lower, unravel(found.x), theta)
        found = found._replace(factor=factor, convex=convex)
        precondition = _preconditioner(found.factor)

        def step(carry):
            found, count, _ = carry
            _, product = jax.linearize(slope_at, found.x)
            enough = 0.1 * target / jnp.maximum(found.error, target)  # what brings the error to the target, no more
            goal = jnp.clip(jnp.maximum(0.1 * found.error, enough), 1e-12, 0.1)
            direction = refined(product, found.slope, precondition, goal, 200)
            trial = at(found.x - direction, found, steps=found.steps + 1)
            drop = jnp.linalg.norm(trial.slope) / jnp.linalg.norm(found.slope)
            level = trial.value <= found.value + 1e-12 * jnp.abs(found.value)
            better = (drop < 1) & level
            chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), trial, found)
            return chosen, count + 1, (drop < 0.5) & level

        def go(carry):
            found, count, falling = carry
            # One step at least: what it takes, the factor, the adjoint needs as well.
            wanted = jnp.where(count == 0, EXACT, target)
            return falling & (found.error > wanted) & (count < NEWTON_STEPS)

        return jax.lax.while_loop(go, step, (found, 0, found.convex))[0]

    def outer(found):
        before, value = jnp.linalg.norm(found.slope), found.value
        # A warm start is often in Newton's region already, where L-BFGS would take more steps, or stir in the rounding.
        near = (found.drop == DESCENT_DROP) & found.convex & (found.error <= NEAR)

        def descended():
            return _descend(value_at, found.x, _spread(found), found.drop, lower.max_steps)

        x, steps = jax.lax.cond(near, lambda: (found.x, jnp.zeros_like(found.steps)), descended)
        found = newton(scaled(at(x, found, steps=found.steps + steps)))
        moving = near | (jnp.linalg.norm(found.slope) < before) | (found.value < value)
        return found._replace(moving=moving, drop=jnp.maximum(1e-2 * found.drop, 1e-13))

    def unfinished(found):
        begun = (found.drop < DESCENT_DROP) | (found.convex & (found.error <= EXACT))
        return ~begun | ((found.error > tol) & found.moving & (found.steps < lower.max_steps))

    x = jax.lax.stop_gradient(x)
    factor, convex = _curvature(lower, unravel(x), theta)
    blank = _Found(x, 0.0, x, 1.0, jnp.asarray(0), factor, convex, jnp.asarray(True), jnp.asarray(DESCENT_DROP))
    return jax.lax.while_loop(unfinished, outer, scaled(at(x, blank)))


def _descend(value_at, x, spread, drop, max_steps):
    """L-BFGS until steps and values change by less than `drop`; returns x and the steps taken.

    It runs in v, where x + spread(v) is the point: there the curvature is much the same in all directions. The function
    is scaled so that the first step, along the slope, has the length that its curvature asks for.
    """

    def value(v, length):
        return length * value_at(x + spread(v))

    slope_at = jax.grad(lambda v: value(v, 1.0))
    zero = jnp.zeros_like(x)
    slope = slope_at(zero)
    curvature, square = jnp.vdot(slope, jax.jvp(slope_at, (zero,), (slope,))[1]), jnp.vdot(slope, slope)
    usual = (1 + jnp.linalg.norm(x)) / jnp.sqrt(square + TINY)
    length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1.0), usual)
    method = optx.LBFGS(drop, drop * jnp.finfo(x.dtype).eps, norm=optx.two_norm)
    found = optx.minimise(value, method, zero, length, max_steps=max_steps, throw=False)
    return x + spread(found.value), found.stats["num_steps"]


def definite(factor, matrix):
    """Whether a Cholesky factor exists and no pivot is lost in rounding."""
    pivots, floor = jnp.diagonal(factor) ** 2, factor.shape[0] * jnp.finfo(factor.dtype).eps
    return jnp.all(jnp.isfinite(factor)) & (jnp.min(pivots) > floor * jnp.max(jnp.abs(jnp.diagonal(matrix))))


def _curvature(lower, x, theta):
    """What is known of the Hessian, and whether it is positive definite: its Cholesky factor where x is small, else its
    diagonal (None if `lower` does not give it) and the benefit of the doubt."""
    if tree.size(x) > lower.dense_limit:
        return lower.diagonal(x, theta), jnp.asarray(True)
    matrix = lower.hessian(x, theta)
    factor = jnp.linalg.cholesky(matrix)
    return factor, definite(factor, matrix)


def _spread(found):
    """v -> M v with M M^T the inverse of the Hessian, or of its diagonal where that is what is known."""
    factor = found.factor
    if factor is None:
        return lambda v: v
    if factor.ndim == 2:
        factor = jnp.where(found.convex, factor, jnp.eye(found.x.size, dtype=found.x.dtype))
        return lambda v: jsl.solve_triangular(factor, v, lower=True, trans=1)
    root = jnp.sqrt(jnp.where(factor > 0, factor, 1.0))
    return lambda v: v / root


def _preconditioner(factor):
    if factor is None:
        return lambda v: v
    if factor.ndim == 2:
        return lambda v: jsl.cho_solve((factor, True), v)
    return lambda v: v / jnp.where(factor > 0, factor, 1.0)


def refined(product, rhs, precondition, goal, max_steps):
    """product(z) = rhs by CG, preconditioned by a factor from nearby, to the relative residual `goal`."""
    return cg(product, rhs, tol=goal, maxiter=max_steps, M=precondition)[0]
