"""The largest useful weight, and scikit-learn's way of writing the weights."""

import numpy as np
import pytest
import zoo

import invhyper as ih


@pytest.mark.parametrize("intercept", [False, True])
def test_scikit_learn_agrees(intercept):
    from sklearn.linear_model import ElasticNet as Theirs

    A, y = zoo.sparse_regression(60, 30, k=5)[:2]
    sample_weight = np.random.default_rng(0).random(60) + 0.5
    theta = {"l1": 4.0, "l2": 2.0}
    x = ih.solve(ih.ElasticNet(A, y + 1.0, intercept=intercept, sample_weight=sample_weight), theta).x
    theirs = Theirs(**ih.to_sklearn(theta, sample_weight.sum()), fit_intercept=intercept, tol=1e-14, max_iter=100_000)
    theirs.fit(A, y + 1.0, sample_weight)
    np.testing.assert_allclose(x, np.append(theirs.coef_, theirs.intercept_)[: x.size], atol=1e-7)


def test_weights_to_and_from_scikit_learn():
    for theta in ({"l1": 9.0, "l2": 3.0}, {"l1": 0.0, "l2": 2.0}, {"l1": 0.0, "l2": 0.0}):
        assert ih.from_sklearn(n=60, **ih.to_sklearn(theta, 60)) == pytest.approx(theta, abs=1e-14)
    assert ih.from_sklearn(0.5, 60) == {"weight": 30.0}
    for bad in (
        lambda: ih.to_sklearn({"l1": np.ones(3), "l2": 1.0}, 60),
        lambda: ih.to_sklearn({"alpha": 1.0}, 60),
        lambda: ih.to_sklearn({"weight": -1.0}, 60),
        lambda: ih.to_sklearn({"weight": 1.0}, 0),
        lambda: ih.from_sklearn(-1.0, 60),
        lambda: ih.from_sklearn(1.0, 60, 1.5),
    ):
        with pytest.raises(ValueError, match="wanted|scikit-learn"):
            bad()


@pytest.mark.parametrize(
    "options", [{}, {"intercept": True}, {"intercept": True, "standardise": True}, {"standardise": True}]
)
def test_weight_max(options):
    A, y = zoo.sparse_regression(40, 25, k=3)[:2]
    top = ih.weight_max(A + 0.5, y + 1.0, **options)
    lower = ih.BPDN(A + 0.5, y + 1.0, **options)
    assert not np.any(ih.solve(lower, {"weight": top * (1 + 1e-12)}).x[:25])
    assert np.count_nonzero(ih.solve(lower, {"weight": top * (1 - 1e-9)}).x[:25]) == 1
