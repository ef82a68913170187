"""What a search sees: F and its slope on the search scale, with budgets, warm starts, history and the best so far."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
import scipy.linalg

from invhyper.bilevel import Bilevel
from invhyper.hypergradient.run import warm_start
from invhyper.parameters import Parameters, Vector
from invhyper.problem import Certificate, Evaluation, NotConverged
from invhyper.report import Step

DEFAULT_TOL = 1e-6
# A linear-algebra error is a ValueError, as is a criterion that is not finite or an infeasible programme.
FAILURES = (NotConverged, ValueError, ArithmeticError)


class Ended(Exception):
    """The search is over; the message says why."""


class Failed(Exception):
    """F could not be evaluated at this point; the message says why. A search backs off, or lets it end the run."""


@dataclass(frozen=True)
class Point:
    """F at one point of the search scale: `u`, `value`, `slope` = dF/du; `theta`, the `tol` asked, the certificate.

    Light enough to keep them all; the solutions of the last and the best point alone are held, by the objective.
    """

    u: Vector
    value: float
    slope: Vector
    theta: dict
    tol: float
    certificate: Certificate


class Search(eqx.Module):
    """A way of choosing the next theta. A value: its fields are its settings, a run keeps its state to itself.

    >>> import numpy as np, invhyper as ih
    >>> class Halving(ih.Search):
    ...     def run(self, objective):
    ...         for k in range(4):
    ...             point = objective(objective.start * 0.5**k)
    ...         return "halved the start three times"
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, {"l2": 1.0}, search=Halving())
    >>> print(report.theta["l2"], report.message)
    0.25 halved the start three times
    """

    def run(self, objective: "Objective") -> str:
        """Evaluate `objective(u)` until done; the sentence that says how it ended. `Ended` and `Failed` may pass."""
        raise NotImplementedError(f"{type(self).__name__} defines no run")


class Objective:
    """F(u) = F(theta(u)) with its slope, for one run of one search.

    `objective(u, tol=None)` evaluates at the search vector u (lower-level tolerance `tol`; None: the run's own) and
    returns a `Point`. It raises `Ended` when a budget is spent and `Failed` when the lower level fails, except at the
    first point: there the failure itself is raised. `start`, `lower`, `upper` are search vectors.
    """

    def __init__(
        self,
        problem: Bilevel,
        parameters: Parameters,
        hypergradient: Callable,
        *,
        watch: tuple[Callable, ...] = (),
        tol: float | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        solves: int | None = None,
        lower_tol: float = 1e-8,
    ):
        self.problem, self.parameters, self.hypergradient = problem, parameters, hypergradient
        self.watch, self.lower_tol = watch, lower_tol
        self.tol = DEFAULT_TOL if tol is None else tol
        self._limits = {"steps": steps, "seconds": seconds, "solves": solves}
        self.lower, self.upper = parameters.bounds
        self.start = np.clip(parameters.start, self.lower, self.upper)
        self.history: list[Step] = []
        self.best: Point | None = None
        self.best_evaluation: Evaluation | None = None
        self._last: tuple[Point, Evaluation] | None = None
        self.scale = 0.0
        self.solves = self.work = 0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._began

    @property
    def solves_left(self) -> int:
        """Evaluations that the budgets of steps and solves still allow."""
        steps, solves = (sys.maxsize if self._limits[k] is None else self._limits[k] for k in ("steps", "solves"))
        return int(min(steps - len(self.history), solves - self.solves))

    def __call__(self, u: Vector, tol: float | None = None) -> Point:
        self._check_budget()
        tol = self.lower_tol if tol is None else tol
        u = np.clip(np.asarray(u, float), self.lower, self.upper)
        theta = self.parameters.natural(u)
        self.solves += 1
        try:
            warm = warm_start(self.hypergradient, self._nearest(u))
            evaluation = self.hypergradient(self.problem, theta, warm=warm, tol=tol)
        except FAILURES as failure:
            if self._last is None:
                raise
            raise Failed(str(failure)) from failure
        slope = self.parameters.pull(u, evaluation.gradient)
        point = Point(u, float(evaluation.value), slope, theta, tol, evaluation.certificate)
        self._record(point, evaluation)
        return point

    def stationary(self, point: Point) -> bool:
        """Whether the projected gradient is within tol of the scale of F (larger of |F| and |dF/du| at the start)."""
        return self.gradient_norm(point) <= self.tol * self.scale

    def gradient_norm(self, point: Point) -> float:
        """Euclidean norm of dF/du, each entry cut at the distance to the bound it points to."""
        return _norm(self.projected_step(point))

    def projected_step(self, point: Point) -> Vector:
        """P(u - dF/du) - u, P onto the bounds: minus the slope where they leave room for it."""
        return np.clip(point.u - point.slope, self.lower, self.upper) - point.u

    def downhill(self, point: Point) -> Vector:
        """-dF/du, without the entries that stand at the bound they point to."""
        held = (point.slope > 0) & (point.u <= self.lower) | (point.slope < 0) & (point.u >= self.upper)
        return np.where(held, 0.0, -point.slope)

    def evaluation(self, point: Point) -> Evaluation | None:
        """What a point was evaluated to, while it is held: the last and the best are."""
        kept = (self._last, (self.best, self.best_evaluation))
        return next((evaluation for other, evaluation in kept if other is point), None)

    def stationary_sentence(self, point: Point) -> str:
        """How a search says that it ended at a stationary point."""
        size, tol = self.gradient_norm(point), self.tol
        return (
            f"stationary: projected gradient {size:.1e} on the search scale, within tol {tol:.1e} of {self.scale:.2e}"
        )

    def _nearest(self, u) -> Evaluation | None:
        if self._last is None:
            return None
        kept = [self._last, (self.best, self.best_evaluation)]
        return min(kept, key=lambda pair: float(np.sum((pair[0].u - u) ** 2)))[1]

    def _check_budget(self):
        spent = {"steps": len(self.history), "seconds": self.seconds, "solves": self.solves}
        words = {"steps": "{:g} steps", "seconds": "{:g} seconds", "solves": "{:g} lower-level solves"}
        for kind, limit in self._limits.items():
            if limit is not None and spent[kind] >= limit and self.solves > 0:
                raise Ended(f"the budget of {words[kind].format(limit)} is spent: raise {kind} to go on")

    def _record(self, point: Point, evaluation: Evaluation):
        certificate = point.certificate
        self.work += int(evaluation.solution.steps)
        step = Step(
            k=len(self.history),
            theta=point.theta,
            value=point.value,
            gradient=jax.tree.map(np.asarray, evaluation.gradient),
            gradient_norm=self.gradient_norm(point),
            lower_residual=float(certificate.lower_residual),
            adjoint_residual=float(certificate.adjoint_residual),
            tol=float(point.tol),
            margin=float(certificate.margin),
            kink=bool(certificate.kink),
            solves=self.solves,
            seconds=self.seconds,
            work=self.work,
        )
        if self._last is None:
            self.scale = max(abs(point.value), _norm(point.slope))
        self._last = (point, evaluation)
        if self.best is None or _rank(point, self.lower_tol) < _rank(self.best, self.lower_tol):
            self.best, self.best_evaluation = point, evaluation
        self.history.append(step)
        for watch in self.watch:
            watch(step)


def _norm(v: np.ndarray) -> float:
    """|v| by BLAS, which does not square what is near overflow, as the slope of a run that nearly diverged."""
    return float(scipy.linalg.norm(v, check_finite=False))


def _rank(point: Point, lower_tol: float):
    """Points solved to the run's tolerance come before looser ones, whose values may look better than they are."""
    return point.tol > lower_tol, point.value
