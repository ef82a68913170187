"""Nonlinear mixed effects: closed forms, published fits, gradients, and what is said of bad input."""

import numpy as np
import pytest
from populations import METHODS, THEOPH_LAPLACE, gradient_error, linear_mixed, theophylline

import invhyper as ih


def test_every_method_is_exact_for_a_linear_model():
    population, theta, model = linear_mixed()
    args = (theta["fixed"]["b"], theta["omega"], theta["sigma"])
    exact, (of_b, of_omega, of_sigma) = model.minus_two_log_likelihood(*args), model.gradient(*args)
    for method in (*METHODS, ih.AGQ(3)):
        found = ih.Implicit()(population.problem(method), theta)
        assert found.value == pytest.approx(exact, abs=1e-10), method
        np.testing.assert_allclose(found.gradient["fixed"]["b"], of_b, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.gradient["omega"], of_omega, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found.gradient["sigma"], of_sigma, rtol=1e-10, atol=1e-10)
        if method.modes:
            np.testing.assert_allclose(found.solution.x, model.modes(*args), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "method, figure", [(ih.Laplace(), 355.739014), (ih.FOCEI(), 354.000696)], ids=["Laplace", "FOCEI"]
)
def test_theophylline(method, figure):
    population = theophylline()
    assert population.minus_two_log_likelihood(THEOPH_LAPLACE, method, full=True) == pytest.approx(figure, abs=1e-5)
    # Away from the optimum, where the gradient is no difference of large numbers.
    theta = {**THEOPH_LAPLACE, "sigma": 0.9, "fixed": {"lKe": -2.4, "lKa": 0.3, "lCl": -3.1}}
    assert gradient_error(population, method, theta) < 1e-6
