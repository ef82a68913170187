"""Populations whose predictions are simulated: theophylline as an ODE beside its closed form; stiff equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from populations import (
    THEOPH_LAPLACE,
    THEOPH_START,
    absorption,
    concentration,
    dose_in_depot,
    gradient_error,
    theophylline,
)

import invhyper as ih

AWAY = {**THEOPH_LAPLACE, "sigma": 0.9, "fixed": {"lKe": -2.4, "lKa": 0.3, "lCl": -3.1}}


@pytest.fixture(scope="module")
def simulated():
    return theophylline(ih.ode_predict(absorption, dose_in_depot, concentration))


def close(found, wanted, size):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert max(np.max(np.abs(a - b)) for a, b in pairs) < size


def test_theophylline_simulated(simulated):
    """FOCEI: the value, the gradient and the maximum of the closed form."""
    method, constant = ih.FOCEI(), simulated.subjects.measurements * np.log(2 * np.pi)
    found, closed = (ih.Implicit()(each.problem(method), THEOPH_LAPLACE) for each in (simulated, theophylline()))
    assert found.value + constant == pytest.approx(354.000696, abs=1e-5)
    close(found.gradient, closed.gradient, 1e-5)
    assert gradient_error(simulated, method, AWAY) < 1e-6
    fit = simulated.fit(THEOPH_START, method)
    assert -2 * fit.log_likelihood == pytest.approx(353.983118, abs=1e-5)
    omega, fixed = fit.theta["omega"], fit.theta["fixed"]
    reached = (fixed["lKe"], fixed["lKa"], fixed["lCl"], omega[0, 0], omega[0, 1], omega[1, 1], fit.theta["sigma"] ** 2)
    wanted = (-2.4655936, 0.4821680, -3.2303961, 0.0280505, -0.00080734, 0.4308709, 0.5009394)
    np.testing.assert_allclose(reached, wanted, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [ih.FO(), ih.FOCE(), ih.Laplace(), ih.AGQ(3)], ids=str)
def test_theophylline_simulated_by_the_other_methods(simulated, method):
    found, closed = (ih.Implicit()(each.problem(method), AWAY) for each in (simulated, theophylline()))
    assert found.value == pytest.approx(closed.value, abs=1e-5)
    close(found.gradient, closed.gradient, 1e-4)
    assert gradient_error(simulated, method, AWAY) < 1e-6


def exchange(t, x, phi, covariates):
    """A and B exchange a million times faster than B feeds C, which is lost."""
    a, b, c = x
    return jnp.stack([5e5 * b - 1e6 * a, 1e6 * a - 5e5 * b - phi["feed"] * b, phi["feed"] * b - phi["loss"] * c])


@pytest.mark.slow
def test_stiff_equations_reach_what_a_polish_without_derivatives_cannot_improve():
    rng, t = np.random.default_rng(1), np.array([0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
    records = []
    for _ in range(10):
        feed, loss = np.exp([np.log(1.5), np.log(0.3)] + np.array([0.3, 0.2]) * rng.standard_normal(2))
        slow = feed * 2 / 3  # two thirds of A + B are B
        values = 10 * slow / (loss - slow) * (np.exp(-slow * t) - np.exp(-loss * t))
        records.append(ih.Records(t, values + 0.2 * rng.standard_normal(7), {"dose": 10.0}))
    predict = ih.ode_predict(
        exchange, lambda phi, covariates: jnp.array([1.0, 0.0, 0.0]) * covariates["dose"], lambda t, x, phi, c: x[2]
    )
    population = ih.MixedEffects(
        predict,
        lambda fixed, eta, c: {"feed": jnp.exp(fixed["feed"] + eta[0]), "loss": jnp.exp(fixed["loss"] + eta[1])},
        records,
        ih.AdditiveError(),
    )
    start = {"fixed": {"feed": 0.0, "loss": -1.0}, "omega": np.diag([0.1, 0.1]), "sigma": 0.4}
    fit = population.fit(start, ih.FOCEI())
    parameters, problem = fit.report.parameters, population.problem(ih.FOCEI())
    at = ih.Implicit()(problem, fit.theta)
    u = parameters.search(fit.theta)
    polished = scipy.optimize.minimize(
        lambda u: ih.Implicit()(problem, parameters.natural(u), warm=at).value,
        u,
        method="Nelder-Mead",
        options={"maxfev": 200, "initial_simplex": u + np.vstack([np.zeros(u.size), 0.05 * np.eye(u.size)])},
    )
    assert fit.value - polished.fun < 1e-3


def test_times_in_any_order_and_doses():
    predict = ih.ode_predict(
        rhs=lambda t, x, phi, covariates: -phi * x,
        initial=lambda phi, covariates: jnp.zeros(()),
        observe=lambda t, x, phi, covariates: x,
        doses=lambda phi, covariates: ih.Doses(jnp.array([0.0, 1.0]), covariates["doses"]),
    )
    times = jnp.array([2.0, 0.5, 0.5])
    found = jax.jit(lambda *given: predict(*given))(0.7, {"doses": jnp.array([2.0, 3.0])}, times)
    late = 2 * np.exp(-1.4) + 3 * np.exp(-0.7)
    np.testing.assert_allclose(found, [late, 2 * np.exp(-0.35), 2 * np.exp(-0.35)], rtol=1e-7)


def test_bad_arguments():
    with pytest.raises(TypeError, match="ode_predict initial is a float"):
        ih.ode_predict(absorption, 1.0, concentration)
    with pytest.raises(ValueError, match="rtol = 0"):
        ih.ode_predict(absorption, dose_in_depot, concentration, rtol=0)
