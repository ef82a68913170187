"""The minimiser of least squares plus an l1 penalty by an active set that follows the weights down in blocks.

    minimise over x   1/2 (y - A x)^T W (y - A x) + sum_j l1_j |x_j| + 1/2 sum_j l2_j x_j^2

The path of minimisers at t l1 starts at x = 0 for large t. Each pass over A lowers t as far as a block of
coefficients wants to enter, then Newton steps on the support settle their signs; where Newton alone might cycle, an
exact line search along its direction keeps the objective falling, so that no support is met twice. At t = 1 the step is
refined from the data: the KKT conditions hold at rounding level, and the last factor serves the adjoint.

Lee, Battle, Raina and Ng (2006), doi:10.7551/mitpress/7503.003.0105; Osborne, Presnell and Turlach (2000),
doi:10.1093/imanum/20.3.389.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from invhyper.operators.design import Design
from invhyper.strata.gram import Gram
from invhyper.strata.support import SingularSupport, Support, Woodbury

BLOCK = 32
GROWTH = 0.5
NUDGE = 1e-6
EPS = np.finfo(float).eps


@dataclass(frozen=True)
class Minimiser:
    """x on its support, and what the polish leaves for the adjoint and for the next start."""

    support: Support
    values: Float[np.ndarray, " k"]
    columns: Any
    equations: Any
    misfit: Float[np.ndarray, " n"]
    correlation: Float[np.ndarray, " p"]
    defect: Float[np.ndarray, " k"]
    scale: float
    error: float
    steps: int
    l1: Float[np.ndarray, " p"]
    l2: Float[np.ndarray, " p"]


class ActiveSet:
    """One minimisation: `run()` gives the `Minimiser`.

    **Arguments**: `design`, `y` (n,), `l1` and `l2` (p,); `start` (p,) or None; `before`, the `Minimiser` of an earlier
    run on the same data or None; `max_steps` systems at most.
    """

    def __init__(self, design: Design, y, l1, l2, start=None, before: Minimiser | None = None, max_steps: int = 20_000):
        self.design, self.l1, self.l2, self.max_steps = design, l1, l2, max_steps
        self.y = design.centre(y)
        self.pull = design.correlate(self.y)
        self.scale = float(np.max(np.abs(self.pull), initial=0.0))
        if not np.isfinite(self.scale):
            raise ValueError("A^T y is not finite: A or y holds NaN or infinity (or numbers too large to multiply)")
        self.penalised = l1 > 0
        self.weight = np.where(self.penalised, l1, np.inf)
        self.slack = 64 * EPS * self.scale + 1e-12 * l1
        self.rank = np.inf if np.all(l2 > 0) else design.shape[0] - design.intercept
        self.gram = Gram(design)
        self.steps = 0
        self.x = np.zeros(design.shape[1]) if start is None else start.copy()
        self.signs = np.sign(self.x)
        self.chosen = np.concatenate([np.flatnonzero(~self.penalised), np.flatnonzero(self.penalised & (self.x != 0))])
        self.signs[~self.penalised] = 0.0
        self.columns = self.equations = self.factored = None
        self.before = before

    def run(self) -> Minimiser:
        t, correlation, drift = self._begin()
        settled, met = None, set()
        while True:
            if correlation is not None:
                t, ready = self._enter(correlation, drift, t)
                if settled == 1.0 and not ready:
                    break
            self._settle(t)
            self.columns, settled = self.gram.columns_of(self.chosen), t
            misfit, defect = self._polish(t)
            correlation = self.design.correlate(misfit)
            if t > 1.0:
                drift = self._drift()
            elif self._face() in met:
                break
            else:
                met.add(self._face())
            if self.steps > self.max_steps:
                break
        return self._result(misfit, correlation - self.l2 * self.x, defect)

    def _begin(self):
        """(t, correlations, their drift) to start from: an earlier minimiser on the path, x = 0, or a guess."""
        before = self.before
        same = before is not None and np.array_equal(before.l2, self.l2)
        if same and np.array_equal(before.l1 > 0, self.penalised):
            self._resume(before)
            t = _ratio(before.l1, self.l1)
            if t is not None and t > 1.0:
                return t, before.correlation, self._drift()
        if np.any(self.x):
            return 1.0, None, None
        return np.inf, None if self.chosen.size else self.pull, np.zeros_like(self.pull)

    def _resume(self, before):
        """The support, its signs and its factor as an earlier minimiser left them."""
        self.gram.keep(before)
        self.chosen = self.factored = before.support.indices
        self.columns, self.equations = before.columns, before.equations
        self.x[:] = self.signs[:] = 0.0
        self.x[self.chosen], self.signs[self.chosen] = before.values, before.support.signs

    def _drift(self):
        """d correlation / d t along the path on the present support, where dx/dt = -K^-1 l1 sign(x)."""
        chosen = self.chosen
        if not chosen.size:
            return np.zeros_like(self.pull)
        rate = self.equations.solve(self.l1[chosen] * self.signs[chosen])
        return self.design.correlate(self.design.predict(self.columns, chosen, rate))

    def _enter(self, correlation, drift, t) -> tuple[float, int]:
        """Lowers t as far as a block of coefficients enters, in the order in which they meet their weights."""
        size, weight, now = np.abs(correlation), self.weight, t if np.isfinite(t) else 0.0
        above = self.penalised & (size > now * self.l1 + self.slack)
        meets, signs = np.where(above, now + size / weight, 0.0), np.sign(correlation)
        if 1.0 < t < np.inf:
            base = correlation - t * drift
            up = base / _or_never(weight - drift, weight)
            down = -base / _or_never(weight + drift, weight)
            meets = np.where(above, meets, np.maximum(up, down))
            signs = np.where(above, signs, np.where(up > down, 1.0, -1.0))
        meets[self.chosen] = 0.0
        ready = np.flatnonzero(meets > 1.0)
        room = self.rank - self.chosen.size
        block = int(max(1, min(max(BLOCK, GROWTH * self.chosen.size), room)))
        if ready.size > block:
            ready = ready[np.argpartition(-meets[ready], block)[:block]]
            t = max(1.0, min(t, (1.0 - NUDGE) * float(meets[ready].min())))
        else:
            t = 1.0
        self.chosen = np.concatenate([self.chosen, ready])
        self.signs[ready] = signs[ready]
        return t, ready.size

    def _face(self):
        indices, signs = Support(self.chosen, self.signs[self.chosen]).sorted()
        return indices.tobytes(), signs.tobytes()

    def _settle(self, t):
        """Newton steps at the weights t l1 until every sign on the support is the one assumed."""
        while self.steps <= self.max_steps:
            chosen, x = self.chosen, self.x[self.chosen]
            signs = self.signs[chosen]
            weights = np.where(signs != 0, t * self.l1[chosen], 0.0) if np.isfinite(t) else np.zeros(chosen.size)
            try:
                target = self._solve(chosen, weights, signs)
            except SingularSupport as found:
                self._exchange(found.positions, weights)
                continue
            wrong = signs * target < 0
            astray = wrong & (x == 0)
            astray |= (signs != 0) & (x == 0) & (target == 0)
            if np.any(astray):
                self._keep(~astray)
                continue
            if not np.any(wrong):
                self.x[chosen] = target
                return
            if self._drop(chosen, x, weights, signs, wrong):
                return
            self._search(x, target, weights, signs, wrong)

    def _solve(self, chosen, weights, signs):
        self._factor(chosen)
        return self.equations.solve(self.pull[chosen] - weights * signs)

    def _factor(self, chosen):
        """The normal equations on `chosen`, unless they are at hand."""
        if self.factored is not None and np.array_equal(self.factored, chosen):
            return
        self.steps += 1
        self.equations, self.factored = self.gram.equations(chosen, self.l2[chosen]), chosen

    def _drop(self, chosen, x, weights, signs, wrong) -> bool:
        """Drops every coefficient that would change its sign, if what is left lowers the objective."""
        drive = self.pull[chosen] - weights * signs
        now = 0.5 * x @ (self.equations.matrix @ x) - drive @ x
        held, kept = (self.equations, self.factored), ~wrong
        while True:
            target = self._solve(chosen[kept], weights[kept], signs[kept])
            flipped = signs[kept] * target < 0
            if not np.any(flipped):
                break
            kept[np.flatnonzero(kept)[flipped]] = False
        if not -0.5 * drive[kept] @ target < now - EPS * abs(now):
            self.equations, self.factored = held
            return False
        self._keep(kept)
        self.x[chosen[kept]] = target
        return True

    def _search(self, x, target, weights, signs, wrong):
        """The minimum along x + s (target - x), 0 <= s <= 1, of the piecewise quadratic objective."""
        direction = target - x
        curvature = direction @ (self.equations.matrix @ direction)
        self._move(x, direction, -curvature, curvature, weights, wrong)

    def _exchange(self, positions, weights):
        """A column that depends on the others enters along the flat direction, until another coefficient leaves."""
        chosen = self.chosen
        fresh = self.penalised[chosen] & (self.x[chosen] == 0)
        if np.count_nonzero(fresh) > 1 or (np.any(fresh) and not fresh[positions[0]]):
            left = fresh.copy()
            left[positions] = False
            drop = np.isin(np.arange(chosen.size), positions) & fresh if np.any(left) else fresh
            if not np.any(left) and fresh[positions[0]]:
                drop[positions[0]] = False
            self._keep(~drop)
            return
        position = positions[0]
        others = np.arange(position)
        matrix = self.gram.block(chosen)
        matrix = matrix.toarray() if hasattr(matrix, "toarray") else matrix
        self._factor(chosen[others])
        direction = np.zeros(chosen.size)
        direction[position] = self.signs[chosen[position]] or 1.0
        direction[others] = -self.equations.solve(matrix[others, position] * direction[position])
        direction[np.abs(direction) < 1e-7] = 0.0
        x, signs = self.x[chosen], self.signs[chosen]
        moving = self.penalised[chosen] & (direction != 0)
        if not np.any(moving):
            raise ValueError(_dependent(chosen[(direction != 0)]))
        gradient = matrix @ x + self.l2[chosen] * x - self.pull[chosen] + weights * signs
        slope = gradient @ direction
        if slope > 0 and x[position] != 0:
            direction, slope = -direction, -slope
        backwards = moving & (x * direction < 0)
        if not slope < 0 and x[position] == 0 or not np.any(backwards):
            self._keep(np.arange(chosen.size) != position)
            return
        self._move(x, direction, slope, 0.0, weights, backwards)

    def _move(self, x, direction, slope, curvature, weights, crossing):
        """Exact line search from a `slope` and a `curvature`; each crossing of zero adds 2 l1_j |d_j| to the slope."""
        breaks = np.flatnonzero(crossing)
        breaks = breaks[np.argsort(-x[breaks] / direction[breaks])]
        gained, step, hit = 0.0, None, None
        for j in breaks:
            at = -x[j] / direction[j]
            if slope + curvature * at + gained >= 0:
                break
            gained += 2.0 * weights[j] * abs(direction[j])
            if slope + curvature * at + gained >= 0:
                step, hit = at, j
                break
        if step is None:
            step = -(slope + gained) / curvature if curvature > 0 else -x[breaks[-1]] / direction[breaks[-1]]
            hit = None if curvature > 0 else breaks[-1]
        moved = x + step * direction
        if hit is not None:
            moved[hit] = 0.0
        penalised = self.penalised[self.chosen]
        self.x[self.chosen] = moved
        self.signs[self.chosen] = np.where(penalised, np.sign(moved), 0.0)
        self._keep(~penalised | (moved != 0))

    def _keep(self, kept):
        gone = self.chosen[~kept]
        self.x[gone], self.signs[gone] = 0.0, 0.0
        self.chosen = self.chosen[kept]

    def _polish(self, t):
        """(y - A x, what is left of the KKT conditions on the support); at t = 1 after refinement from the data."""
        chosen, defect = self.chosen, np.zeros(0)
        if t == 1.0 and isinstance(self.equations, Woodbury):
            self.x[chosen], misfit = self.equations.fit(self.y, self.l1[chosen] * self.signs[chosen])
            return misfit, self._defect(misfit)
        misfit = self._misfit()
        for _ in range(4 if t == 1.0 and chosen.size else 0):
            defect = self._defect(misfit)
            size = np.max(np.abs(defect))
            if size <= 4 * EPS * self.scale:
                break
            held = self.x[chosen].copy()
            self.x[chosen] = held - self.equations.solve(defect)
            refined = self._misfit()
            better = self._defect(refined)
            if np.max(np.abs(better)) >= size:
                self.x[chosen] = held
                break
            misfit, defect = refined, better
            if np.max(np.abs(better)) > 0.1 * size:
                break
        return misfit, defect

    def _misfit(self):
        if not self.chosen.size:
            return self.y
        return self.y - self.design.predict(self.columns, self.chosen, self.x[self.chosen])

    def _defect(self, misfit):
        chosen = self.chosen
        image = self.design.correlate_with(self.columns, chosen, misfit)
        return self.l2[chosen] * self.x[chosen] - image + self.l1[chosen] * self.signs[chosen]

    def _result(self, misfit, correlation, defect):
        chosen = self.chosen
        self._factor(chosen)
        off = np.maximum(np.abs(correlation) - self.l1, 0.0)
        off[chosen] = 0.0
        astray = max(np.max(np.abs(defect), initial=0.0), np.max(off, initial=0.0))
        return Minimiser(
            support=Support(chosen, self.signs[chosen]),
            values=self.x[chosen],
            columns=self.columns,
            equations=self.equations,
            misfit=misfit,
            correlation=correlation,
            defect=defect,
            scale=self.scale,
            error=float(astray / self.scale) if self.scale else 0.0,
            steps=self.steps,
            l1=self.l1,
            l2=self.l2,
        )


def _or_never(closing, weight):
    """The speed at which a coefficient nears its weight; infinite if it does not, or is tied to an active one."""
    return np.where(closing > 1e-9 * weight, closing, np.inf)


def _ratio(before, l1):
    """t with before = t l1, or None."""
    positive = l1 > 0
    if not np.any(positive):
        return None
    t = float(before[positive][0] / l1[positive][0])
    return t if np.allclose(before, t * l1, rtol=1e-14, atol=0.0) else None


def refuse_ties(gram: Gram, found: Minimiser):
    """A ValueError where a coefficient off the support could enter it along a flat direction: x* is not unique then."""
    slack = 256 * EPS * found.scale + 1e-11 * found.l1
    tied = np.abs(found.correlation) >= found.l1 - slack
    tied[found.support.indices] = False
    if not np.any(tied) or not found.scale:
        return
    chosen = np.concatenate([found.support.indices, np.flatnonzero(tied)])
    try:
        gram.equations(chosen, found.l2[chosen])
    except SingularSupport as singular:
        raise ValueError(
            f"x* is not unique: column {chosen[singular.positions[0]]} of A depends on others that pull as hard as "
            "their weights allow (a repeated column, perhaps), so x* has no derivative: drop it, or use an ElasticNet "
            "with l2 above zero"
        ) from None


def _dependent(indices) -> str:
    if indices.size == 1:
        return f"column {int(indices[0])} of A is zero and its l1 and l2 are too: drop it or give it an l2 above zero"
    listed = ", ".join(str(int(j)) for j in np.sort(indices)[:6])
    return (
        f"columns {listed} of A are linearly dependent and their l1 and l2 are zero, so x* is not unique: "
        "drop one of them or give them an l2 above zero"
    )
