"""The choice between an explicit solver and Rodas5P, on systems whose stiffness is known."""

import jax.numpy as jnp
import numpy as np
import pytest
import stiff

from invhyper.lower.stiffness import explicit_is_cheaper


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
    assert explicit_is_cheaper(rhs, 0.0, end, np.array(state), 1e-8) is explicit
