"""Maximum likelihood of a population: search, Newton's last steps, standard errors."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper import tree
from invhyper.covariance import cholesky
from invhyper.criteria.likelihood import Method
from invhyper.hypergradient.implicit import Implicit
from invhyper.parameters import Parameters, linear, log
from invhyper.population.estimates import PopulationFit, estimates
from invhyper.problem import Evaluation, NotConverged
from invhyper.search.tune import tune

# Steps of the differences that give the Hessian: a first look, then this share of each standard error.
LOOK, SHARE = 1e-5, 1e-3
# The search ends here (relative gradient), since Newton's steps follow.
NEAR = 1e-5
# Newton's steps go on until they foretell less than this, in -2 log L.
STILL, MOST = 1e-12, 8
# Where they gain more than this, the Hessian is that of another place.
MOVED = 1e-7


def scales(theta: PyTree) -> Parameters:
    """theta as it is searched: fixed effects as they are, omega by its Cholesky factor, sigma in logarithms."""
    return Parameters(
        fixed=jax.tree.map(linear, theta["fixed"]),
        omega=cholesky(theta["omega"]),
        sigma=jax.tree.map(log, theta["sigma"]),
    )


def fit(
    population,
    theta0: PyTree,
    method: Method,
    *,
    skip_failed: bool = False,
    tol: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    watch: Sequence[Callable] = (),
) -> PopulationFit:
    """The theta that maximises the likelihood by a method, and what it says of every subject.

    The search follows exact gradients (`tune`, L-BFGS-B) and ends with Newton's steps; fixed effects are searched
    as they are, omega by its Cholesky factor, sigma in logarithms. Standard errors are those of the observed
    information, the Hessian of -log L, from differences of the exact gradient.

    **Arguments**: `theta0`: the start. Covariances that are zero in theta0["omega"] stay zero: a diagonal start is
    fitted as a diagonal matrix, a full one wants numbers off its diagonal. `skip_failed`: True goes on without
    subjects whose random effects are not found at theta0, and lists them in `failed`; the search never takes a step
    to where one of the others fails. `tol`, `steps`, `seconds`, `watch`: as for `tune`.

    Raises ValueError for a bad theta0, `NotConverged` where a subject fails at theta0; it is named.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> t = np.arange(4.0)
    >>> records = [ih.Records(t, 4 * np.exp(-k * t) + 0.1 * np.cos(9 * k * t)) for k in (0.3, 0.5, 0.6, 0.8)]
    >>> cells = ih.MixedEffects(
    ...     predict=lambda phi, covariates, t: 4 * jnp.exp(-phi * t),
    ...     individual=lambda fixed, eta, covariates: fixed["rate"] + eta[0],
    ...     records=records, error=ih.AdditiveError(),
    ... )
    >>> start = {"fixed": {"rate": 0.4}, "omega": np.array([[0.1]]), "sigma": 0.2}
    >>> found = cells.fit(start, ih.FOCEI())
    >>> float(found.theta["fixed"]["rate"].round(2)), float(found.standard_errors["fixed"]["rate"].round(2))
    (0.55, 0.09)
    """
    began = time.perf_counter()
    theta0 = tree.to_numpy(population.check(theta0, method))
    parameters = scales(theta0)
    population, failed, objective, compiling = _begin(population, theta0, method, parameters, skip_failed)
    problem = objective.problem
    tol = NEAR if tol is None else tol
    report = tune(problem, parameters, objective.hypergradient, watch=watch, tol=tol, steps=steps, seconds=seconds)
    u = parameters.search(report.theta)
    u, hessian, polished = _newton(objective, u)
    theta = parameters.natural(u)
    evaluation = objective.evaluate(theta)
    took = {"compile": compiling, "run": time.perf_counter() - began - compiling}
    message = report.message if polished is None else f"{report.message}; {polished}"
    return estimates(
        population, method, parameters, theta, evaluation, hessian, failed, objective.count, took, message, report
    )


class _Objective:
    """-2 log L and its gradient on the search scale; each evaluation starts from the last."""

    def __init__(self, problem, parameters: Parameters):
        self.problem, self.parameters, self.implicit = problem, parameters, Implicit()
        self.last: Evaluation | None = None
        self.count = 0

    def hypergradient(self, problem, theta, *, warm=None, tol=1e-8, throw=True) -> Evaluation:
        """What `tune` calls."""
        self.count += 1
        warm = self.last if warm is None else warm
        self.last = self.implicit(problem, theta, warm=warm, tol=tol, throw=throw)
        return self.last

    def evaluate(self, theta) -> Evaluation:
        return self.hypergradient(self.problem, theta)

    def __call__(self, u) -> tuple[float, np.ndarray]:
        found = self.evaluate(self.parameters.natural(u))
        return found.value, self.parameters.pull(u, found.gradient)


def _begin(population, theta, method: Method, parameters: Parameters, skip: bool):
    """The population without those whose random effects are not found at theta, who they are and why, the objective,
    and how long its compilation took."""
    failed = {}
    while True:
        objective = _Objective(population.problem(method), parameters)
        first, took = _timed(objective, theta)
        lower, solution = objective.problem.lower, first.solution
        bad = lower.failures(solution)
        if not bad:
            return population, failed, objective, max(0.0, took - _timed(objective, theta)[1])
        if not skip:
            said = lower.explain(solution)
            raise NotConverged(f"{said}. Give a better theta0, or fit(..., skip_failed=True) to go on without")
        if len(bad) == len(population):
            raise NotConverged(f"no subject is left: {lower.explain(solution)}")
        population, failed = population.without(list(bad)), {**failed, **bad}


def _timed(objective: _Objective, theta):
    before = time.perf_counter()
    evaluation = objective.hypergradient(objective.problem, theta, throw=False)
    return evaluation, time.perf_counter() - before


def _newton(objective: _Objective, u):
    """u after Newton's steps with the Hessian there, and the Hessian; None and a sentence where it is not definite."""
    try:
        hessian = differences(objective, u)
        factor = np.linalg.cholesky(hessian)
    except (np.linalg.LinAlgError, NotConverged, ValueError) as failure:
        said = (
            "not positive definite: this is no strict maximum of the likelihood"
            if isinstance(failure, np.linalg.LinAlgError)
            else f"not to be had ({failure})"
        )
        return u, None, f"no standard errors: the Hessian of -2 log L is {said}"
    value, slope = objective(u)
    taken, gained = 0, 0.0
    for _ in range(MOST):
        half = np.linalg.solve(factor, slope)
        foretold = 0.5 * half @ half
        if foretold < STILL:
            break
        step = -np.linalg.solve(factor.T, half)
        try:
            there, slope_there = objective(u + step)
        except (NotConverged, ValueError):
            break
        if not there <= value + STILL:
            break
        u, value, slope, taken, gained = u + step, there, slope_there, taken + 1, gained + foretold
    if gained > MOVED:
        hessian = differences(objective, u)
    half = np.linalg.solve(factor, slope)
    return u, hessian, f"after {taken} of Newton's steps the next would gain {0.5 * half @ half:.1e}"


def differences(objective: Callable, u) -> np.ndarray:
    """The Hessian of a function by central differences of its exact gradient, symmetric.

    A first look, one-sided, finds out how far each coordinate may move: a small share of its standard error.
    """
    u = np.asarray(u, float)
    _, slope = objective(u)
    steps = LOOK * np.maximum(np.abs(u), 1e-3)
    for k, step in enumerate(steps):
        bend = (objective(u + step * np.eye(u.size)[k])[1][k] - slope[k]) / step
        steps[k] = SHARE * np.sqrt(2 / abs(bend)) if bend else step
    columns = [(objective(u + step)[1] - objective(u - step)[1]) / (2 * np.max(step)) for step in np.diag(steps)]
    return 0.5 * (np.array(columns) + np.array(columns).T)
