"""Implicit: the truncated series, honest error estimates, every solver, no retracing, failures said."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import zoo

import invhyper as ih


def ridge(solver=None, n=60, p=30):
    A, y, held, held_y = zoo.ridge_problem(n, p)
    return ih.Bilevel(ih.Ridge(A, y, solver=solver), ih.HeldOut(held, held_y))


def logistic():
    A, labels, held, held_labels = zoo.logistic_problem(120, 20)
    return ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))


@pytest.mark.parametrize("terms", [1, 7, 40])
@pytest.mark.parametrize("make", [ridge, logistic])
def test_neumann_is_truncated_backpropagation_from_the_fixed_point(make, terms):
    problem = make()
    p = problem.lower.A.shape[1]
    theta, step = {"l2": np.linspace(0.2, 1, p)}, 0.005 if make is ridge else 0.5
    evaluation = ih.Implicit(ih.Neumann(terms, step))(problem, theta, tol=1e-11)
    fixed = jnp.asarray(evaluation.solution.x)
    _, back = jax.vjp(lambda x, l2: x - step * problem.lower.residual(x, {"l2": l2}), fixed, theta["l2"])
    carried, wanted = jax.grad(problem.criterion)(fixed, theta), 0.0
    for _ in range(terms):  # backpropagation through one more step that starts, and ends, at the fixed point
        carried, in_l2 = back(carried)
        wanted = wanted + in_l2
    np.testing.assert_allclose(evaluation.gradient["l2"], wanted, rtol=0, atol=1e-12 * np.linalg.norm(wanted))
    assert evaluation.certificate.adjoint_residual > (1e-3 if terms < 7 else 0)


# Tolerances of the lower level and of the adjoint; a full study stands in test_error_estimate.
SETTINGS = [("ridge", 1e-1, 1e-6), ("ridge", 1e-2, 1e-2), ("ridge", 1e-4, 1e-1), ("logistic", 1e-1, 1e-3)]
SETTINGS += [("logistic", 1e-5, 1e-1)]


@pytest.fixture(scope="module")
def references():
    problems = {"ridge": (ridge(ih.CG()), {"l2": 1.0}), "logistic": (logistic(), {"l2": np.linspace(0.01, 0.05, 20)})}
    return {
        name: (problem, theta, ih.Implicit(ih.Direct())(problem, theta, tol=1e-13).gradient["l2"])
        for name, (problem, theta) in problems.items()
    }


@pytest.mark.parametrize(("name", "tol", "adjoint"), SETTINGS)
def test_error_estimate_is_within_a_factor_two(references, name, tol, adjoint):
    problem, theta, exact = references[name]
    method = ih.Implicit(ih.CG(tol=adjoint), estimate=True)
    evaluation = method(problem, theta, tol=tol, throw=False)
    error = np.linalg.norm(evaluation.gradient["l2"] - exact)
    assert error > 1e-9 * np.linalg.norm(exact)
    assert 0.5 <= evaluation.certificate.error_estimate / error <= 2


def test_error_estimate_where_its_own_solves_are_loose():
    problem = ridge(ih.CG(), n=500, p=400)
    exact = ih.Implicit(ih.CG(tol=1e-14))(problem, {"l2": 30.0}, tol=1e-13).gradient["l2"]
    evaluation = ih.Implicit(ih.CG(tol=1e-3), estimate=True)(problem, {"l2": 30.0}, tol=1e-3, throw=False)
    ratio = evaluation.certificate.error_estimate / abs(evaluation.gradient["l2"] - exact)
    assert 0.5 <= ratio <= 2


def test_estimate_of_a_fixed_point():
    def loss(x, theta):
        return 0.5 * jnp.sum((x - 1) ** 2) + 0.5 * theta["l2"] * jnp.sum(x**2)

    steps = ih.GradientDescent(loss, np.zeros(2), ih.Constant(0.3))
    evaluation = ih.Implicit(estimate=True)(ih.Bilevel(steps, ih.Truth(np.ones(2))), {"l2": 1.0}, tol=1e-3)
    error = abs(evaluation.gradient["l2"] - 0.25)
    assert 0.5 <= evaluation.certificate.error_estimate / error <= 2


@pytest.mark.parametrize(
    "solver",
    [ih.Direct(), ih.CG(), ih.GMRES(), lx.CG(1e-10, 1e-10), lx.GMRES(1e-10, 1e-10), ih.Neumann(3000)],
    ids=lambda solver: f"{type(solver).__module__.split('.')[0]}-{type(solver).__name__}",
)
def test_every_linear_solver_finds_the_closed_form(solver):
    A, y, held, held_y = zoo.ridge_problem(60, 30)
    x, jacobian = zoo.ridge_closed_form(A, y, 5.0)
    wanted = (jacobian.T @ (2 / len(held_y) * held.T @ (held @ x - held_y))).sum()
    evaluation = ih.Implicit(solver)(ridge(), {"l2": 5.0})
    assert evaluation.gradient["l2"] == pytest.approx(wanted, rel=1e-7)


def test_calls_with_new_values_and_warm_starts_share_one_program():
    traces = []

    def criterion(x, theta):
        traces.append(None)
        return jnp.sum(x**2)

    problem = ih.Bilevel(ridge().lower, criterion)
    first = ih.Implicit()(problem, {"l2": 1.0})
    count = len(traces)
    second = ih.Implicit()(problem, {"l2": np.float64(2.0)}, warm=first)
    ih.Implicit()(problem, {"l2": 3.0}, warm=second, tol=1e-9)
    assert len(traces) == count


def test_an_adjoint_that_is_cut_short_is_said_and_shown():
    method = ih.Implicit(ih.CG(max_steps=1))
    with pytest.raises(ih.NotConverged, match="the adjoint stopped at"):
        method(ridge(), {"l2": 0.1})
    assert method(ridge(), {"l2": 0.1}, throw=False).certificate.adjoint_residual > 1e-3


def test_a_lineax_solver_that_is_cut_short_is_said():
    with pytest.raises(ih.NotConverged, match="the adjoint"):
        ih.Implicit(lx.CG(1e-10, 1e-10, max_steps=2))(ridge(), {"l2": 0.1})


def test_an_unconverged_lower_level_is_said_and_shown():
    problem = ridge(ih.CG(max_steps=2))
    with pytest.raises(ih.NotConverged, match="Ridge stopped at"):
        ih.Implicit()(problem, {"l2": 0.1})
    evaluation = ih.Implicit()(problem, {"l2": 0.1}, throw=False)
    assert evaluation.certificate.lower_residual > 1e-8
    assert "Ridge stopped at" in evaluation.certificate.verdict


def test_a_criterion_that_is_not_finite_or_not_scalar_is_said():
    with pytest.raises(ValueError, match="the criterion is nan"):
        ih.Implicit()(ih.Bilevel(ridge().lower, lambda x, theta: jnp.log(-jnp.sum(x**2))), {"l2": 1.0})
    with pytest.raises(ValueError, match="a scalar is wanted"):
        ih.Implicit()(ih.Bilevel(ridge().lower, lambda x, theta: x), {"l2": 1.0})


def test_criterion_that_depends_on_theta_itself():
    problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), lambda x, theta: jnp.sum(x) * theta["l2"])
    assert ih.Implicit()(problem, {"l2": 1.0}).gradient["l2"] == pytest.approx(0.5, rel=1e-13)
