"""Populations whose predictions are simulated: theophylline as an ODE beside its closed form; stiff equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
