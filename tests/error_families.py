"""Hypergradients at the x_T of finite runs, T from 10 to 10,000, in five families of problems, and the exact ones."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import zoo

import invhyper as ih

LENGTHS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
QUALIFYING = (1e-10, 0.1)  # relative errors of the gradient
METHOD = ih.Implicit(estimate=True)


class Case(NamedTuple):
    """What was found at one x_T: its relative error, the estimate as a part of it, what the certificate holds."""

    family: str
    steps: int
    error: float
    ratio: float
    linear: bool
    bound_ratio: float | None
    same_stratum: bool
    verdict: str

    @property
    def qualifies(self) -> bool:
        """Whether the issue's claim is about this case."""
        return self.same_stratum and QUALIFYING[0] <= self.error <= QUALIFYING[1]

    @property
    def good(self) -> bool:
        return 0.5 <= self.ratio <= 2.0


@eqx.filter_jit
def advance(iteration, state, theta, steps):
    return jax.lax.fori_loop(0, steps, lambda i, state: iteration.step(state, theta, jnp.zeros((), int)), state)


def follow(family, problem, iteration, theta, exact, wrap, on_stratum=None, lengths=LENGTHS):
    """The cases of one problem: a run of `iteration`, looked at after each of `lengths` steps.

    `on_stratum(state, x)` says whether x_T is on the stratum of x.
    """
    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), theta)
    state, done, cases = iteration.init(theta), 0, []
    size = float(ih.tree.norm(exact.gradient))
    for steps in lengths:
        state, done = advance(iteration, state, theta, jnp.asarray(steps - done)), steps
        found = METHOD.at(problem, theta, wrap(state))
        certificate = found.certificate
        error = float(ih.tree.norm(ih.tree.subtract(found.gradient, exact.gradient)))
        known = on_stratum is None or on_stratum(state, exact.solution.x)
        off = max(error, np.finfo(float).tiny)
        bound = None if certificate.bound is None else certificate.bound / off
        ratio = certificate.error_estimate / off
        cases.append(Case(family, steps, error / size, ratio, certificate.linear, bound, known, certificate.verdict))
    return cases


def ridge(seed):
    A, y, held, target = zoo.ridge_problem(seed=seed)
    lower = ih.Ridge(A, y)
    theta = {"l2": np.geomspace(0.02, 1.0, 15) * 10 ** (seed % 3 - 1.0)}
    problem = ih.Bilevel(lower, ih.HeldOut(held, target))
    return follow("ridge", problem, lower.iteration(), theta, ih.Implicit()(problem, theta, tol=1e-13), ih.Solution)


def logistic(seed):
    A, labels, held, target = zoo.logistic_problem(seed=seed)
    lower = ih.Logistic(A, labels)
    theta = {"l2": np.asarray(10.0 ** (-1 - seed % 3))}
    problem = ih.Bilevel(lower, ih.HeldOut(held, target))
    return follow("logistic", problem, lower.iteration(), theta, ih.Implicit()(problem, theta, tol=1e-13), ih.Solution)


def lasso(seed):
    problem, _, top = zoo.diabetes_lasso(seed)
    theta = {"weight": np.asarray(top * (0.3, 0.05, 0.01)[seed % 3])}
    exact, iteration = ih.Implicit()(problem, theta), problem.lower.iteration()
    running = ih.Bilevel(ih.FixedPoint(iteration), problem.criterion)
    return follow("lasso", running, iteration, theta, exact, _with_state(iteration), _same_signs)


def total_variation(seed):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.standard_normal(6), 6)
    lower = ih.TotalVariation(truth + 0.2 * rng.standard_normal(36))
    theta = {"weight": np.asarray((0.1, 0.3, 0.8)[seed % 3])}
    exact, iteration = ih.Implicit()(ih.Bilevel(lower, ih.Truth(truth)), theta), lower.iteration()
    running = ih.Bilevel(ih.FixedPoint(iteration), ih.Truth(truth))
    return follow("total variation", running, iteration, theta, exact, _with_state(iteration), _same_jumps)


def _same_signs(state, x):
    return np.array_equal(np.sign(state), np.sign(x))


def _same_jumps(state, x):
    """A run has no exact ties in x: they are those of the split variable."""
    jumps = np.diff(x)
    split = np.sign(np.ravel(state[1][0]))[: jumps.size]
    return np.array_equal(split, np.where(np.abs(jumps) > 1e-10, np.sign(jumps), 0.0))


def seed_ode(seeds, lengths=(1000, 1200, 1500, 1800, 2100, 2500, 3000, 10_000)):
    """x' = p_1 - p_0 x, x(0) = q, by gradient descent on the fit; one compiled program for all data."""
    times = np.linspace(0.2, 4.0, 12)

    def curve(t, q):
        return 1.5 + (q - 1.5) * np.exp(-t)

    def calibration(t, data):
        return ih.Calibration(
            lambda t, x, p, theta: p[1] - p[0] * x,
            lambda p, theta: theta["q"],
            lambda t, x, p, theta: x,
            t,
            data,
            noise=0.3,
            start=np.array([0.6, 1.4]),
        )

    cases = []
    fit, held = (calibration(t, curve(t, 0.4)) for t in (times, times + 0.1))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        mine, theirs = (
            eqx.tree_at(
                lambda c: c.measured.values,
                each,
                jnp.asarray(curve(t, 0.4) + 0.05 * rng.standard_normal(12))[None, :, None],
            )
            for each, t in ((fit, times), (held, times + 0.1))
        )
        problem, theta = ih.Bilevel(mine, ih.Misfit(theirs)), {"q": np.asarray(0.3 + 0.1 * (seed % 3))}
        loss = jax.tree_util.Partial(type(mine).objective, mine)
        iteration = ih.GradientDescent(loss, jnp.array([0.6, 1.4]), ih.Constant(np.asarray(0.005)))
        exact = ih.Implicit()(problem, theta, tol=1e-12)
        cases += follow("seed ODE", problem, iteration, theta, exact, _plain(iteration), None, lengths)
    return cases


def _plain(iteration) -> Any:
    return lambda state: ih.Solution(iteration.output(state))


def _with_state(iteration) -> Any:
    return lambda state: ih.Solution(iteration.output(state), memo=state)


FAMILIES = {"ridge": ridge, "logistic": logistic, "lasso": lasso, "total variation": total_variation}


def all_cases(family: str, seeds) -> list[Case]:
    """The cases of a family over its seeds."""
    if family == "seed ODE":
        return seed_ode(seeds)
    return [case for seed in seeds for case in FAMILIES[family](seed)]
