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
