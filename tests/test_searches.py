"""LBFGSB, Adam and Descent: known optima, bounds and kinks. What is special to Descent is in test_descent.py."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih

# F = sum_i c_i (t_i - a_i)^2: smallest at a, or at the bound where a lies outside [0, 5].
CENTRE, WEIGHT = np.array([1.0, 3.0, -2.0, 9.0]), np.array([1.0, 4.0, 0.5, 2.0])
OPTIMUM = np.array([1.0, 3.0, 0.0, 5.0])
LEAST = float(np.sum(WEIGHT * (OPTIMUM - CENTRE) ** 2))


def bowl(**settings):
    criterion = lambda x, theta: jnp.sum(WEIGHT * (x - CENTRE) ** 2)  # noqa: E731
    return ih.Bilevel(zoo.Identity(**settings), criterion), ih.Parameters(t=ih.linear(np.full(4, 2.5), 0.0, 5.0))


@pytest.mark.parametrize("search", [ih.LBFGSB(), ih.Descent(), ih.Adam(rate=0.2, steps=1000)])
def test_bowl_with_two_bounds_active(search):
    """A projected gradient within tol of the scale puts the free entries, of curvature 2 or more, half as far away."""
    report = ih.tune(*bowl(), search=search)
    scale = np.linalg.norm(report.history[0].gradient["t"])
    np.testing.assert_allclose(report.theta["t"], OPTIMUM, atol=0.5e-6 * scale)
    assert report.value - LEAST < (1e-6 * scale) ** 2
    assert all(np.all((step.theta["t"] >= 0) & (step.theta["t"] <= 5)) for step in report.history)


@pytest.mark.parametrize("search", [ih.LBFGSB(), ih.Descent()])
def test_tolerance_is_what_the_message_says(search):
    for tol in (1e-2, 1e-5):
        report = ih.tune(*bowl(), search=search, tol=tol)
        assert report.message.startswith("stationary: projected gradient") and f"within tol {tol:.1e}" in report.message
        start = report.history[0]
        scale = max(abs(start.value), np.linalg.norm(start.gradient["t"]))
        assert min(step.gradient_norm for step in report.history) <= tol * scale * (1 + 1e-12)


@pytest.mark.parametrize("start", [(4.0, 0.3), (-3.0, 2.0), (0.0, 0.5)])
def test_lbfgsb_ends_at_the_bottom_of_a_kink(start):
    """F = |a - 1| + 5 |b - a| + b^2/4 is smallest, 1/4, where two kinks cross: a line search alone stays 1e-3 above."""
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.abs(x[0] - 1) + 5 * jnp.abs(x[1] - x[0]) + x[1] ** 2 / 4)
    report = ih.tune(problem, ih.Parameters(t=ih.linear(np.array(start), -9, 9)), search=ih.LBFGSB())
    assert report.value - 0.25 < 1e-9
    np.testing.assert_allclose(report.theta["t"], [1, 1], atol=1e-8)
    assert report.message.startswith("no step decreases F further: the slopes around the best point combine to")


def test_kinks_of_many_hyperparameters_and_a_bound():
    """Sixty entries: F = sum_i |t_i - c_i| + t_i^2/10, smallest at min(c, 2): the last ten c are beyond the bound."""
    c = np.linspace(0.1, 2.4, 60)
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.sum(jnp.abs(x - c) + x**2 / 10))
    report = ih.tune(problem, ih.Parameters(t=ih.linear(np.full(60, 1.0), -5, 2)), search=ih.LBFGSB(), solves=300)
    optimum = np.minimum(c, 2.0)
    least = np.sum(np.abs(optimum - c) + optimum**2 / 10)
    assert report.value - least < 2e-3 * (report.history[0].value - least)


def test_thirty_weights_of_a_ridge_regression():
    """A = I: coefficient j is y_j / (1 + l2_j); F is smallest, zero, at l2_j = 1/c_j - 1."""
    c = np.linspace(0.1, 0.9, 30)
    problem = ih.Bilevel(ih.Ridge(np.eye(30), np.ones(30)), ih.Truth(c))
    report = ih.tune(problem, ih.Parameters(l2=ih.log(np.ones(30), 1e-6, 1e4)))
    np.testing.assert_allclose(report.theta["l2"], 1 / c - 1, rtol=1e-4)


def test_adam_says_when_its_steps_are_spent():
    report = ih.tune(*bowl(), search=ih.Adam(steps=3))
    assert report.message.startswith("Adam took its 3 steps; projected gradient") and len(report.history) == 3


def test_adam_takes_the_published_first_step():
    """The bias correction makes the first step the rate in every coordinate, whatever the slopes."""
    report = ih.tune(*bowl(), search=ih.Adam(rate=0.01, steps=2))
    moved = report.history[1].theta["t"] - report.history[0].theta["t"]
    np.testing.assert_allclose(moved, [-0.01, 0.01, -0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize("name", ["ElasticNet"])
def test_issue_snippet(name, tmp_path, monkeypatch):
    """Two weights of an elastic net from data to a saved report, as the first page of the README does it."""
    monkeypatch.chdir(tmp_path)
    A, y, A_val, y_val = zoo.tall_elastic_net()
    lower = ih.ElasticNet(A, y)
    problem = ih.Bilevel(lower, ih.HeldOut(A_val, y_val))
    weights = ih.Parameters(l1=ih.log(1e-1, 1e-6, 1e2), l2=ih.log(1e-2, 1e-8, 1e2))
    report = ih.tune(problem, weights, ih.Implicit(), ih.LBFGSB(), watch=[ih.table()])
    report.save("runs/mine")
    ih.plots.descent(report)
    evaluation = ih.Implicit()(problem, {"l1": 0.1, "l2": 0.01})
    assert report.value < evaluation.value == pytest.approx(problem.value({"l1": 0.1, "l2": 0.01}))
    again = ih.Report.load("runs/mine")
    assert again.value == report.value and again.message == report.message


def test_a_plateau_above_the_best_does_not_end_the_search():
    """At the largest useful weight the solution is zero and F is flat; a line search that lands there comes back."""
    rng = np.random.default_rng(0)
    A, A_val = rng.standard_normal((40, 10)), rng.standard_normal((30, 10))
    truth = np.r_[3.0, -2.0, 1.0, np.zeros(7)]
    y, y_val = A @ truth + rng.standard_normal(40), A_val @ truth + rng.standard_normal(30)
    problem = ih.Bilevel(ih.ElasticNet(A, y), ih.HeldOut(A_val, y_val))
    top = float(ih.weight_max(A, y))
    weights = ih.Parameters(l1=ih.log(0.002 * top, 1e-6 * top, 2 * top), l2=ih.log(5.0, 1e-3, 1e3))
    report = ih.tune(problem, weights, search=ih.LBFGSB())
    assert max(step.value for step in report.history) > 5 * report.value, "it did jump"
    l1, l2 = np.meshgrid(np.geomspace(1e-3, 1, 41) * top, np.geomspace(1e-3, 1e2, 31), indexing="ij")
    assert report.value <= ih.sweep(problem, {"l1": l1, "l2": l2})[0].min() + 1e-9
