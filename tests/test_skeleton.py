"""The file that docs/add_a_lower_level.md tells people to copy: it runs, and it obeys the law."""

import doctest
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest

import invhyper as ih

PATH = Path(__file__).resolve().parent.parent / "docs" / "skeleton" / "my_lower_level.py"
THETA = {"smooth": 0.8, "cap": 0.3}
Y = np.array([0.3, 2.5, -1.0, 3.1, 0.2])


@pytest.fixture(scope="module")
def skeleton():
    spec = importlib.util.spec_from_file_location("my_lower_level", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_lower_level"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["my_lower_level"]


def test_examples(skeleton):
    report = doctest.testmod(skeleton)
    assert report.attempted > 0 and report.failed == 0


def test_law(skeleton):
    lower = skeleton.SmoothedSignal(Y)
    laws.lower_level(lower, THETA)
    laws.minimiser(lower, THETA, ih.solve(lower, lower.check(THETA), tol=1e-11).x)
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, ih.Truth(np.zeros(5))), THETA)


def test_layer_differentiates_data(skeleton):
    """Without the wall x = (I + smooth D^T D)^-1 y, so d sum(x) / dy is the row sums of the inverse: all one."""
    theta = {"smooth": 0.8, "cap": 0.0}
    gradient = jax.grad(lambda y: ih.layer(skeleton.SmoothedSignal(y))(theta).sum())(jnp.asarray(Y))
    np.testing.assert_allclose(gradient, np.ones(5), rtol=1e-9)


def test_errors_are_sentences(skeleton):
    with pytest.raises(ValueError, match="y holds NaN"):
        skeleton.SmoothedSignal(np.array([np.nan]))
    with pytest.raises(ValueError, match="did you mean 'smooth'"):
        ih.solve(skeleton.SmoothedSignal(Y), skeleton.SmoothedSignal(Y).check({"smoth": 1.0, "cap": 0.0}))
    with pytest.raises(ih.NotConverged, match="raise max_steps or loosen tol"):
        ih.solve(skeleton.SmoothedSignal(Y, max_steps=1), THETA)
