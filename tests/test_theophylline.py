"""Theophylline, twelve subjects, as a closed form: published likelihoods and maxima, and gradients there."""

import jax
import numpy as np
import pytest
from populations import (
    THEOPH_LAPLACE,
    THEOPH_START,
    clearance_and_absorption,
    gradient_error,
    one_compartment,
    theophylline,
)

import invhyper as ih

# Values at the numbers of THEOPH_LAPLACE, and the maximum: -2 log L and the estimates.
THEOPHYLLINE = {
    "Laplace": (
        ih.Laplace(),
        355.739014,
        355.739014,
        (-2.45899, 0.47912, -3.22675, 0.0279934, -0.0012632, 0.4276045, 0.5012333),
    ),
    "FOCEI": (
        ih.FOCEI(),
        354.000696,
        353.983118,
        (-2.4655936, 0.4821680, -3.2303961, 0.0280505, -0.00080734, 0.4308709, 0.5009394),
    ),
}


@pytest.mark.parametrize("name", THEOPHYLLINE)
def test_theophylline(name):
    """The published figures come from the data in R and from a maximum found without gradients."""
    method, value, best, estimates = THEOPHYLLINE[name]
    population = theophylline()
    constant = population.subjects.measurements * np.log(2 * np.pi)
    found = ih.Implicit()(population.problem(method), THEOPH_LAPLACE)
    assert found.value + constant == pytest.approx(value, abs=1e-5)
    theta = {**THEOPH_LAPLACE, "sigma": 0.9, "fixed": {"lKe": -2.4, "lKa": 0.3, "lCl": -3.1}}
    assert gradient_error(population, method, theta) < 1e-6
    fit = population.fit(THEOPH_START, method)
    assert -2 * fit.log_likelihood == pytest.approx(best, abs=1e-5)
    fixed, omega = fit.theta["fixed"], fit.theta["omega"]
    reached = (fixed["lKe"], fixed["lKa"], fixed["lCl"], omega[0, 0], omega[0, 1], omega[1, 1], fit.theta["sigma"] ** 2)
    np.testing.assert_allclose(reached, estimates, rtol=1e-4)
    assert fit.evaluations < 80 and not fit.failed
    assert "fixed.lKa" in str(fit) and "12 subjects" in str(fit)


@pytest.mark.parametrize("method", [ih.FO(), ih.FOCE(), ih.AGQ(3)], ids=str)
def test_gradients_of_the_other_methods(method):
    theta = {**THEOPH_LAPLACE, "sigma": 0.9, "fixed": {"lKe": -2.4, "lKa": 0.3, "lCl": -3.1}}
    assert gradient_error(theophylline(), method, theta) < 1e-6


def test_theophylline_without_covariance_as_nlmer_fits_it():
    population = theophylline()
    fit = population.fit({**THEOPH_START, "omega": np.diag([0.1, 0.3])}, ih.FOCE())
    assert fit.log_likelihood == pytest.approx(-176.9917, abs=1e-3)
    assert fit.theta["omega"][0, 1] == 0.0 and len(fit.names) == 6


def test_curves_and_simulations_of_a_fit(tmp_path):
    population = theophylline()
    fit = population.fit(THEOPH_START, ih.FOCEI())
    times = population.subjects.times[3]
    own, typical = fit.curves(times)
    np.testing.assert_allclose(own[3], fit.individual[3], rtol=1e-12)
    np.testing.assert_allclose(typical[3], fit.typical[3], rtol=1e-12)
    drawn = fit.simulate(400, seed=1)
    assert drawn.shape == (400, 132)
    # At time 0 nothing is in the blood: what is drawn there is noise alone.
    start = population.subjects.times.ravel() == 0
    assert np.std(drawn[:, start]) == pytest.approx(fit.theta["sigma"], rel=0.05)
    for draw in (ih.plots.observed_predicted, ih.plots.individual_fits, ih.plots.predictive_check):
        ih.plots.save(draw(fit), tmp_path / f"{draw.__name__}.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.slow
def test_intervals_of_five_hundred_simulated_populations_cover():
    """Laplace, thirty subjects: 95 % intervals of the fixed effects, and their bias."""
    times, root = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 7.0, 12.0, 24.0]), np.linalg.cholesky([[0.06, 0.02], [0.02, 0.3]])
    fixed = {"lKe": -2.46, "lKa": 0.48, "lCl": -3.23}
    truth = {"fixed": fixed, "omega": root @ root.T, "sigma": 0.5}
    predicted, missed, covered = jax.jit(one_compartment), [], []
    for seed in range(500):
        rng, records = np.random.default_rng(seed), []
        for _ in range(30):
            eta, covariates = root @ rng.standard_normal(2), {"dose": rng.uniform(3, 6)}
            phi = clearance_and_absorption(fixed, eta, covariates)
            values = np.asarray(predicted(phi, covariates, times)) + 0.5 * rng.standard_normal(times.size)
            records.append(ih.Records(times, values, covariates))
        population = ih.MixedEffects(one_compartment, clearance_and_absorption, records, ih.AdditiveError())
        fit = population.fit(truth, ih.Laplace())
        off = np.array([fit.theta["fixed"][name] - fixed[name] for name in fixed])
        missed.append(off)
        covered.append(np.abs(off) < 1.96 * np.array([fit.standard_errors["fixed"][name] for name in fixed]))
    coverage = np.mean(covered, axis=0)
    assert np.all((coverage >= 0.89) & (coverage <= 0.98)), coverage
    assert np.all(np.abs(np.mean(missed, axis=0)) < 0.2 * np.std(missed, axis=0))
