"""Descent: what its tolerances save, which steps it accepts, and that it is never misled by a loose lower level."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih
from invhyper.search.descent import Errors
from invhyper.search.objective import Objective, Point

# F = sum_i c_i (t_i - a_i)^2: smallest at a, or at the bound where a lies outside [0, 5].
CENTRE, WEIGHT = np.array([1.0, 3.0, -2.0, 9.0]), np.array([1.0, 4.0, 0.5, 2.0])
OPTIMUM = np.array([1.0, 3.0, 0.0, 5.0])


def bowl(**settings):
    criterion = lambda x, theta: jnp.sum(WEIGHT * (x - CENTRE) ** 2)  # noqa: E731
    return ih.Bilevel(zoo.Identity(**settings), criterion), ih.Parameters(t=ih.linear(np.full(4, 2.5), 0.0, 5.0))


def ista():
    """The lasso on diabetes by proximal gradient steps, and the solver that knows it to rounding."""
    exact, _, top = zoo.diabetes_lasso()
    problem = ih.Bilevel(ih.FixedPoint(exact.lower.iteration()), exact.criterion)
    return problem, exact, ih.Parameters(weight=ih.log(0.3 * top, 1e-5 * top, top))


def ridge():
    """One weight of a ridge regression by gradient descent, and by its factor."""
    A, y, held, held_y = zoo.ridge_problem(n=15, p=12, seed=2)
    exact = ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(held, held_y))
    return ih.Bilevel(ih.FixedPoint(exact.lower.iteration()), exact.criterion), exact, weight(10.0)


def weight(start):
    return ih.Parameters(l2=ih.log(start, 1e-3, 1e3))


def smoothed_tv():
    """A noisy step edge under Huber's total variation by Split Bregman."""
    truth = np.repeat([0.0, 1.0, 0.3], 10)
    noisy = truth + 0.1 * np.random.default_rng(2).standard_normal(30)
    lower = ih.HuberTV(noisy, delta=0.05)
    problem = ih.Bilevel(ih.FixedPoint(ih.SplitBregman(lower, rho=1.0)), ih.Truth(truth))
    return problem, ih.Bilevel(lower, ih.Truth(truth)), ih.Parameters(weight=ih.log(0.01, 1e-4, 1e1))


def work_until(report, exact, most):
    """Lower-level steps spent until F, evaluated exactly at the iterate, is at most `most`."""
    return next(step.work for step in report.history if exact.value(step.theta, tol=1e-10) <= most)


@pytest.mark.parametrize("case", [ista, ridge, smoothed_tv])
def test_half_the_work_of_a_fixed_tolerance_at_most(case):
    """To the end of the search, and until F is within 1e-6 of its least; the F found is the same to 1e-8."""
    problem, exact, parameters = case()
    fixed = ih.tune(problem, parameters, search=ih.Descent(first=1e-8))
    report = ih.tune(problem, parameters, search=ih.Descent())
    assert all(run.message.startswith("stationary") for run in (fixed, report))
    assert {step.tol for step in fixed.history} == {1e-8} and report.certificate.lower_residual <= 1e-8
    found, wanted = (exact.value(run.theta, tol=1e-10) for run in (report, fixed))
    assert found == pytest.approx(wanted, rel=1e-8)
    assert report.history[-1].work <= 0.5 * fixed.history[-1].work
    most = min(found, wanted) + 1e-6 * abs(wanted)
    assert work_until(report, exact, most) <= 0.5 * work_until(fixed, exact, most)


def test_tolerance_is_relaxed_again_and_never_tightened_without_need():
    """Where the errors stay a small part of the gradient the tolerance stays what it was, up to the last point."""
    report = ih.tune(*bowl(), search=ih.Descent())
    asked = [step.tol for step in report.history]
    assert asked[0] == 1e-2 and asked[1] == 1e-3, "the start is solved twice, to learn what an error costs"
    between = asked[2:-1]
    assert between == sorted(between) and between[-1] == 1e-2 and asked[-1] == 1e-8
    np.testing.assert_allclose(report.theta["t"], OPTIMUM, atol=1e-4)


def test_tolerance_follows_the_gradient_where_errors_are_as_large_as_allowed():
    problem, parameters = bowl(sloppy=1.0, calls=[])
    report = ih.tune(problem, parameters, search=ih.Descent(), lower_tol=1e-9)
    asked, size = (np.array([getattr(step, name) for step in report.history]) for name in ("tol", "gradient_norm"))
    assert np.all(asked[2:-1] <= size[2:-1]) and np.sum(asked > 1e-6) >= 3, "loose far from the minimum"


def judged(problem, parameters, *points, tol):
    """What `Errors.decrease` says of a step between two points (u, value, slope) solved to `tol`."""
    objective = Objective(problem, parameters, ih.Implicit())
    errors = Errors(objective, 1e-2)
    errors.first_point()
    certificate = ih.Certificate(lower_residual=tol, adjoint_residual=0.0)
    before, after = (
        Point(np.array([u]), value, np.array([slope]), {"t": u}, tol, certificate) for u, value, slope in points
    )
    errors.per_value = errors.per_slope = 1.0
    return errors.decrease([before], after)


def test_a_decrease_that_the_errors_explain_is_not_known():
    """F fell by 0.01; values good to 0.1 can not tell, nor can slopes that are wrong by as much as they are large."""
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: (x - 2.0) ** 2)
    parameters = ih.Parameters(t=ih.linear(0.0, -5.0, 5.0))
    step = (0.0, 1.00, -0.02), (0.1, 0.99, -0.015)
    gain, error = judged(problem, parameters, *step, tol=1e-1)
    assert gain > 0 and error > gain
    gain, error = judged(problem, parameters, *step, tol=1e-4)
    assert gain == pytest.approx(0.01 if error > 1e-4 else 0.00175, rel=1e-2) and error < gain


def test_slopes_tell_where_values_can_not():
    """Near the minimum: slopes of 1e-3, values that differ by 1e-7 and are good to 1e-5."""
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: (x - 2.0) ** 2)
    parameters = ih.Parameters(t=ih.linear(0.0, -5.0, 5.0))
    gain, error = judged(problem, parameters, (0.0, 1.0, -1e-3), (1e-3, 1.0, -1e-4), tol=1e-5)
    assert gain == pytest.approx(5.5e-7, rel=1e-3) and error < gain
    gain, error = judged(problem, parameters, (0.0, 1.0, -1e-3), (1e-3, 0.9999, 2e-3), tol=1e-5)
    assert gain == pytest.approx(-5e-7, rel=1e-2) and error < -gain, (
        "a lower value that is within its error is no reason"
    )


def test_a_noisy_decrease_is_looked_at_again_before_the_step_is_taken():
    """Every accepted step of a lower level as sloppy as allowed, solved exactly, does decrease F or is the last."""
    problem, parameters = bowl(sloppy=1.0, calls=[])
    report = ih.tune(problem, parameters, search=ih.Descent(memory=1), lower_tol=1e-9)
    exact = [float(np.sum(WEIGHT * (step.theta["t"] - CENTRE) ** 2)) for step in report.history]
    best = np.minimum.accumulate(exact)
    solved = [step.theta["t"] for step in report.history]
    again = [k for k in range(1, len(solved)) if np.array_equal(solved[k], solved[k - 1])]
    assert again[0] == 1 and all(report.history[k].tol < report.history[k - 1].tol for k in again)
    assert exact[-1] - best[-1] <= 1e-9 * exact[0]


def test_a_slope_that_points_the_wrong_way_is_found_out_by_the_steps_that_it_costs():
    """It has the wrong sign above 1e-5 and a residual that says nothing: two refused steps ask for a tighter one."""

    def misled(problem, theta, *, warm=None, tol=1e-8):
        evaluation = ih.Implicit()(problem, theta, tol=tol)
        sign = -1.0 if tol > 1e-5 else 1.0
        certificate = replace(evaluation.certificate, lower_residual=1e-6 * tol)
        return replace(evaluation, gradient={"t": sign * evaluation.gradient["t"]}, certificate=certificate)

    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: (x - 2.0) ** 2)
    report = ih.tune(problem, ih.Parameters(t=ih.linear(4.0, -9.0, 9.0)), misled, ih.Descent(memory=1))
    assert float(report.theta["t"]) == pytest.approx(2.0, abs=1e-5) and report.message.startswith("stationary")
    assert len(report.history) < 20


@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_with_a_lower_level_as_inexact_as_allowed(seed):
    """Every solution misses by tol |t| in a new direction: early values mislead, the end does not."""
    problem, parameters = bowl(sloppy=1.0, calls=[0.0] * seed)
    report = ih.tune(problem, parameters, search=ih.Descent(), lower_tol=1e-9)
    np.testing.assert_allclose(report.theta["t"], OPTIMUM, atol=1e-4)
    assert report.certificate.lower_residual <= 1e-9, "the point returned is one that was solved tightly"


def test_a_loose_value_that_only_looks_good_is_never_returned():
    """The budget ends the run early: the best is the best of the tightest kind there is, and says its tolerance."""
    problem, parameters = bowl(sloppy=1.0, calls=[])
    report = ih.tune(problem, parameters, search=ih.Descent(steps=6), lower_tol=1e-9)
    assert report.message.startswith("Descent took its 6 steps")
    assert report.history[-1].tol == 1e-9 and report.value == report.history[-1].value


def test_a_point_is_solved_again_where_the_error_estimate_is_a_large_part_of_the_gradient():
    A, labels, held, held_labels = zoo.breast_cancer()
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))
    parameters = ih.Parameters(l2=ih.log(1e-1, 1e-6, 1e1))
    report = ih.tune(problem, parameters, ih.Implicit(estimate=True), ih.Descent(first=0.5))
    pairs = list(zip(report.history, report.history[1:], strict=False))
    again = [(a, b) for a, b in pairs if np.array_equal(a.theta["l2"], b.theta["l2"])]
    assert again and all(b.tol < a.tol for a, b in again)
    assert float(report.theta["l2"]) == pytest.approx(0.0060869560, rel=1e-3)


def test_a_run_is_asked_for_once_a_step():
    """The value of an unrolled run does not depend on the tolerance: nothing is gained by a second look."""
    problem = ih.Bilevel(ih.Ridge(np.diag([1.0, 2.0]), np.ones(2)), ih.Truth(np.full(2, 0.4)))
    report = ih.tune(problem, weight(1.0), ih.Unrolled(5), ih.Descent())
    assert {step.tol for step in report.history} == {1e-8} and report.message.startswith("stationary")
    points = [float(step.theta["l2"]) for step in report.history]
    assert len(set(points)) == len(points)
