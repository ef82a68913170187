"""Many lower levels under one theta, and the fixed point of an iteration as a lower level."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from invhyper import tree
from invhyper.problem import ABOVE_TOLERANCE, CONVERGED, NOT_FINITE, Iteration, Linearisation, LowerLevel, Solution


class Together(LowerLevel):
    """Several lower levels that share theta: x is the tuple of their solutions, the adjoint is block-diagonal.

        R(x, theta) = (R_1(x_1, theta), ..., R_m(x_m, theta)) = 0

    For k-fold cross-validation, training sets, Monte-Carlo risk. All traced (one compiled program) or all host.

    >>> import numpy as np, invhyper as ih
    >>> pair = ih.Together([ih.Ridge(np.eye(2), np.ones(2)), ih.Ridge(np.eye(2), np.zeros(2))])
    >>> [x.tolist() for x in ih.solve(pair, {"l2": 1.0}).x]
    [[0.5, 0.5], [0.0, 0.0]]
    """

    lowers: tuple[LowerLevel, ...]
    _host: bool = eqx.field(static=True)

    def __init__(self, lowers):
        self.lowers = tuple(lowers)
        if not self.lowers:
            raise ValueError("Together was given no lower level: at least one is wanted")
        for lower in self.lowers:
            if not isinstance(lower, LowerLevel):
                raise TypeError(f"Together wants lower levels; it was given a {type(lower).__name__}")
        kinds = {bool(lower.host) for lower in self.lowers}
        if len(kinds) > 1:
            raise ValueError("Together was given host and traced lower levels at once: group them by kind")
        self._host = kinds.pop()

    @property
    def host(self):
        return self._host

    @property
    def keys(self):
        return self.lowers[0].keys

    @property
    def loss(self):
        return self.lowers[0].loss

    @property
    def accuracy(self):
        wanted = [lower.accuracy for lower in self.lowers if lower.accuracy is not None]
        return min(wanted, default=None)

    @property
    def singular(self):
        return self.lowers[0].singular

    @property
    def tolerance(self):
        return max(lower.tolerance for lower in self.lowers)

    def finer(self):
        finer = [lower.finer() for lower in self.lowers]
        if all(lower is None for lower in finer):
            return None
        return Together([new or old for new, old in zip(finer, self.lowers, strict=True)])

    def explain(self, solution):
        if int(solution.result) == ABOVE_TOLERANCE:
            return None  # which of them is not known
        for lower, part in zip(self.lowers, self._parts(solution), strict=True):
            part = Solution(part.x, result=solution.result, memo=part.memo)
            explained = lower.explain(part)
            if explained is not None:
                return explained
        return None

    def check(self, theta):
        for lower in self.lowers:
            checked = lower.check(theta)
        return checked

    def bounds(self, theta):
        sides = [lower.bounds(theta) for lower in self.lowers]
        floor = jax.tree.map(lambda *leaves: np.maximum.reduce(leaves), *[low for low, _ in sides])
        return floor, jax.tree.map(lambda *leaves: np.minimum.reduce(leaves), *[high for _, high in sides])

    def cold_start(self, theta):
        starts = [lower.cold_start(theta) for lower in self.lowers]
        if any(start is None for start in starts):
            return None
        return Solution(tuple(start.x for start in starts), memo=tuple(start.memo for start in starts))

    def shape(self, theta):
        return tuple(lower.shape(theta) for lower in self.lowers)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        solutions = []
        for i, lower in enumerate(self.lowers):
            guess = None if start is None else Solution(start.x[i], memo=None if start.memo is None else start.memo[i])
            solutions.append(lower.solve(theta, start=guess, tol=tol, throw=throw))
        return _joined(solutions, self.host)

    def residual(self, x, theta):
        return tuple(lower.residual(part, theta) for lower, part in zip(self.lowers, x, strict=True))

    def defect(self, solution, theta):
        return tuple(lower.defect(part, theta) for lower, part in zip(self.lowers, self._parts(solution), strict=True))

    def shifted(self, solution, step):
        parts = zip(self.lowers, self._parts(solution), step, strict=True)
        moved = [lower.shifted(part, dc) for lower, part, dc in parts]
        return Solution(tuple(part.x for part in moved), memo=tuple(part.memo for part in moved))

    def objective(self, x, theta):
        return sum(lower.objective(part, theta) for lower, part in zip(self.lowers, x, strict=True))

    def linearise(self, solution, theta):
        parts = zip(self.lowers, self._parts(solution), strict=True)
        return block_diagonal([lower.linearise(part, theta) for lower, part in parts])

    def _parts(self, solution):
        memos = solution.memo or (None,) * len(self.lowers)
        return [Solution(x, memo=memo) for x, memo in zip(solution.x, memos, strict=True)]


def _joined(solutions, host) -> Solution:
    x = tuple(solution.x for solution in solutions)
    memo = tuple(solution.memo for solution in solutions)
    if not host:
        error = jnp.max(jnp.stack([jnp.asarray(solution.error) for solution in solutions]))
        steps = sum(jnp.asarray(solution.steps) for solution in solutions)
        result = jnp.max(jnp.stack([jnp.asarray(solution.result) for solution in solutions]))
        return Solution(x, error, steps, result, memo)
    worst = max(range(len(solutions)), key=lambda i: np.nan_to_num(float(solutions[i].error), nan=np.inf))
    said = f"{len(solutions)} lower levels; the worst, number {worst}: {solutions[worst].result}"
    return Solution(x, float(solutions[worst].error), sum(int(s.steps) for s in solutions), said, memo)


def block_diagonal(blocks: list[Linearisation]) -> Linearisation:
    """One linearisation from many: unknowns are tuples, the derivative in theta is shared."""

    def total(parts):
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)

    traced = any(isinstance(b.margin, jax.Array) for b in blocks)
    nearest = min(range(len(blocks)), key=lambda i: blocks[i].margin) if not traced else 0
    solvable = all(b.solve is not None for b in blocks)

    def solve_each(rhs, transpose):
        return tuple(b.solve(part, transpose) for b, part in zip(blocks, rhs, strict=True))

    return Linearisation(
        A=None,
        P=lambda c: tuple(b.P(part) for b, part in zip(blocks, c, strict=True)),
        P_transpose=lambda v: tuple(b.P_transpose(part) for b, part in zip(blocks, v, strict=True)),
        B=lambda dtheta: tuple(b.B(dtheta) for b in blocks),
        B_transpose=lambda z: total([b.B_transpose(part) for b, part in zip(blocks, z, strict=True)]),
        solve=solve_each if solvable else None,
        stratum=tuple(b.stratum for b in blocks),
        margin=jnp.min(jnp.stack([jnp.asarray(b.margin) for b in blocks])) if traced else blocks[nearest].margin,
        margin_of=blocks[0].margin_of if traced else _named(nearest, blocks[nearest].margin_of),
        residual=tuple(b.residual for b in blocks) if all(b.residual is not None for b in blocks) else None,
        blocks=tuple(blocks),
    )


def _named(number: int, margin_of: str) -> str:
    return f"lower level {number}: {margin_of}" if margin_of else ""


class FixedPoint(LowerLevel):
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

    iterate: Iteration
    max_steps: int = eqx.field(static=True, default=100_000)
    tags: ClassVar = ()

    def __check_init__(self):
        if not self.iterate.stationary:
            name = type(self.iterate).__name__
            raise ValueError(f"{name} has no fixed point (its step depends on t): use Unrolled or Forward")

    def iteration(self):
        return self.iterate

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
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
