"""Curves and maps, F for other outer loops, and many starts."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.optimize
import zoo

import invhyper as ih


@pytest.fixture(scope="module")
def ridge():
    A, y, held, held_y = zoo.ridge_problem()

    def F(l2):
        x, slopes = zoo.ridge_closed_form(A, y, l2)
        pull = 2 * held.T @ (held @ x - held_y) / len(held_y)
        return np.mean((held @ x - held_y) ** 2), pull @ slopes

    return ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(held, held_y)), F


def test_curve_against_the_closed_form(ridge):
    problem, F = ridge
    weights = np.geomspace(1e-2, 1e2, 7)
    values, gradients = ih.sweep(problem, {"l2": weights})
    for weight, value, slope in zip(weights, values, gradients["l2"], strict=True):
        np.testing.assert_allclose([value, slope], [F(weight)[0], F(weight)[1].sum()], rtol=1e-9)


def test_list_of_trees_and_tree_with_axes_say_the_same(ridge):
    problem, F = ridge
    weights = np.abs(np.random.default_rng(0).standard_normal((4, 15)))
    values, gradients = ih.sweep(problem, [{"l2": w} for w in weights])
    also, slopes = ih.sweep(problem, {"l2": weights}, axes=1)
    np.testing.assert_array_equal(values, also)
    assert gradients["l2"].shape == slopes["l2"].shape == (4, 15)
    np.testing.assert_allclose(slopes["l2"][2], F(weights[2])[1], rtol=1e-9)


def test_map_is_in_the_order_of_its_axes_and_visited_in_a_serpentine():
    lower = zoo.Identity(calls=[])
    a = np.arange(6.0).reshape(2, 3)
    values, gradients = ih.sweep(ih.Bilevel(lower, lambda x, theta: x**2), {"t": a})
    np.testing.assert_array_equal(values, a**2)
    np.testing.assert_array_equal(gradients["t"], 2 * a)
    assert [float(t) for t in lower.calls] == [0, 1, 2, 5, 4, 3]


def test_points_that_fail_are_nan_and_reported():
    problem = ih.Bilevel(zoo.Identity(fails=lambda t: t in (2.0, 3.0)), lambda x, theta: x**2)
    with pytest.warns(RuntimeWarning, match=r"2 of 4 points failed and are NaN; first at .*2\..*: Identity stopped"):
        values, gradients = ih.sweep(problem, {"t": np.array([1.0, 2.0, 3.0, 4.0])})
    np.testing.assert_array_equal(values, [1, np.nan, np.nan, 16])
    np.testing.assert_array_equal(gradients["t"], [2, np.nan, np.nan, 8])


def test_sweep_refuses_what_it_can_not_do(ridge):
    problem, _ = ridge
    with pytest.raises(ih.NotConverged, match="Identity stopped"):
        ih.sweep(ih.Bilevel(zoo.Identity(fails=lambda t: True), lambda x, theta: x), {"t": np.ones(2)})
    for thetas, words in (
        ({"l2": 1.0}, "leaves that begin with the same axes"),
        ({"l2": np.array([1.0, -1.0])}, "'l2' = -1 is below its bound 0"),
        ({"l2": np.zeros(0)}, "no points"),
        ([], "an empty list"),
        ({}, "a tree without leaves"),
    ):
        with pytest.raises(ValueError, match=words):
            ih.sweep(problem, thetas)


def test_value_and_gradient_drives_scipy_in_natural_coordinates(ridge):
    problem, F = ridge
    f = ih.value_and_gradient(problem, like={"l2": np.ones(15)})
    value, gradient = f(np.full(15, 2.0))
    np.testing.assert_allclose(value, F(2.0)[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, F(2.0)[1], rtol=1e-9)
    found = scipy.optimize.minimize(f, np.ones(15), jac=True, bounds=[(0, 50)] * 15)
    assert found.fun < value


def test_value_and_gradient_on_the_search_scale_finds_what_tune_finds():
    problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.4)))
    p = ih.Parameters(l2=ih.log(1.0, 1e-6, 1e4))
    bounds = scipy.optimize.Bounds(*p.bounds)
    found = scipy.optimize.minimize(ih.value_and_gradient(problem, like=p), p.start, jac=True, bounds=bounds, tol=1e-14)
    assert float(p.natural(found.x)["l2"]) == pytest.approx(1.5, rel=1e-5)


def test_value_and_gradient_of_a_tree_is_a_tree(ridge):
    problem, F = ridge
    value, gradient = ih.value_and_gradient(problem)({"l2": 3.0})
    np.testing.assert_allclose([value, gradient["l2"]], [F(3.0)[0], F(3.0)[1].sum()], rtol=1e-9)


def test_multistart_keeps_order_and_failures():
    problem = ih.Bilevel(zoo.Identity(fails=lambda t: t > 50), lambda x, theta: np.cos(1.0) + (x - 3.0) ** 2)
    with ThreadPoolExecutor(2) as pool:
        ends = ih.multistart(partial(ih.tune, problem), [{"t": 1.0}, {"t": 60.0}, {"t": 5.0}], pool)
        assert isinstance(ends[1], ih.NotConverged) and "Identity stopped" in str(ends[1])
        assert [float(end.theta["t"]) for end in ends[::2]] == pytest.approx([3.0, 3.0])
        assert [float(end.history[0].theta["t"]) for end in ends[::2]] == [1.0, 5.0]
        with pytest.raises(ih.NotConverged, match="all 2 runs failed; the first: Identity stopped"):
            ih.multistart(partial(ih.tune, problem), [{"t": 60.0}, {"t": 70.0}], pool)
        with pytest.raises(ValueError, match="no start"):
            ih.multistart(partial(ih.tune, problem), [], pool)
