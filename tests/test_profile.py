"""Profiles of models of their own, against closed forms."""

import diffrax
import numpy as np
import pytest
from scipy.stats import chi2

import invhyper as ih


def test_a_parameter_near_zero_has_the_interval_of_any_other():
    """Of a straight line: b +- 1.96 of its standard error, however small b is itself."""
    t, b = np.linspace(0.5, 4.0, 6), 1e-8
    line = ih.Calibration(
        lambda t, x, p, theta: p["a"], lambda p, theta: p["b"], lambda t, x, p, theta: x, t, 2.0 * t + b, noise=0.1,
        start={"a": 1.0, "b": 0.0}, solver=diffrax.Tsit5(),
    )  # fmt: skip
    rows = np.stack([t, np.ones(6)], axis=1)
    error = 0.1 * np.sqrt(np.linalg.inv(rows.T @ rows)[1, 1])
    found = ih.profile(line, {}, "b")
    np.testing.assert_allclose(found.interval, b + np.array([-1, 1]) * np.sqrt(chi2.ppf(0.95, 1)) * error, rtol=1e-4)
    with pytest.raises(ValueError, match=r"within = \(2, 0.5\): a pair \(below, above\) is wanted"):
        ih.profile(line, {}, "b", within=(2, 0.5))
