"""The implicit hypergradient: one adjoint solve on the stratum of the solution.

A^T z = P^T grad_x C,      grad F = grad_theta C - B^T z.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import PyTree

from invhyper import linear_solvers, tree
from invhyper.bilevel import Bilevel, given
from invhyper.hypergradient import discretisation
from invhyper.hypergradient.adjoint import (
    adjoint_tol,
    check_adjoint,
    pull,
    solve_adjoint,
    value_and_pull,
)
from invhyper.hypergradient.callback import implicit_layer
from invhyper.hypergradient.error import ErrorEstimate, guaranteed_bound, host_estimate, newton_estimate
from invhyper.hypergradient.spectrum import refuse_divergence
from invhyper.problem import (
    PLAIN_LOOKUP,
    Certificate,
    Evaluation,
    LowerLevel,
    NotConverged,
    Solution,
    has_failed,
    restart,
    sentence,
)

KINK = 1e-8


class Implicit(eqx.Module):
    """The hypergradient by the implicit function theorem, exact at an exact solution.

        grad F(theta) = grad_theta C - B^T z,   A^T z = P^T grad_x C,

    with A, B, P from `lower.linearise`: the derivative is taken on the stratum where the solution lives.

    **Arguments**: `linear_solver`: `Direct()`, `CG()`, `GMRES()`, `Neumann(terms)` or a lineax solver; None takes the
    lower level's own factor, else a choice from the structure of A. `estimate`: True adds an error estimate by a single
    Newton step (two more linear solves and one more adjoint; where the lower level keeps a factor the estimate is free
    and always there), says whether it can be believed (`certificate.linear`), and adds a guaranteed `bound` where the
    lower level and the criterion know their constants.

    **Calling** `Implicit()(problem, theta, warm=None, tol=1e-8, throw=True)` returns an `Evaluation`; `warm` is an
    earlier one. Raises ValueError for a bad theta, `NotConverged` if the lower level or the adjoint misses `tol`.
    `Implicit().at(problem, theta, solution)` takes any x for the solution, such as that of a solver of your own.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> evaluation = ih.Implicit()(problem, {"l2": 1.0})
    >>> round(float(evaluation.gradient["l2"]), 12)
    0.25

    Bengio (2000), doi:10.1162/089976600300015187; on strata: Bertrand et al. (2022), jmlr.org/papers/v23/21-0486.
    """

    __getattribute__ = PLAIN_LOOKUP
    linear_solver: Any = None
    estimate: bool = False

    def __check_init__(self):
        known = (linear_solvers.LinearSolver, lx.AbstractLinearSolver)
        if self.linear_solver is not None and not isinstance(self.linear_solver, known):
            raise TypeError(
                f"Implicit linear_solver = {self.linear_solver!r}: Direct(), CG(), GMRES(), Neumann(terms), a lineax "
                "solver or None is wanted"
            )

    def __call__(
        self,
        problem: Bilevel,
        theta: PyTree,
        *,
        warm: Evaluation | None = None,
        tol: float = 1e-8,
        throw: bool = True,
    ) -> Evaluation:
        theta = problem.check(theta)
        compute = _on_host if problem.lower.host else _compiled
        evaluation = discretisation.with_error(
            lambda problem, warm: compute(self, problem, theta, warm, tol, throw), problem, warm, throw
        )
        if throw:
            if isinstance(self.linear_solver, linear_solvers.Neumann) and evaluation.certificate.lower_residual <= tol:
                refuse_divergence(self.linear_solver, problem, theta, warm, evaluation)
            _raise_if_bad(evaluation, problem.lower, theta, tol, adjoint_tol(self.linear_solver, tol))
        return evaluation

    def at(self, problem: Bilevel, theta: PyTree, solution: Solution, *, tol: float = 1e-8) -> Evaluation:
        """The hypergradient as if `solution` solved the lower level, with the error that this leaves in it.

            g(x) = grad_theta C(x) - B(x)^T z,   A(x)^T z = P^T grad_x C(x),   |g(x) - g(x*)| ~ |g(x) - g(x - dx)|

        `Solution(x)` holds any x: of another solver, or of too few steps. `tol` is that of the adjoint. Raises
        TypeError for a host lower level, which finds its stratum by solving.
        """
        lower = problem.lower
        if lower.host:
            name = type(lower).__name__
            raise TypeError(
                f"{name} is differentiated on the stratum that its own solve finds: call Implicit() itself, or take "
                f"FixedPoint({name}(...).iteration()) for the x of a finite run"
            )
        theta = problem.check(theta)
        adjoint = _zero_adjoint(lower, theta, solution)
        found = _evaluate_at(self, problem, theta, Solution(solution.x, memo=solution.memo), adjoint, np.asarray(tol))
        solution = Solution(solution.x, solution.error, solution.steps, "x as it was given", solution.memo)
        return _evaluation(solution, *found)

    def layer(self, lower: LowerLevel, tol: float = 1e-8):
        """theta -> x*(theta) with this derivative, for use inside other JAX code."""
        return implicit_layer(lower, self, tol)


# Functions, not methods: an equinox module wraps a bound method anew at every look-up, which small problems feel.
def _compiled(method, problem, theta, warm, tol, throw):
    lower = problem.lower
    start = restart(lower, theta, None if warm is None else warm.solution)
    adjoint = None if warm is None else warm.adjoint
    if adjoint is None:
        adjoint = _zero_adjoint(lower, theta, start)
    solution, *found = _evaluate(method, problem, theta, start, adjoint, np.asarray(tol))
    failed = has_failed(solution)
    solution = sentence(lower, solution, tol)
    if throw and failed:
        raise NotConverged(solution.result)
    return _evaluation(solution, *found)


def _evaluation(solution, value, gradient, adjoint, residual, kink, error) -> Evaluation:
    error = None if error is None else ErrorEstimate(*(None if part is None else float(part) for part in error))
    certificate = certify(solution, float(residual), float(kink[0]), kink[1], error)
    return Evaluation(float(value), tree.to_numpy(gradient), solution, adjoint, certificate)


def _on_host(method, problem, theta, warm, tol, throw):
    lower = problem.lower
    start = None if warm is None else warm.solution
    solution = lower.solve(theta, start=start, tol=tol, throw=throw)
    value, (along_x, along_theta) = value_and_pull(problem.criterion, solution.x, theta)
    if throw:
        _check_value(value, theta)
    linearisation = lower.linearise(solution, theta)
    rhs = linearisation.P_transpose(along_x)
    guess = None if warm is None else warm.adjoint
    z, residual = solve_adjoint(linearisation, rhs, method.linear_solver, guess, tol, host=True)
    gradient = tree.subtract(along_theta, linearisation.B_transpose(z))
    error = host_estimate(linearisation, solution, rhs, z, gradient, problem.criterion, theta, method.estimate)
    certificate = certify(solution, residual, linearisation.margin, linearisation.margin_of, error)
    return Evaluation(float(value), gradient, solution, z, certificate)


@eqx.filter_jit
def _evaluate(method, problem, theta, start, adjoint, tol):
    lower = problem.lower
    solution = lower.solve(theta, start=start, tol=tol, throw=False)
    return solution, *_taken_at(method, problem, theta, solution, adjoint, tol)


@eqx.filter_jit
def _evaluate_at(method, problem, theta, solution, adjoint, tol):
    return _taken_at(method, problem, theta, solution, adjoint, tol)


def _taken_at(method, problem, theta, solution, adjoint, tol):
    value, gradient, z, residual, linearisation = _gradient_at(method, problem, solution, theta, adjoint, tol)
    error = None
    if method.estimate:
        error = newton_estimate(problem, solution, theta, z, gradient, linearisation)
        error = error._replace(bound=guaranteed_bound(problem, solution, theta, z, linearisation))
    kink = linearisation.margin, linearisation.margin_of
    return value, gradient, z, residual, kink, error


def _gradient_at(method, problem, solution, theta, adjoint, tol):
    value, (along_x, along_theta) = pull(given(problem.criterion, solution), solution.x, theta)
    linearisation = problem.lower.linearise(solution, theta)
    rhs = linearisation.P_transpose(along_x)
    z, residual = solve_adjoint(linearisation, rhs, method.linear_solver, adjoint, tol, host=False)
    gradient = tree.subtract(along_theta, linearisation.B_transpose(z))
    return value, gradient, z, residual, linearisation


@eqx.filter_jit
def _zero_adjoint(lower, theta, start):
    """A cold adjoint of the right shape, so that the first call and the warm ones share one program."""
    if start is None:
        return None
    return jax.tree.map(jnp.zeros_like, lower.linearise(start, theta).P_transpose(start.x))


def certify(
    solution: Solution, adjoint_residual: float, margin: float, margin_of: str, error: float | ErrorEstimate | None
) -> Certificate:
    """The certificate of an evaluation, with its verdict in words."""
    known = error if isinstance(error, ErrorEstimate) else ErrorEstimate(error, 0.0)
    error = known.estimate
    kink = bool(margin < KINK)
    if kink:
        verdict = (
            f"at a kink ({margin_of}, margin {margin:.1e}): the slope is one-sided, certificate.one_sided gives both"
        )
    else:
        parts = [f"lower residual {float(solution.error):.1e}", f"adjoint residual {adjoint_residual:.1e}"]
        if error is not None and known.linear:
            parts.append(f"gradient within about {error:.1e} (estimate by a Newton step)")
        elif error is not None:
            parts.append(
                f"not yet in the linear regime: a Newton step moves the gradient by {error:.1e}, and its error is not "
                "known by that; take more steps"
            )
        if known.bound is not None:
            parts.append(f"gradient within {known.bound:.1e}, guaranteed")
        if np.isfinite(margin):
            parts.append(f"nearest kink at relative margin {margin:.1e}" + (f" ({margin_of})" if margin_of else ""))
        verdict = "; ".join(parts)
    return Certificate(
        lower_residual=float(solution.error),
        adjoint_residual=float(adjoint_residual),
        error_estimate=error,
        bound=known.bound,
        linear=None if error is None else known.linear,
        margin=float(margin),
        margin_of=margin_of,
        kink=kink,
        verdict=f"{solution.result}; {verdict}",
    )


def _check_value(value: float, theta):
    if not np.isfinite(value):
        raise ValueError(f"the criterion is {value} at theta = {theta}: check its data")


def _raise_if_bad(evaluation: Evaluation, lower: LowerLevel, theta, tol: float, most: float):
    certificate = evaluation.certificate
    if not certificate.lower_residual <= tol:
        raise NotConverged(evaluation.solution.result)
    _check_value(evaluation.value, theta)
    for path, leaf in zip(tree.paths(evaluation.gradient), jax.tree.leaves(evaluation.gradient), strict=True):
        if not np.all(np.isfinite(leaf)):
            raise NotConverged(f"the gradient in {path!r} is not finite at theta = {theta}: {lower.singular}")
    check_adjoint(certificate.adjoint_residual, most)
