"""The case studies of differential equations and populations, as test_case_studies.py has those of images."""

import numpy as np
import pytest
import studies
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

PICTURES = {
    "ode_initial_condition": {"errors.png", "fits.png"},
    "hare_lynx": {"fit.png", "waterfall.png", "profiles.png"},
    "epidemic": {"fit.png", "waterfall.png", "profiles.png"},
    "population_q": {"cells.png", "shrinkage.png"},
    "indometacin": {"individual_fits.png", "observed_predicted.png", "predictive_check.png", "shrinkage.png"},
    "theophylline": {"individual_fits.png", "observed_predicted.png", "predictive_check.png", "shrinkage.png"},
}


class TestStudies(studies.Studies):
    pictures = PICTURES


def test_ode_slopes_and_search_are_those_of_the_closed_form(quick):
    found = quick("ode_initial_condition").findings
    np.testing.assert_allclose(found["curve"], found["closed_curve"], rtol=1e-7)
    np.testing.assert_allclose(found["inner"], found["closed_inner"], rtol=1e-8, atol=1e-8)
    true = np.abs(found["slopes"] - found["closed_slopes"])
    assert np.all(true <= 1e-8 * np.max(np.abs(found["slopes"]))) and np.all(true <= 3 * found["estimates"])
    assert found["q"] == pytest.approx(found["closed_form_q"], rel=1e-7)
    assert found["solves"] <= 5


def test_hare_lynx_fit_is_the_one_that_scipy_finds(quick):
    report, data = quick("hare_lynx"), studies.module("hare_lynx").pelts()
    hare, lynx, weight = (float(report.theta[name]) for name in ("hare", "lynx", "weight"))
    guess, logs = np.log([1.0, 0.05, 1.0, 0.05]), np.log(data.counts)

    def deviations(p):
        a, b, c, d = np.exp(p)
        found = solve_ivp(lambda t, u: [a - b * np.exp(u[1]), d * np.exp(u[0]) - c], (0, 20), np.log([hare, lynx]),
                          t_eval=np.arange(21.0), rtol=1e-10, atol=1e-10)  # fmt: skip
        return (logs - found.y.T) / 0.25

    def residual(p):
        return np.r_[deviations(p)[~data.held].ravel(), np.sqrt(weight) * (p - guess)]

    p = least_squares(residual, np.log([0.5, 0.03, 0.8, 0.02]), xtol=1e-12, ftol=1e-12).x
    rates = [report.findings[f"{name}_rate"] for name in ("birth", "hunted", "death", "fed")]
    np.testing.assert_allclose(np.exp(p), rates, rtol=1e-5)
    assert np.sum(deviations(p)[data.held] ** 2) == pytest.approx(report.value, rel=1e-4)
    assert data.held.sum() == 7 and report.value < np.min(report.findings["curve"]) * (1 + 1e-9)


def test_epidemic_fit_is_the_one_that_scipy_finds(quick):
    report, data = quick("epidemic"), studies.module("epidemic").colds()
    first = [float(report.theta["susceptible"]), float(report.theta["infective"]), 0.0]
    assert np.all(np.diff(data.counts.sum(axis=1)) >= 0) and np.all(np.diff(data.counts[:, 1]) >= 0)
    assert data.counts[-1].tolist() == [0, 37] and data.held.sum() == 7

    def deviations(p):
        a, b = np.exp(p)
        found = solve_ivp(lambda t, u: [-a * u[0] * u[1], a * u[0] * u[1] - b * u[1], b * u[1]], (1, 21), first,
                          t_eval=data.days, rtol=1e-10, atol=1e-10)  # fmt: skip
        return (data.counts - found.y[1:].T) / 2.0

    p = least_squares(lambda p: deviations(p)[~data.held].ravel(), np.log([0.02, 0.3]), xtol=1e-12, ftol=1e-12).x
    rates = [report.findings[f"{name}_rate"] for name in ("infection", "recovery")]
    np.testing.assert_allclose(np.exp(p), rates, rtol=1e-5)
    assert np.sum(deviations(p)[data.held] ** 2) == pytest.approx(report.value, rel=1e-4)
    assert report.value <= np.min(report.findings["values"])
