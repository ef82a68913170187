"""The checks at the door, and the seam's defaults."""

import jax.numpy as jnp
import numpy as np
import pytest

import invhyper as ih


@pytest.fixture
def lower():
    return ih.Ridge(np.eye(3), np.ones(3))


@pytest.mark.parametrize(
    ("theta", "said"),
    [
        ({"l2": -0.5}, "theta 'l2' = -0.5 is below its bound 0 in Ridge"),
        ({"l2": np.array([1.0, -2.0, 1.0])}, r"theta 'l2' = -2 \(entry 1 of 3\) is below its bound 0"),
        ({"l2": np.nan}, "theta 'l2' = nan is not a finite number"),
        ({"l2": np.inf}, "theta 'l2' = inf is not a finite number"),
        ({"L2": 1.0}, "theta has an unknown key 'L2': did you mean 'l2'"),
        ({"l2": 1.0, "l1": 1.0}, "theta has an unknown key 'l1'"),
        ({}, "theta lacks 'l2'"),
        (1.0, "theta is a float; Ridge wants a dict with the keys 'l2'"),
        ({"l2": "much"}, "theta 'l2' is 'much': a number or an array of numbers is wanted"),
        ({"l2": np.ones(2)}, r"\(2,\)"),
    ],
)
def test_bad_theta_gets_its_sentence(lower, theta, said):
    problem = ih.Bilevel(lower, ih.Truth(np.ones(3)))
    for call in (
        problem.value,
        lambda theta: ih.Implicit()(problem, theta),
        lambda theta: ih.Unrolled(2)(problem, theta),
    ):
        with pytest.raises(ValueError, match=said):
            call(theta)


def test_bilevel_wants_a_lower_level_and_a_criterion(lower):
    with pytest.raises(TypeError, match="Bilevel wants a LowerLevel or an Iteration first; it was given str"):
        ih.Bilevel("ridge", ih.Truth(np.ones(3)))
    with pytest.raises(TypeError, match=r"Bilevel wants a criterion\(x, theta\)"):
        ih.Bilevel(lower, 3.0)


def test_value_is_the_closed_form(lower):
    problem = ih.Bilevel(lower, lambda x, theta: jnp.sum(x) + theta["l2"])
    assert problem.value({"l2": 1.0}) == pytest.approx(3 / 2 + 1, rel=1e-14)


def test_criterion_must_be_a_scalar(lower):
    with pytest.raises(ValueError, match=r"the criterion returned shape \(3,\): a scalar is wanted"):
        ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x), {"l2": 1.0})


def test_direct_dependence_on_theta_is_counted(lower):
    problem = ih.Bilevel(lower, lambda x, theta: jnp.sum(x) + theta["l2"] ** 2)
    gradient = ih.Implicit()(problem, {"l2": 1.0}).gradient["l2"]
    assert gradient == pytest.approx(-3 / 4 + 2, rel=1e-13)


def test_a_list_is_an_array(lower):
    problem = ih.Bilevel(lower, ih.Truth(np.ones(3)))
    assert problem.value({"l2": [1.0, 2.0, 3.0]}) == problem.value({"l2": np.array([1.0, 2.0, 3.0])})
