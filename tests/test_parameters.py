"""Names, scales, bounds: the map between natural theta and the search vector."""

import pickle

import numpy as np
import pytest

import invhyper as ih

SCALES = {
    "linear": (ih.linear(0.3, -1.0, 2.0), lambda u: u),
    "log": (ih.log(0.3, 1e-3, 1e2), np.exp),
    "log10": (ih.log10(0.3, 1e-3, 1e2), lambda u: 10.0**u),
    "logit": (ih.logit(0.3, -1.0, 2.0), lambda u: -1.0 + 3.0 / (1.0 + np.exp(-u))),
}


@pytest.mark.parametrize("name", SCALES)
def test_scale_maps_as_its_formula_says_and_back(name):
    scale, formula = SCALES[name]
    u = float(scale.search(0.3))
    assert formula(u) == pytest.approx(0.3, rel=1e-14)
    assert float(scale.natural(u)) == pytest.approx(0.3, rel=1e-14)
    assert float(scale.slope(u)) == pytest.approx((formula(u + 1e-6) - formula(u - 1e-6)) / 2e-6, rel=1e-8)


def test_search_bounds_are_the_bounds_on_the_scale():
    lower, upper = ih.Parameters(a=ih.linear(0, -1, 2), b=ih.log(1, 1e-2, 1e2), c=ih.log10(1.0), d=ih.logit(0.5)).bounds
    np.testing.assert_allclose(lower, [-1, np.log(1e-2), -np.inf, -30], rtol=1e-15)
    np.testing.assert_allclose(upper, [2, np.log(1e2), np.inf, 30], rtol=1e-15)


def test_natural_values_stay_within_the_bounds_at_the_ends():
    lower, upper = 0.1, 0.3
    for make in (ih.log, ih.log10, ih.logit):
        scale = make(0.2, lower, upper)
        low, high = scale.bounds()
        assert lower <= scale.natural(low) and scale.natural(high) <= upper
    assert 0.0 < ih.logit(0.5).natural(-30.0) < 1e-12 and ih.logit(0.5).natural(30.0) < 1.0


def test_nested_names_arrays_and_order():
    parameters = ih.Parameters(
        z=ih.log(np.array([1.0, np.e]), 1e-3, 1e3), cell={"q": ih.linear(2.0), "k": ih.linear(np.ones((2, 1)))}
    )
    assert parameters.names == ["cell.k[0,0]", "cell.k[1,0]", "cell.q", "z[0]", "z[1]"]
    np.testing.assert_allclose(parameters.start, [1, 1, 2, 0, 1], atol=1e-15)
    theta = parameters.natural(np.array([3.0, 4.0, 5.0, 0.0, 0.0]))
    assert theta["cell"]["k"].tolist() == [[3.0], [4.0]] and float(theta["cell"]["q"]) == 5.0
    assert theta["z"].tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(parameters.search(theta), [3, 4, 5, 0, 0])


def test_chain_rule():
    parameters = ih.Parameters(a=ih.log(2.0, 1e-3, 1e3), b=ih.log10(3.0), c=ih.logit(0.25), d=ih.linear(7.0))
    pulled = parameters.pull(parameters.start, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 5.0})
    np.testing.assert_allclose(pulled, [2.0, 3.0 * np.log(10.0), 0.25 * 0.75, 5.0], rtol=1e-14)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ih.log(-1.0, 1e-3, 1.0), "log start = -1: a positive number is wanted"),
        (lambda: ih.log(0.0), "log start = 0: a positive number"),
        (lambda: ih.log(1.0, -1.0, 2.0), "log lower = -1: a bound of at least 0"),
        (lambda: ih.log(10.0, 1e-3, 1.0), "log start = 10 is outside its bounds 0.001 to 1"),
        (lambda: ih.linear([1.0, 7.0], 0.0, [2.0, 5.0]), r"linear start\[1\] = 7 is outside its bounds 0 to 5"),
        (lambda: ih.linear(np.nan), "linear start = nan holds NaN"),
        (lambda: ih.linear(1.0, np.nan), "linear lower = nan holds NaN"),
        (lambda: ih.linear(np.inf), "linear start = inf: a finite number"),
        (lambda: ih.linear(0.0, 1.0, 0.0), "lower < upper is wanted"),
        (lambda: ih.linear("big"), "linear start is 'big': a number or an array"),
        (lambda: ih.linear([1.0, 2.0], [0.0, 0.0, 0.0]), r"linear lower has shape \(3,\), start has shape \(2,\)"),
        (lambda: ih.logit(1.0), "logit start = 1: a number strictly between 0 and 1"),
        (lambda: ih.logit(2.0, 0.0, np.inf), "logit wants finite bounds"),
        (lambda: ih.log(1.0, 0.1, 10.0, unit=3), "log unit = 3: text is wanted"),
        (lambda: ih.Parameters(), "Parameters was given no name"),
        (lambda: ih.Parameters(l1=0.1), "Parameters 'l1' is 0.1: a scale is wanted"),
        (lambda: ih.Parameters(a={"b": 1.0}), "Parameters 'a.b' is 1.0: a scale"),
        (lambda: ih.Parameters(a={}), "Parameters 'a' is an empty dict"),
    ],
)
def test_bad_input_gets_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_trees_and_vectors_get_a_sentence():
    parameters = ih.Parameters(a=ih.linear(1.0), b=ih.linear(np.ones(2)))
    with pytest.raises(ValueError, match=r"the search vector has shape \(2,\): \(3,\) is wanted, for a, b"):
        parameters.natural(np.ones(2))
    with pytest.raises(ValueError, match="a tree with a, b is wanted; a was given"):
        parameters.search({"a": 1.0})
    with pytest.raises(ValueError, match=r"'b' has shape \(3,\): \(2,\) is wanted"):
        parameters.pull(parameters.start, {"a": 1.0, "b": np.ones(3)})


def test_plain_tree_is_linear_within_bounds():
    parameters = ih.Parameters.plain({"l2": 1.0}, ({"l2": 0.0}, {"l2": np.inf}))
    assert [side.tolist() for side in parameters.bounds] == [[0.0], [np.inf]]
    assert parameters.start.tolist() == [1.0]


def test_table_shows_name_scale_values_and_unit():
    text = repr(ih.Parameters(weight=ih.log10(1e-3, 1e-6, 1.0, unit="1/mm"), many=ih.linear(np.zeros(40))))
    assert ["weight", "log10", "0.001", "-3", "1e-06", "1", "1/mm"] not in [line.split() for line in text.splitlines()]
    assert text.splitlines()[-1] == "... and 29 more"
    text = repr(ih.Parameters(weight=ih.log10(1e-3, 1e-6, 1.0, unit="1/mm")))
    assert text.splitlines()[-1].split() == ["weight", "log10", "0.001", "-3", "1e-06", "1", "1/mm"]


def test_parameters_pickle():
    parameters = pickle.loads(pickle.dumps(ih.Parameters(a=ih.logit([0.2, 0.4], unit="1"), b={"c": ih.log(1.0)})))
    assert parameters.names == ["a[0]", "a[1]", "b.c"]
    np.testing.assert_allclose(parameters.natural(parameters.start)["a"], [0.2, 0.4], rtol=1e-15)


def test_covariance_matrix_by_its_cholesky_factor():
    start = np.array([[4.0, 2.0, 0.0], [2.0, 5.0, 0.0], [0.0, 0.0, 9.0]])
    parameters = ih.Parameters(omega=ih.cholesky(start), sigma=ih.log(0.5))
    assert parameters.names == ["omega[0,0]", "omega[1,0]", "omega[1,1]", "omega[2,2]", "sigma"]
    np.testing.assert_allclose(parameters.start[:4], [np.log(2), 1.0, np.log(2), np.log(3)], rtol=1e-14)
    u = parameters.start + np.array([0.1, -0.2, 0.3, 0.4, 0.0])
    omega = parameters.natural(u)["omega"]
    np.testing.assert_allclose(parameters.search({"omega": omega, "sigma": np.array(0.5)}), u, rtol=1e-13)
    np.testing.assert_array_equal(omega[2, :2], 0.0)
    weights = np.arange(9.0).reshape(3, 3)  # of a function of the matrix that is not symmetric in it
    pulled, h = parameters.pull(u, {"omega": weights, "sigma": 0.0}), 1e-6
    for k, step in enumerate(h * np.eye(5)[:4]):
        ends = [np.sum(weights * parameters.natural(u + sign * step)["omega"]) for sign in (1, -1)]
        assert pulled[k] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-8)
    assert "omega[1,0]  cholesky  2" in parameters.table()
    assert ih.Parameters(omega=ih.cholesky([[4.0]])).natural(np.array([0.0]))["omega"].tolist() == [[1.0]]


@pytest.mark.parametrize(
    "start, said",
    [
        ([[1.0, 2.0], [2.0, 1.0]], "not positive definite"),
        ([[1.0, 0.1], [0.2, 1.0]], "symmetric"),
        ([1.0, 2.0], "square"),
        ([[1.0, 0.1, 0.0], [0.1, 1.0, 0.1], [0.0, 0.1, 1.0]], r"entry \(0, 2\)"),
        ("four", "matrix of numbers"),
    ],
)
def test_bad_covariance_matrices_are_refused(start, said):
    with pytest.raises(ValueError, match=said):
        ih.cholesky(start)
