"""Criteria from data, and the problems that share one theta."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import invhyper as ih


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.standard_normal((23, 4)), rng.standard_normal(23)


def ridge(A, y, l2):
    return np.linalg.solve(A.T @ A + l2 * np.eye(A.shape[1]), A.T @ y)


def test_truth_is_half_the_squared_distance():
    assert float(ih.Truth(np.array([1.0, 2.0]))(jnp.array([3.0, 5.0]), {})) == 6.5
    batch = ih.Truth(np.zeros((2, 3)))
    assert float(batch(jnp.ones((2, 3)), {})) == 3.0
    with pytest.raises(ValueError, match=r"Truth holds shape \(2, 3\), the solution has shape \(3,\)"):
        batch(jnp.ones(3), {})


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_held_out_is_the_mean_squared_error(data, make):
    A, y = data
    x = np.arange(4.0)
    assert float(ih.HeldOut(make(A), y)(x, {})) == pytest.approx(np.mean((A @ x - y) ** 2), rel=1e-14)
    with_intercept = ih.HeldOut(make(A), y)(np.append(x, 0.5), {})
    assert float(with_intercept) == pytest.approx(np.mean((A @ x + 0.5 - y) ** 2), rel=1e-14)


def test_held_out_takes_the_loss_of_its_lower_level(data):
    A, _ = data
    labels = np.arange(23) % 2
    signs = np.where(labels == 0, -1.0, 1.0)
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(A, labels))
    x = np.linspace(-1, 1, 4)
    wanted = np.mean(np.log1p(np.exp(-signs * (A @ x))))
    assert float(problem.criterion(x, {})) == pytest.approx(wanted, rel=1e-13)
    chosen = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(A, signs, loss=ih.squared))
    assert float(chosen.criterion(x, {})) == pytest.approx(np.mean((A @ x - signs) ** 2), rel=1e-13)


@pytest.mark.parametrize(
    ("A", "y", "said"),
    [
        (np.ones((3, 2)), np.ones(2), r"HeldOut wants A \(m, p\) and y \(m,\); it was given A \(3, 2\) and y \(2,\)"),
        (np.full((3, 2), np.nan), np.ones(3), "A holds NaN or infinity"),
        (np.ones((3, 2)), np.array([1, np.inf, 0]), "y holds NaN or infinity"),
        (scipy.sparse.csr_array([[np.nan, 1.0]]), np.ones(1), "sparse matrix holds NaN or infinity"),
        (np.ones((0, 2)), np.ones(0), "HeldOut was given no rows"),
    ],
)
def test_bad_data_gets_its_sentence(A, y, said):
    with pytest.raises(ValueError, match=said):
        ih.HeldOut(A, y)


def test_criteria_pickle(data):
    A, y = data
    x = np.arange(4.0)
    for criterion in (ih.HeldOut(A, y), ih.Truth(np.ones(4)), ih.KFold(ih.Ridge, A, y).criterion):
        again = pickle.loads(pickle.dumps(criterion))
        where = (x,) * 5 if hasattr(criterion, "criteria") else x
        assert float(again(where, {})) == float(criterion(where, {}))


def test_k_fold_is_the_mean_over_folds_in_closed_form(data):
    A, y = data

    def value(l2):
        errors = []
        for held in np.array_split(np.random.default_rng(7).permutation(23), 4):
            kept = np.setdiff1d(np.arange(23), held)
            errors.append(np.mean((A[held] @ ridge(A[kept], y[kept], l2) - y[held]) ** 2))
        return np.mean(errors)

    evaluation = ih.Implicit()(ih.KFold(ih.Ridge, A, y, folds=4, seed=7), {"l2": 2.0})
    assert evaluation.value == pytest.approx(value(2.0), rel=1e-13)
    slope = (8 * (value(2.001) - value(1.999)) - (value(2.002) - value(1.998))) / 0.012
    assert float(evaluation.gradient["l2"]) == pytest.approx(slope, rel=1e-8)
    assert len(evaluation.solution.x) == 4


@pytest.mark.parametrize("folds", [1, 24, 2.5, "five"])
def test_k_fold_wants_a_sensible_number_of_folds(data, folds):
    with pytest.raises(ValueError, match="KFold folds = .*a whole number between 2 and the number of rows, 23"):
        ih.KFold(ih.Ridge, *data, folds=folds)


def test_k_fold_on_host_lower_levels_agrees_with_its_folds(data):
    A, y = data
    problem = ih.KFold(ih.BPDN, A, y, folds=3, seed=1)
    weight = 0.3 * ih.weight_max(A, y)
    together = ih.Implicit()(problem, {"weight": weight})
    single = [
        ih.Implicit()(ih.Bilevel(lower, criterion), {"weight": weight})
        for lower, criterion in zip(problem.lower.lowers, problem.criterion.criteria, strict=True)
    ]
    assert together.value == pytest.approx(np.mean([e.value for e in single]), rel=1e-13)
    slope = np.mean([float(e.gradient["weight"]) for e in single])
    assert float(together.gradient["weight"]) == pytest.approx(slope, rel=1e-12)
    assert together.certificate.margin == min(e.certificate.margin for e in single)
    warm = ih.Implicit()(problem, {"weight": weight}, warm=together)
    assert float(warm.gradient["weight"]) == pytest.approx(slope, rel=1e-10)
