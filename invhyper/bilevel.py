"""The two levels together: F(theta) = C(x*(theta), theta)."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import PyTree

from invhyper.fixed_point import as_lower
from invhyper.problem import PLAIN_LOOKUP, LowerLevel, Solution, solve


class Bilevel(eqx.Module):
    """F(theta) = C(x*(theta), theta): a lower level and a criterion.

    An `Iteration` in place of the lower level stands for its fixed point, if its steps do not depend on t, and for the
    finite run that `Unrolled` or `Forward` make of it.

    `criterion(x, theta)` is a JAX function that returns a scalar. One with a method `bind(lower)` is told its lower
    level; one with `given(solution)` is told the solution, whose memo may spare it work; one with `check(theta)` sees
    theta before anything is solved.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> problem.value({"l2": 1.0})
    0.25
    """

    __getattribute__ = PLAIN_LOOKUP

    lower: LowerLevel
    criterion: Callable

    def __init__(self, lower: LowerLevel, criterion: Callable):
        lower = as_lower(lower)
        if not isinstance(lower, LowerLevel):
            kind = type(lower).__name__
            raise TypeError(f"Bilevel wants a LowerLevel or an Iteration first; it was given {kind}")
        criterion = criterion.bind(lower) if hasattr(criterion, "bind") else criterion
        if not callable(criterion):
            raise TypeError(f"Bilevel wants a criterion(x, theta); it was given {type(criterion).__name__}")
        self.lower = lower
        self.criterion = criterion

    def check(self, theta: PyTree) -> PyTree:
        """theta checked by the lower level, and by the criterion if that has a method `check(theta)`."""
        theta = self.lower.check(theta)
        if hasattr(self.criterion, "check"):
            self.criterion.check(theta)
        return theta

    def value(self, theta: PyTree, tol: float = 1e-8, start: Solution | None = None) -> float:
        """F(theta) alone: one lower-level solve, no derivative."""
        return self.solve_and_value(theta, tol, start)[1]

    def solve_and_value(
        self, theta: PyTree, tol: float = 1e-8, start: Solution | None = None
    ) -> tuple[Solution, float]:
        """The lower-level solution at theta, and F there."""
        theta = self.check(theta)
        solution = solve(self.lower, theta, start=start, tol=tol)
        # What varies from call to call stays out of the compiled program, and so does a memo that nobody asks for.
        asked = hasattr(self.criterion, "given")
        kept = Solution(solution.x, memo=solution.memo if asked else None)
        return solution, float(_value(self.criterion, kept, theta))


def given(criterion: Callable, solution: Solution) -> Callable:
    """The criterion, told what the solve has left behind if it asks for that."""
    return criterion.given(solution) if hasattr(criterion, "given") else criterion


@eqx.filter_jit
def _value(criterion, solution, theta):
    return given(criterion, solution)(solution.x, theta)
