"""The Fisher information where it is known in closed form, and the bands that follow from it."""

import numpy as np
import pytest

import invhyper as ih

TIMES = np.array([0.5, 1.0, 1.5, 2.5, 4.0, 6.0, 8.0, 12.0])
WIGGLE = np.array([0.7, -1.1, 0.4, 0.9, -0.6, -0.3, 1.0, -0.8])  # errors of measurement, in standard deviations


def test_fisher_counts_noise_and_prior():
    """n values of N(m, s^2) tell n / s^2 of m and 2 n / s^2 of s; a prior adds its curvature, a concave one nothing."""
    level = ih.Calibration(
        rhs=lambda t, x, p, theta: 0.0 * x,
        initial=lambda p, theta: 1.0,
        observe=lambda t, x, p, theta: p["m"] * x,
        times=TIMES,
        data=WIGGLE,
        noise=lambda p, theta: p["s"],
        prior=lambda p, theta: 1.5 * p["m"] ** 2 - p["s"] ** 2,
        start={"m": 1.0, "s": 0.5},
    )
    found = ih.fisher(level, {}, ih.Solution({"m": 0.3, "s": 0.5}))
    np.testing.assert_allclose(found.matrix, np.diag([8 / 0.25 + 3.0, 16 / 0.25]), rtol=1e-8, atol=1e-8)


LATE = np.exp(-0.3 * TIMES) - 0.2 * (TIMES > 3) + 0.1 * WIGGLE


def decay(**options):
    """x = exp(-p t), with a noise of 0.1 and data that it cannot meet: it bends, and residuals are large."""
    return ih.Calibration(
        rhs=lambda t, x, p, theta: -p * x, initial=lambda p, theta: 1.0, observe=lambda t, x, p, theta: x,
        times=TIMES, data=LATE, noise=0.1, start=0.4, bounds=(0.0, 5.0), **options,
    )  # fmt: skip


def test_standard_errors_are_those_of_the_observed_information():
    """H = sum (m'^2 - r m'') / s^2 of m = exp(-p t), where I = sum m'^2 / s^2 is expected."""
    calibration = decay()
    fit = ih.solve(calibration, {})
    found = ih.fisher(calibration, {}, fit)
    m = np.exp(-float(fit.x) * TIMES)
    expected = np.sum((TIMES * m) ** 2) / 0.01
    observed = expected - np.sum((LATE - m) * TIMES**2 * m) / 0.01
    assert abs(observed / expected - 1) > 0.2
    np.testing.assert_allclose(found.matrix, [[expected]], rtol=1e-6)
    np.testing.assert_allclose(found.observed, [[observed]], rtol=1e-6)
    np.testing.assert_allclose(found.standard_errors, [observed**-0.5], rtol=1e-6)
    np.testing.assert_allclose(found.covariance, [[1 / observed]], rtol=1e-6)


def test_standard_errors_are_those_expected_where_nothing_better_is_known():
    """A bare p has no Hessian, and Gauss-Newton's is the expected information."""
    for calibration, solution in ((decay(), ih.Solution(0.3)), (decay(gauss_newton=True), None)):
        found = ih.fisher(calibration, {}, solution)
        m = np.exp(-float(found.values[0]) * TIMES)
        assert found.observed is None
        np.testing.assert_allclose(found.standard_errors, [0.1 / np.linalg.norm(TIMES * m)], rtol=1e-6)


def line(**options):
    """x = a + b t, with a noise of 0.1."""
    return ih.Calibration(
        rhs=lambda t, x, p, theta: p["b"], initial=lambda p, theta: p["a"], observe=lambda t, x, p, theta: x,
        times=TIMES, data=1 + 0.5 * TIMES + 0.1 * WIGGLE, noise=0.1, start={"a": 0.0, "b": 0.0}, **options,
    )  # fmt: skip


def test_the_band_of_a_straight_line_is_that_of_linear_regression():
    calibration, at = line(), np.array([0.0, 3.0, 20.0])
    found = ih.band(calibration, {}, ih.fisher(calibration, {}), at)
    rows, A = (np.stack([np.ones_like(t), t], axis=-1) for t in (at, TIMES))
    covariance = 0.01 * np.linalg.inv(A.T @ A)
    np.testing.assert_allclose(
        found.mean, rows @ np.linalg.solve(A.T @ A, A.T @ (1 + 0.5 * TIMES + 0.1 * WIGGLE)), 1e-8
    )
    np.testing.assert_allclose(found.deviation, np.sqrt(np.einsum("ti,ij,tj->t", rows, covariance, rows)), rtol=1e-8)


def test_no_band_where_the_data_leave_a_direction_open():
    twice = ih.Calibration(
        lambda t, x, p, theta: 0.0 * x, lambda p, theta: p["a"] * p["b"], lambda t, x, p, theta: x, TIMES, WIGGLE,
        noise=0.1, start={"a": 1.0, "b": 1.0},
    )  # fmt: skip
    with pytest.raises(ValueError, match="the data do not determine a, b: fix one of them"):
        ih.band(twice, {}, ih.fisher(twice, {}, ih.Solution({"a": 1.0, "b": 1.0})), TIMES)
