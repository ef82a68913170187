"""Unrolled: the exact slope of a finite run by differences, its limit, warm starts, and the door."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih


def problem():
    A, y, held, held_y = zoo.ridge_problem(30, 6)
    return ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(held, held_y))


def test_two_steps_by_hand():
    step = 1 / (1.02 * 4 + 3)
    lower = ih.Ridge(2 * np.eye(2), np.ones(2))
    evaluation = ih.Unrolled(2)(ih.Bilevel(lower, lambda x, theta: jnp.sum(x)), {"l2": 3.0})
    first = 2 * step
    np.testing.assert_allclose(evaluation.solution.x, first - step * (7 * first - 2), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_slope_is_that_of_the_truncated_run(steps):
    method = ih.Unrolled(steps)
    slope = float(method(problem(), {"l2": 2.0}).gradient["l2"])
    measured = zoo.central_difference(lambda w: method(problem(), {"l2": w}).value, 2.0, 1.0, 1e-3)
    assert slope == pytest.approx(measured, rel=1e-8)


def test_long_runs_approach_implicit():
    A, labels, held, held_labels = zoo.logistic_problem()
    for bilevel in (problem(), ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))):
        exact = float(ih.Implicit()(bilevel, {"l2": 0.5}).gradient["l2"])
        assert float(ih.Unrolled(800)(bilevel, {"l2": 0.5}).gradient["l2"]) == pytest.approx(exact, rel=1e-7)


def test_a_warm_start_begins_at_its_x():
    exact = ih.Implicit()(problem(), {"l2": 2.0})
    short = ih.Unrolled(1)(problem(), {"l2": 2.0}, warm=exact)
    np.testing.assert_allclose(short.solution.x, exact.solution.x, rtol=1e-10)
    assert short.certificate.lower_residual < 1e-12


def test_smooth_needs_a_step():
    def loss(x, theta):
        return jnp.sum((x - theta["a"]) ** 2)

    with pytest.raises(TypeError, match="give one, Smooth"):
        ih.Unrolled(3)(ih.Bilevel(ih.Smooth(loss, np.zeros(2)), ih.Truth(np.ones(2))), {"a": 2.0})
    bilevel = ih.Bilevel(ih.Smooth(loss, np.zeros(2), step=0.25), lambda x, theta: jnp.sum(x))
    assert ih.Unrolled(3)(bilevel, {"a": 2.0}).gradient["a"] == pytest.approx(2 * (1 - 0.5**3), rel=1e-13)


def test_a_run_that_explodes_is_said():
    lower = ih.Smooth(lambda x, theta: theta["a"] * jnp.sum(x**4), np.full(2, 10.0), step=1.0)
    with pytest.raises(ih.NotConverged, match="left the finite numbers at step 4 of 50: its loss was 3.7e.139"):
        ih.Unrolled(50)(ih.Bilevel(lower, ih.Truth(np.ones(2))), {"a": 1.0})


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_are_checked(steps):
    with pytest.raises(ValueError, match="a whole number, at least 1"):
        ih.Unrolled(steps)


def test_a_lower_level_without_an_iteration_is_said():
    lower = ih.Together([ih.Ridge(np.eye(2), np.ones(2))])
    with pytest.raises(TypeError, match="Use Implicit"):
        ih.Unrolled(5)(ih.Bilevel(lower, lambda x, theta: jnp.sum(x[0])), {"l2": 0.1})
