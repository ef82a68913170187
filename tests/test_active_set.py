"""The active set: warm starts that cost nothing twice, and supports that are singular."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import zoo

import invhyper as ih


def sum_of(x, theta):
    return jnp.sum(x)


def test_warm_start_is_exact_and_cheap():
    A, y, _, _ = zoo.sparse_regression(100, 300)
    lower, top = ih.BPDN(A, y), ih.weight_max(A, y)
    cold = {part: ih.solve(lower, {"weight": part * top}) for part in (0.1, 0.095, 0.2)}
    start = cold[0.1]
    for part in (0.1, 0.095, 0.2):
        for memo in (start.memo, None):
            warm = ih.solve(lower, {"weight": part * top}, start=ih.Solution(start.x, memo=memo))
            np.testing.assert_allclose(warm.x, cold[part].x, atol=1e-13 * np.abs(start.x).max() * 100)
            assert warm.steps < cold[part].steps
    # The same support at other weights: no new factor.
    assert ih.solve(lower, {"weight": 0.1 * top}, start=start).steps == 0
    near = 0.1 * top * (1 + 1e-3 * ih.Implicit()(ih.Bilevel(lower, sum_of), {"weight": 0.1 * top}).certificate.margin)
    assert ih.solve(lower, {"weight": near}, start=start).steps == 0


def test_repeated_columns_have_no_derivative():
    A, y = zoo.sparse_regression(30, 12, k=3)[:2]
    weight = {"weight": 0.05 * ih.weight_max(A, y)}
    repeats = {
        "twice": np.hstack([A, A]),
        "negative": np.hstack([A, -A[:, :6]]),
        "many": np.repeat(A[:, [int(np.argmax(np.abs(A.T @ y)))]], 100, axis=1),
    }
    for twice in repeats.values():
        for matrix in (twice, scipy.sparse.csr_array(twice)):
            with pytest.raises(ValueError, match=r"x\* is not unique: column \d+ of A depends on others"):
                ih.solve(ih.BPDN(matrix, y), weight)
    # With l2, or with a weight of its own, the minimiser is unique again.
    x = ih.solve(ih.ElasticNet(repeats["twice"], y), {"l1": 1.0, "l2": 0.1}).x
    np.testing.assert_allclose(x[:12], x[12:], atol=1e-13)
    dearer = ih.solve(ih.BPDN(repeats["twice"], y), {"weight": np.repeat([2.0, 1.0], 12)}).x
    np.testing.assert_allclose(dearer, np.append(np.zeros(12), ih.solve(ih.BPDN(A, y), {"weight": 1.0}).x), atol=1e-12)


def test_unpenalised_columns_that_depend_on_each_other():
    A, y = zoo.sparse_regression(30, 12, k=3)[:2]
    for matrix, said in (
        (np.hstack([A, A[:, :1]]), "columns 0, 12 of A are linearly dependent"),
        (np.hstack([A, np.zeros((30, 1))]), "column 12 of A is zero"),
        (np.random.default_rng(0).standard_normal((30, 40)), "linearly dependent"),
    ):
        with pytest.raises(ValueError, match=said):
            ih.solve(ih.BPDN(matrix, y), {"weight": 0.0})
    np.testing.assert_allclose(ih.solve(ih.BPDN(A, y), {"weight": 0.0}).x, np.linalg.lstsq(A, y)[0], rtol=1e-12)
