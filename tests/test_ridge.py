"""Ridge: the closed form on both sides of n = p, by factor, CG and sparse; tolerances held; singular systems said."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import zoo

import invhyper as ih

SOLVERS = {
    "factor": lambda A, y: ih.Ridge(A, y),
    "cg": lambda A, y: ih.Ridge(A, y, solver=ih.CG()),
    "sparse": lambda A, y: ih.Ridge(scipy.sparse.csr_array(A), y),
}


@pytest.mark.parametrize("l2", ["shared", "each"])
@pytest.mark.parametrize(("n", "p"), [(40, 15), (15, 40)], ids=["tall", "wide"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_closed_form(solver, n, p, l2):
    A, y, held, held_y = zoo.ridge_problem(n, p)
    l2 = 0.7 if l2 == "shared" else np.linspace(0.1, 2, p)
    x, jacobian = zoo.ridge_closed_form(A, y, l2)
    gradient = jacobian.T @ (2 / len(held_y) * held.T @ (held @ x - held_y))
    found = ih.Implicit()(ih.Bilevel(SOLVERS[solver](A, y), ih.HeldOut(held, held_y)), {"l2": l2}, tol=1e-12)
    np.testing.assert_allclose(found.solution.x, x, atol=1e-11)
    np.testing.assert_allclose(found.gradient["l2"], gradient if np.ndim(l2) else gradient.sum(), rtol=1e-9)


def test_objective_and_residual_are_the_docstring():
    A, y, *_ = zoo.ridge_problem(8, 3)
    x, l2, lower = np.arange(3.0), np.array([1.0, 2.0, 3.0]), ih.Ridge(A, y)
    assert lower.objective(x, {"l2": l2}) == pytest.approx(0.5 * np.sum((A @ x - y) ** 2) + 0.5 * np.sum(l2 * x**2))
    np.testing.assert_allclose(lower.residual(x, {"l2": l2}), A.T @ (A @ x - y) + l2 * x, rtol=1e-13)


def test_cg_stops_at_the_tolerance_asked():
    A, y, *_ = zoo.ridge_problem(60, 30)
    lower = ih.Ridge(A, y, solver=ih.CG())
    errors = [float(ih.solve(lower, {"l2": 1.0}, tol=tol).error) for tol in (1e-1, 1e-3, 1e-6)]
    for error, tol in zip(errors, (1e-1, 1e-3, 1e-6), strict=True):
        assert 1e-3 * tol < error <= tol


def test_a_cg_that_is_cut_short_is_said():
    A, y, *_ = zoo.ridge_problem(60, 30)
    with pytest.raises(ih.NotConverged, match="Ridge stopped at .* raise max_steps or loosen tol"):
        ih.solve(ih.Ridge(A, y, solver=ih.CG(max_steps=2)), {"l2": 1.0})


@pytest.mark.parametrize("solver", ["factor", "cg"])
@pytest.mark.parametrize("matrix", ["wide", "repeated columns"])
def test_no_weight_on_a_singular_system_is_said(matrix, solver):
    A, y, *_ = zoo.ridge_problem(15, 40 if matrix == "wide" else 4)
    A = A if matrix == "wide" else np.tile(A, (1, 2))
    problem = ih.Bilevel(SOLVERS[solver](A, y), lambda x, theta: jnp.sum(x * jnp.arange(x.size)))
    with pytest.raises(ih.NotConverged, match="not positive definite|singular"):
        ih.Implicit()(problem, {"l2": 0.0})


def test_nearly_singular_systems_are_refined():
    A, y, *_ = zoo.ridge_problem(15, 40)
    x = ih.solve(ih.Ridge(A, y), {"l2": 1e-4}).x
    wanted = A.T @ np.linalg.solve(A @ A.T + 1e-4 * np.eye(15), y)
    np.testing.assert_allclose(x, wanted, rtol=1e-8)


def test_zero_target_has_the_zero_solution():
    evaluation = ih.Implicit()(ih.Bilevel(ih.Ridge(np.eye(3), np.zeros(3)), ih.Truth(np.ones(3))), {"l2": 1.0})
    assert not np.any(evaluation.solution.x) and evaluation.gradient["l2"] == 0.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ih.Ridge(np.eye(3), np.ones(2)), r"y \(n,\)"),
        (lambda: ih.Ridge(np.array([[np.inf]]), np.ones(1)), "A holds NaN or infinity"),
        (lambda: ih.Ridge(np.ones((0, 2)), np.ones(0)), "at least one row"),
        (lambda: ih.solve(ih.Ridge(np.eye(3), np.ones(3)), {"l2": np.ones(2)}), r"a scalar or \(3,\)"),
        (lambda: ih.solve(ih.Ridge(np.eye(3), np.ones(3)), {"l2": np.array([1, -2, 1])}), "-2 .entry 1 of 3. is below"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(ValueError, match=said):
        make()
