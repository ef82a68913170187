"""Smooth losses: closed forms, the seed ODE, trees, saddles, NaN, and a constant compile count."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih


def test_seed_ode_closed_form():
    _, data, decay, driven = zoo.seed_ode()
    inside, outside = slice(0, None, 2), slice(1, None, 2)

    def misfit(rows):
        return lambda p, theta: jnp.sum((theta["q"] * decay[rows] + p * driven[rows] - data[rows]) ** 2)

    problem = ih.Bilevel(ih.Smooth(misfit(inside), start=1.0), misfit(outside))
    evaluation = ih.Implicit()(problem, {"q": 0.4})
    assert float(evaluation.solution.x) == pytest.approx(1.43672283939, abs=1e-11)
    assert float(evaluation.gradient["q"]) == pytest.approx(-2.12846620416, abs=1e-11)


def test_tree_of_unknowns_and_of_theta():
    def loss(x, theta):
        return jnp.sum(jnp.cosh(x["u"] - theta["shift"]["a"])) + 0.5 * (x["v"] - theta["b"] * x["u"][0]) ** 2

    lower = ih.Smooth(loss, {"u": np.zeros(3), "v": 0.0})
    evaluation = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x["v"] ** 2), {"shift": {"a": 2.0}, "b": 3.0})
    np.testing.assert_allclose(evaluation.solution.x["u"], 2.0, rtol=1e-12)
    np.testing.assert_allclose(evaluation.value, 36.0, rtol=1e-12)
    np.testing.assert_allclose(evaluation.gradient["b"], 24.0, rtol=1e-11)
    np.testing.assert_allclose(evaluation.gradient["shift"]["a"], 36.0, rtol=1e-11)


def test_rosenbrock_valley():
    lower = ih.Smooth(lambda x, theta: (theta["a"] - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, np.array([-1.2, 1.0]))
    solution = ih.solve(lower, {"a": 1.5})
    np.testing.assert_allclose(solution.x, [1.5, 2.25], rtol=1e-10)
    gradient = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x[1]), {"a": 1.5}).gradient["a"]
    assert gradient == pytest.approx(3.0, rel=1e-9)


def test_many_unknowns_use_conjugate_gradients():
    curvature = np.linspace(1, 50, 400)

    def loss(x, theta):
        return 0.5 * jnp.sum(curvature * (x - theta["a"]) ** 2) + 0.25 * jnp.sum((x - theta["a"]) ** 4)

    evaluation = ih.Implicit()(ih.Bilevel(ih.Smooth(loss, np.zeros(400)), lambda x, theta: jnp.sum(x)), {"a": 1.0})
    np.testing.assert_allclose(evaluation.solution.x, 1.0, atol=1e-10)
    assert evaluation.gradient["a"] == pytest.approx(400.0, rel=1e-8)
    assert evaluation.solution.memo is None


def test_a_warm_start_saves_steps_and_neither_it_nor_new_values_retrace():
    traces = []

    def loss(x, theta):
        traces.append(None)
        return jnp.sum(jnp.cosh(x - theta["a"])) + 0.5 * jnp.sum(jnp.diff(x) ** 2) + jnp.sum(x**2)

    problem = ih.Bilevel(ih.Smooth(loss, np.zeros(5)), lambda x, theta: jnp.sum(x**2))
    cold = ih.Implicit()(problem, {"a": 1.0})
    count = len(traces)
    warm = ih.Implicit()(problem, {"a": 1.01}, warm=cold)
    ih.Implicit()(problem, {"a": np.asarray(1.02)}, warm=warm, tol=1e-10)
    ih.Implicit()(problem, {"a": 3.0})
    assert len(traces) == count
    assert warm.solution.steps < cold.solution.steps


@pytest.mark.parametrize(
    ("loss", "start", "said"),
    [
        (lambda x, theta: jnp.sum((x**2 - theta["a"]) ** 2), np.zeros(2), "not positive definite"),
        (lambda x, theta: jnp.sum((x[:1] - theta["a"]) ** 2), np.zeros(2), "not positive definite"),
        (lambda x, theta: jnp.sum(jnp.log(x) * theta["a"]), -np.ones(2), "NaN or infinity"),
        (lambda x, theta: theta["a"] * x[0], np.zeros(2), "raise max_steps"),
    ],
    ids=["maximum", "flat", "nan", "unbounded"],
)
def test_no_strict_minimum_is_said(loss, start, said):
    problem = ih.Bilevel(ih.Smooth(loss, start, max_steps=100), lambda x, theta: jnp.sum(x))
    for run in (lambda: ih.solve(problem.lower, {"a": 1.0}), lambda: ih.Implicit()(problem, {"a": 1.0})):
        with pytest.raises(ih.NotConverged, match=said):
            run()
    said_softly = ih.solve(problem.lower, {"a": 1.0}, throw=False)
    assert said.split()[0] in said_softly.result


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ih.Smooth(3.0, np.zeros(2)), "wants a function"),
        (lambda: ih.Smooth(lambda x, theta: x.sum(), np.array([np.nan])), "start holds NaN"),
        (lambda: ih.Smooth(lambda x, theta: x.sum(), {}), "start holds no array"),
        (lambda: ih.solve(ih.Smooth(lambda x, theta: x**2, np.ones(2)), {"a": 1.0}), "a scalar is wanted"),
        (lambda: ih.solve(ih.Smooth(lambda x, theta: jnp.sum(x**2), np.ones(2)), {"a": np.inf}), "not a finite number"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_tolerance_is_relative_to_the_scale_of_the_terms():
    for size in (1e-6, 1e6):
        lower = ih.Smooth(lambda x, theta, size=size: size * jnp.sum((x - theta["a"]) ** 2), np.zeros(3))
        assert np.allclose(ih.solve(lower, {"a": 1.0}).x, 1.0, rtol=1e-8)


def test_a_warm_start_in_newtons_region_takes_newton_steps_alone():
    """L-BFGS has nothing to do there, and at the solution would stir in the rounding: at most one step is left."""
    A, labels, _, _ = zoo.logistic_problem()
    lower = ih.Smooth(
        lambda x, theta: jnp.mean(jnp.logaddexp(0.0, -labels * (A @ x))) + theta["l2"] * x @ x, np.zeros(6)
    )
    cold = ih.solve(lower, {"l2": 0.1})
    again = ih.solve(lower, {"l2": 0.1}, start=cold)
    near = ih.solve(lower, {"l2": 0.11}, start=cold)
    assert int(again.steps) <= 1 < int(near.steps) <= 4 < int(cold.steps)
    np.testing.assert_allclose(near.x, ih.solve(lower, {"l2": 0.11}).x, rtol=1e-11)
