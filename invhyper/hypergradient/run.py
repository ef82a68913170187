"""What differentiated runs share: the call, what their tape would weigh, the report of one that diverged."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.fixed_point import Process
from invhyper.hypergradient.implicit import certify
from invhyper.problem import Evaluation, Iteration, LowerLevel, NotConverged, Solution, restart

# Bytes up to which all that the transposed steps need is kept (beyond the processor's caches it is faster to compute a
# step twice), and up to which the states alone are.
TAPE, STORED = 2**25, 2**28
# The work of a hypergradient in reverse mode, in runs: with every step on the tape, and with checkpoints. Measured on
# logistic regressions of 64 to 1000 rows: 1.5 to 3.3, and 4 to 7.
TAPED, CHECKPOINTED = 3, 5


class Run(eqx.Module):
    """A hypergradient of C(x_T(theta), theta).

    Subclasses give `steps` and `differentiated(problem, theta, start, stop, tol)`, compiled: value, x, the last
    relative change of the state, gradient, steps taken; `stop` (a number, traced) ends the run early.
    """

    # Its value is that of the run, known to rounding however far the run is from its limit.
    of_a_run: ClassVar[bool] = True
    steps: eqx.AbstractVar[Any]

    @property
    def most(self) -> int:
        """The steps after which the run ends at the latest."""
        return self.steps

    def differentiated(self, problem, theta, start, stop, tol):
        raise NotImplementedError

    def __call__(
        self, problem: Bilevel, theta: PyTree, *, warm: Evaluation | None = None, tol: float = 1e-8, throw: bool = True
    ) -> Evaluation:
        theta = problem.check(theta)
        problem.lower.check_run(theta, self.steps)
        start = None if warm is None else Solution(warm.solution.x)
        traced = jax.tree.map(jnp.asarray, theta)
        found = self.differentiated(problem, traced, start, None, np.asarray(tol))
        if _finite(found):
            return _evaluation(problem.lower, found)
        return self._diverged(problem, traced, start, tol, throw)

    def _diverged(self, problem, theta, start, tol, throw) -> Evaluation:
        """The evaluation of the longest finite run, with a sentence about the whole; or NotConverged with both."""
        bad, before = (np.asarray(part) for part in _first_bad(problem.lower, theta, start, self.most))
        said = self._sentence(problem.lower, int(bad), float(before))
        high = int(bad) if bad <= self.most else self.most
        best = longest_finite(
            lambda stop: self.differentiated(problem, theta, start, np.asarray(stop), np.asarray(tol)), high
        )
        if best is None:
            raise NotConverged(f"{said}, and the criterion has no finite hypergradient at the start: check it")
        evaluation = _evaluation(problem.lower, best)
        steps = evaluation.solution.steps
        said = f"{said}; the last finite hypergradient, of its first {steps} steps, is {_shown(evaluation.gradient)}"
        said = f"{said}: lower the step size or the number of steps"
        if throw:
            raise NotConverged(said, evaluation)
        solution = Solution(evaluation.solution.x, float("inf"), steps, said)
        certificate = certify(solution, 0.0, float("inf"), "", None)
        return Evaluation(evaluation.value, evaluation.gradient, solution, None, certificate)

    def _sentence(self, lower, bad: int, before: float) -> str:
        name, measured = name_of(lower), lower.iteration().measured
        if bad > self.most:
            return f"{name} stayed finite for {self.most} steps, but not the criterion or its derivative"
        history = f"was {before:.1e} one step before" if bad else "is not finite at the start"
        return f"{name} left the finite numbers at step {bad} of {self.most}: its {measured} {history}"


def longest_finite(evaluated: Callable, high: int):
    """What `evaluated(stop)` finds at the largest finite stop below `high`, by bisection; None: not even at 0."""
    low, stop, best = 0, max(high - 1, 0), None
    while best is None or high - low > 1:
        found = evaluated(stop)
        if _finite(found):
            low, best = stop, found
        elif stop == 0:
            return None
        else:
            high = stop
        stop = (low + high) // 2
    return best


def warm_start(hypergradient, evaluation: Evaluation | None) -> Evaluation | None:
    """What a search hands on from one theta to the next: to a run nothing, its value would depend on where it began."""
    return None if getattr(hypergradient, "of_a_run", False) else evaluation


def check_steps(name: str, steps, what: str = "steps"):
    """ValueError unless `steps` is a whole number, at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"{name} {what} = {steps!r}: a whole number, at least 1, is wanted")


def criterion_of(problem: Bilevel, x: PyTree, theta: PyTree):
    """C(x, theta); ValueError if it is no scalar."""
    value = problem.criterion(x, theta)
    if jnp.shape(value) != ():
        raise ValueError(f"the criterion returned shape {jnp.shape(value)}: a scalar is wanted")
    return value


def name_of(lower: LowerLevel) -> str:
    """What sentences call the process of a lower level."""
    return type(lower.iterate if isinstance(lower, Process) else lower).__name__


def moved(after: PyTree, before: PyTree):
    """|after - before| relative to |after|, a number without derivative; integers in the state count for nothing."""
    after, before = (eqx.filter(jax.lax.stop_gradient(part), eqx.is_inexact_array) for part in (after, before))
    size = tree.norm(after)
    return tree.norm(tree.subtract(after, before)) / jnp.where(size == 0, 1, size)


def weight(part: PyTree) -> int:
    """Bytes of the arrays in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(part) if eqx.is_array(leaf))


def tape(iteration: Iteration, state: PyTree, theta: PyTree) -> int:
    """Bytes that reverse mode keeps of one step: what its transpose needs and the step does not find again outside."""
    dynamic, static = eqx.partition(state, eqx.is_inexact_array)
    first = jnp.zeros((), int)

    def kept(dynamic, theta):
        def step(dynamic, theta):
            return eqx.filter(iteration.step(eqx.combine(dynamic, static), theta, first), eqx.is_inexact_array)

        return jax.tree.leaves(jax.vjp(step, dynamic, theta)[1])

    jaxpr = jax.make_jaxpr(kept)(dynamic, theta).jaxpr
    outside = {*jaxpr.constvars, *jaxpr.invars[len(jax.tree.leaves(dynamic)) :]}
    kept = {var for var in jaxpr.outvars if not isinstance(var, Literal)} - outside
    return sum(math.prod(var.aval.shape) * var.aval.dtype.itemsize for var in kept)


@eqx.filter_jit
def _first_bad(lower, theta, start, steps):
    """The first t at which the measure of the state is not finite (steps + 1: none), and the measure before."""
    iteration = lower.iteration()
    state = iteration.init(theta, restart(lower, theta, start))
    t = jnp.zeros((), int)

    def going(carry):
        _, now, _, t = carry
        return jnp.isfinite(now) & (t <= steps)

    def step(carry):
        state, now, _, t = carry
        state = iteration.step(state, theta, t)
        return state, iteration.measure(state, theta, jnp.minimum(t + 1, steps - 1)), now, t + 1

    first = iteration.measure(state, theta, t)
    _, now, before, t = jax.lax.while_loop(going, step, (state, first, first, t))
    return jnp.where(jnp.isfinite(now), steps + 1, t), before


def _finite(found) -> bool:
    value, _, _, gradient, _ = found
    return bool(np.isfinite(value)) and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def _evaluation(lower, found) -> Evaluation:
    value, x, change, gradient, steps = found
    change, steps = float(change), int(steps)
    said = f"{name_of(lower)} ran {steps} steps; the last moved the state by {change:.1e} of its norm"
    solution = Solution(x, change, steps, said)
    certificate = certify(solution, 0.0, float("inf"), "", None)
    return Evaluation(float(value), tree.to_numpy(gradient), solution, None, certificate)


def _shown(gradient) -> str:
    """A gradient in words: its numbers if they are few, else its norm."""
    if tree.size(gradient) > 6:
        return f"of norm {float(tree.norm(gradient)):.3g}"
    pairs = zip(tree.entries(gradient), tree.ravel(gradient)[0], strict=True)
    return ", ".join(f"{name} {number:.3g}" for name, number in pairs)
