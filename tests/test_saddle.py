"""The saddle-point factor: exact where K is regular, honest about its null space where it is not."""

import numpy as np
import pytest
import scipy.sparse

from invhyper.strata.saddle import DENSE, EXAMINED, Saddle, Singular

RNG = np.random.default_rng(0)


def saddle(n=12, m=4):
    root = RNG.standard_normal((n, n))
    normal = RNG.standard_normal((m, n))
    return np.block([[root @ root.T, normal.T], [normal, np.zeros((m, m))]])


@pytest.mark.parametrize("to", [np.asarray, scipy.sparse.csc_array])
def test_solves_badly_scaled_systems(to):
    scale = 10.0 ** RNG.uniform(-5, 5, 16)
    matrix, wanted = scale[:, None] * saddle() * scale, RNG.standard_normal(16) / scale
    factor = Saddle(to(matrix))
    assert not factor.singular and factor.null.shape == (16, 0)
    np.testing.assert_allclose(factor.solve(matrix @ wanted) * scale, wanted * scale, rtol=1e-9)


def test_large_sparse_systems_stay_sparse():
    n = 2 * DENSE
    upper = scipy.sparse.diags_array([-np.ones(n - 1), 2.1 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    normal = scipy.sparse.csc_array(np.eye(3, n))
    matrix = scipy.sparse.csc_array(scipy.sparse.block_array([[upper, normal.T], [normal, None]]))
    factor, wanted = Saddle(matrix), RNG.standard_normal(n + 3)
    assert not factor.singular
    np.testing.assert_allclose(factor.solve(matrix @ wanted), wanted, atol=1e-12)


def test_repeated_constraint_frees_its_multipliers_alone():
    """Two equal rows: the null space is their difference, and consistent systems are solved."""
    matrix = saddle(8, 3)
    index = [*range(11), 10]
    doubled = matrix[np.ix_(index, index)]
    factor = Saddle(doubled)
    null = factor.null.toarray()
    np.testing.assert_allclose(np.abs(null[:, 0]), np.append(np.zeros(10), [0.5**0.5, 0.5**0.5]), atol=1e-12)
    rhs = doubled @ RNG.standard_normal(12)
    np.testing.assert_allclose(doubled @ factor.solve(rhs), rhs, atol=1e-10)


def test_unknowns_without_equations_stay_put():
    matrix = np.zeros((6, 6))
    matrix[:5, :5] = saddle(4, 1)
    for to in (np.asarray, scipy.sparse.csc_array):
        factor = Saddle(to(matrix))
        assert factor.singular and np.array_equal(factor.null.toarray().ravel(), np.eye(6)[5])
        solution = factor.solve(np.append(matrix[:5, :5] @ np.arange(5.0), 0.0))
        np.testing.assert_allclose(solution, [0, 1, 2, 3, 4, 0], atol=1e-10)


def test_empty_system():
    factor = Saddle(np.zeros((0, 0)))
    assert not factor.singular and factor.solve(np.zeros(0)).shape == (0,)


def test_large_singular_systems_are_refused():
    n = EXAMINED + 2
    matrix = scipy.sparse.csc_array(scipy.sparse.block_diag([np.ones((2, 2)), scipy.sparse.eye_array(n - 2)]))
    with pytest.raises(Singular, match=f"of {n} unknowns is singular"):
        _ = Saddle(matrix).null
