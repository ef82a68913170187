"""The choice between an explicit solver and Rodas5P, on systems whose stiffness is known."""

import diffrax
import jax.numpy as jnp
import kinetics
import numpy as np
import pytest
import stiff

import invhyper as ih
from invhyper.lower.stiffness import explicit_is_cheaper, look


def prey(t, x):
    return jnp.stack([x[0] * (1 - 0.4 * x[1]), x[1] * (0.2 * x[0] - 0.7)])


CASES = {
    "predator and prey": (prey, 8.0, [3.0, 1.5], True),
    "growth by 22000": (lambda t, x: x, 10.0, [1.0], True),
    "growth with a fast decay beside it": (lambda t, x: x * jnp.array([1.0, -1e6]), 10.0, [1.0, 1.0], False),
    "an oscillation": (lambda t, x: 30.0 * jnp.stack([x[1], -x[0]]), 1.0, [1.0, 0.0], True),
    "Robertson": (stiff.robertson, 1e4, [1.0, 0.0, 0.0], False),
    "van der Pol, mu = 1000": (stiff.van_der_pol, 1000.0, [2.0, 0.0], False),
    "a slope that is not finite": (lambda t, x: jnp.log(-x), 1.0, [1.0], False),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(name):
    rhs, end, state, explicit = CASES[name]
    assert explicit_is_cheaper(rhs, look(rhs, 0.0, end, np.array(state)), 1e-8) is explicit


@pytest.mark.parametrize("model, solver", [(kinetics.boehm, ih.Rodas5P), (kinetics.crauste, diffrax.Dopri8)])
def test_published_models_get_the_solver_that_suits_them(model, solver):
    calibration, _ = model()
    calibration.check({})
    assert isinstance(calibration.chosen().simulator.solver, solver)


def test_the_likelihood_of_a_published_model_is_the_published_one():
    """138.22, the optimum of the benchmark collection, with the constant of the normal density."""
    calibration, nominal = kinetics.boehm()
    value, gradient, error = calibration.value_and_gradient(nominal, {})
    assert value + 0.5 * calibration.measured.count * np.log(2 * np.pi) == pytest.approx(138.22, abs=5e-3)
    assert error < 1e-4 * np.linalg.norm(list(gradient.values()))
