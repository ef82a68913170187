"""Many lower levels under one theta."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invhyper.problem import ABOVE_TOLERANCE, Linearisation, LowerLevel, Solution
from invhyper.strata.critical_cone import joined


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

    def smoothed(self, eps):
        return Together([lower.smoothed(eps) for lower in self.lowers])

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

    def degenerate(tolerance, thorough=False):
        return joined([b.degenerate(tolerance, thorough) for b in blocks], _named)

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
        degenerate=degenerate if all(b.degenerate is not None for b in blocks) else None,
        residual=tuple(b.residual for b in blocks) if all(b.residual is not None for b in blocks) else None,
        blocks=tuple(blocks),
    )


def _named(number: int, margin_of: str) -> str:
    return f"lower level {number}: {margin_of}" if margin_of else ""
