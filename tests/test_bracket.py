"""Bracket: the global minimum of functions with kinks and several minima, counted in lower-level solves."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih


@pytest.fixture(scope="module")
def diabetes():
    problem, n, weight_max = zoo.diabetes_lasso()
    solution = None

    def value(weight):
        nonlocal solution
        solution, F = problem.solve_and_value({"weight": weight}, start=solution)
        return F

    weight, best = zoo.least_on_grid(value, 1e-5 * weight_max, weight_max)
    return problem, n, weight_max, weight, best


def test_grid_finds_the_published_minimum(diabetes):
    _, n, _, weight, best = diabetes
    assert weight / n == pytest.approx(0.00952, abs=1e-5)
    assert best == pytest.approx(0.48264116, abs=5e-9)


@pytest.mark.parametrize("below", [10, 1e4])
def test_global_minimum_of_the_diabetes_lasso_in_thirty_solves(diabetes, below):
    problem, _, weight_max, _, best = diabetes
    weight = ih.log(weight_max / below, 1e-5 * weight_max, weight_max)
    report = ih.tune(problem, ih.Parameters(weight=weight), search=ih.Bracket())
    assert report.value - best <= 1e-9
    assert report.history[-1].solves <= 30


def test_l2_logistic_on_breast_cancer():
    A, labels, held, held_labels = zoo.breast_cancer()
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))
    report = ih.tune(problem, ih.Parameters(l2=ih.log(1e-1, 1e-6, 1e1)), search=ih.Bracket())
    assert float(report.theta["l2"]) == pytest.approx(0.0060869560, rel=1e-5)
    assert report.value == pytest.approx(0.10807402131945, abs=1e-10)
    assert report.history[-1].solves <= 25


LEFT_WELL = float(np.min(np.roots([4, 0, -4, 0.1]).real))
# Curves with known minima: a function of u and (where, F) of its global minimum.
CURVES = {
    "parabola": (lambda u: 1 + (u - 0.3) ** 2, 0.3, 1.0),
    "kink between straight lines": (lambda u: jnp.maximum(-0.5 * (u - 0.2), 2 * (u - 0.2)) + 3, 0.2, 3.0),
    "kink between curved arms": (lambda u: jnp.exp(jnp.abs(u + 0.4)) + 0.1 * jnp.sin(u + 0.4), -0.4, 1.0),
    "minimum at the lower bound": (lambda u: jnp.exp(u), -3.0, np.exp(-3.0)),
    "minimum at the upper bound": (lambda u: -u + 0.1 * jnp.cos(u), 3.0, -3.0 + 0.1 * np.cos(3.0)),
    "double well": (lambda u: (u**2 - 1) ** 2 + 0.1 * u, LEFT_WELL, (LEFT_WELL**2 - 1) ** 2 + 0.1 * LEFT_WELL),
    "plateau": (lambda u: jnp.minimum((u + 1) ** 2, 1.0), -1.0, 0.0),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("start", [-2.9, 0.0, 2.5])
def test_curves_with_known_minima(name, start):
    curve, where, least = CURVES[name]
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: curve(x))
    report = ih.tune(problem, ih.Parameters(t=ih.linear(start, -3.0, 3.0)), search=ih.Bracket())
    assert report.value - least <= 1e-9 * max(1.0, abs(least))
    assert float(report.theta["t"]) == pytest.approx(where, abs=1e-4)


def test_what_bracket_says_at_the_end():
    def end(curve, **settings):
        problem = ih.Bilevel(zoo.Identity(), lambda x, theta: curve(x))
        return ih.tune(problem, ih.Parameters(t=ih.linear(0.7, -3.0, 3.0)), search=ih.Bracket(**settings)).message

    assert "between slopes -1.0e+00 and 1.0e+00" in end(lambda u: jnp.abs(u - 0.1) + 1)
    assert end(lambda u: u) == "F is smallest at a bound and still falls there"
    assert end(lambda u: 0 * u + 1) == "stationary: the slope is zero"
    assert end(lambda u: (u - 0.1) ** 4 + 1, solves=8).startswith("Bracket spent its 8 evaluations")


def test_a_scale_and_a_shift_of_u_and_a_scale_of_F_change_nothing():
    """The steps depend on ratios only: the same places are visited in any units."""

    def visited(stretch, shift, factor):
        def curve(x, theta):
            u = (x - shift) / stretch
            return factor * (2 + jnp.cos(5 * u) + 0.3 * jnp.abs(u - 0.5))

        bounds = [shift + stretch * u for u in (0.1, -1.0, 2.0)]
        report = ih.tune(ih.Bilevel(zoo.Identity(), curve), ih.Parameters(t=ih.linear(*bounds)), search=ih.Bracket())
        return [(float(step.theta["t"]) - shift) / stretch for step in report.history]

    np.testing.assert_allclose(visited(1024.0, 0.0, 0.125), visited(1.0, 0.0, 1.0), rtol=1e-9)


def test_walls_are_stepped_round():
    """The lower level fails on two stretches; the global minimum between them is still found."""
    lower = zoo.Identity(fails=lambda t: abs(t + 2.2) < 0.3 or t > 1.9)
    problem = ih.Bilevel(lower, lambda x, theta: jnp.cos(3 * x) + 0.1 * jnp.abs(x + 0.2))
    report = ih.tune(problem, ih.Parameters(t=ih.linear(0.0, -3.0, 3.0)), search=ih.Bracket())
    assert float(report.theta["t"]) == pytest.approx((np.arcsin(1 / 30) - np.pi) / 3, abs=1e-5)
    assert "could not be evaluated" in report.message
