"""Likelihoods of populations: published tables, closed forms, and their exact gradients."""

import numpy as np
import pytest
from populations import METHODS, WANG_THETA, gradient_error, wang

import invhyper as ih

# Wang (2007), table 1: FO, FOCE, FOCEI, Laplace, and the integral itself; sigma^2 = 0.1.
TABLE = {
    "proportional": (39.2132, 39.2067, 39.4576, 39.2268, 39.3548),
    "additive": (0.0258, -2.0588, -2.0588, -1.9361, -1.9896),
}
# One error model serves both columns, and each method is compiled once: the other part is far below rounding.
SIGMA = {
    "proportional": {"add": 1e-9, "prop": np.sqrt(0.1)},
    "additive": {"add": np.sqrt(0.1), "prop": 1e-9},
}


@pytest.mark.parametrize("place, method", list(enumerate((*METHODS, ih.AGQ(41)))), ids=lambda value: str(value))
def test_published_table(place, method):
    population = wang(ih.CombinedError())
    for error, figures in TABLE.items():
        theta = {**WANG_THETA, "sigma": SIGMA[error]}
        assert ih.Implicit()(population.problem(method), theta).value == pytest.approx(figures[place], abs=5e-4)
    assert gradient_error(population, method, {**WANG_THETA, "sigma": {"add": 0.2, "prop": 0.3}}) < 1e-6


def test_published_table_with_the_model_that_it_is_for():
    for error, figures in TABLE.items():
        model = {"proportional": ih.ProportionalError(), "additive": ih.AdditiveError()}[error]
        value = wang(model).minus_two_log_likelihood(WANG_THETA, ih.FOCEI())
        assert value == pytest.approx(figures[2], abs=5e-4)


def test_quadrature_with_one_node_is_laplace():
    population = wang(ih.ProportionalError())
    one, laplace = (population.minus_two_log_likelihood(WANG_THETA, method) for method in (ih.AGQ(1), ih.Laplace()))
    assert one == pytest.approx(laplace, abs=1e-12)
