"""Linear solvers, on pytrees in JAX and on matrices in SciPy, against NumPy's dense solution; the door."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import invhyper as ih
from invhyper.linear_solvers import choose, largest_eigenvalue, solve_host, solve_traced

RNG = np.random.default_rng(0)
Q, _ = np.linalg.qr(RNG.standard_normal((12, 12)))
POSITIVE = (Q * np.linspace(1, 4, 12)) @ Q.T
GENERAL = POSITIVE + 0.3 * RNG.standard_normal((12, 12))
RHS = RNG.standard_normal(12)
TREE = {"a": jnp.asarray(RHS[:4]).reshape(2, 2), "b": jnp.asarray(RHS[4:])}


def operator(matrix, tags=()):
    def product(v):
        flat = matrix @ jnp.concatenate([v["a"].ravel(), v["b"]])
        return {"a": flat[:4].reshape(2, 2), "b": flat[4:]}

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: TREE), tags)


@pytest.mark.parametrize(
    ("solver", "matrix"),
    [
        (ih.Direct(), GENERAL),
        (ih.Direct(), POSITIVE),
        (ih.CG(), POSITIVE),
        (ih.GMRES(), GENERAL),
        (ih.GMRES(restart=5), GENERAL),
        (ih.Neumann(200), POSITIVE),
        (ih.Neumann(200, step=0.2), POSITIVE),
        (lx.CG(1e-12, 1e-12), POSITIVE),
        (None, GENERAL),
    ],
    ids=str,
)
def test_solves_in_jax_on_trees(solver, matrix):
    tags = lx.positive_semidefinite_tag if matrix is POSITIVE else ()
    z = jax.jit(lambda rhs: solve_traced(solver, operator(matrix, tags), rhs, None, 1e-12))(TREE)
    flat = np.concatenate([np.ravel(z["a"]), z["b"]])
    np.testing.assert_allclose(flat, np.linalg.solve(matrix, RHS), atol=1e-10)


@pytest.mark.parametrize("kind", ["dense", "sparse", "operator"])
@pytest.mark.parametrize(
    ("solver", "matrix"),
    [
        (None, GENERAL),
        (ih.Direct(), POSITIVE),
        (ih.CG(), POSITIVE),
        (ih.GMRES(), GENERAL),
        (ih.Neumann(200), POSITIVE),
    ],
    ids=str,
)
def test_solves_in_scipy(solver, matrix, kind):
    wrap = {
        "dense": lambda m: m,
        "sparse": scipy.sparse.csr_array,
        "operator": scipy.sparse.linalg.aslinearoperator,
    }
    z = solve_host(solver, wrap[kind](matrix), RHS, None, 1e-12)
    np.testing.assert_allclose(z, np.linalg.solve(matrix, RHS), atol=1e-10)


def test_own_tolerance_comes_before_the_callers():
    for loose in (ih.CG(tol=1e-2), ih.GMRES(tol=1e-2, restart=3)):
        z = solve_host(loose, POSITIVE, RHS, None, 1e-12)
        assert 1e-6 < np.linalg.norm(POSITIVE @ z - RHS) / np.linalg.norm(RHS) <= 1e-2


def test_a_good_start_is_used():
    z = np.linalg.solve(POSITIVE, RHS)
    np.testing.assert_allclose(solve_host(ih.CG(max_steps=1), POSITIVE, RHS, z, 1e-10), z, rtol=1e-12)


def test_neumann_is_its_formula():
    z = sum(0.1 * np.linalg.matrix_power(np.eye(12) - 0.1 * POSITIVE, j) @ RHS for j in range(5))
    np.testing.assert_allclose(solve_host(ih.Neumann(5, 0.1), POSITIVE, RHS, None, 0.0), z, rtol=1e-13)


def test_largest_eigenvalue_is_a_close_upper_estimate():
    for found in (
        largest_eigenvalue(lambda v: POSITIVE @ v, RHS),
        float(largest_eigenvalue(operator(POSITIVE).mv, TREE)),
    ):
        assert 4.0 <= found <= 4.1
    assert largest_eigenvalue(lambda v: 0 * v, RHS) == 1.0


def test_choice_follows_the_structure():
    def identity(size, tags=()):
        return lx.FunctionLinearOperator(lambda v: v, jax.ShapeDtypeStruct((size,), jnp.float64), tags)

    assert isinstance(choose(identity(10)), ih.Direct)
    assert isinstance(choose(identity(5000, lx.positive_semidefinite_tag)), ih.CG)
    assert isinstance(choose(identity(5000)), ih.GMRES)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: ih.Neumann(0), ValueError, "at least 1"),
        (lambda: ih.Neumann(2.5), ValueError, "whole number"),
        (lambda: ih.Neumann(3, step=-1.0), ValueError, "a positive number"),
        (lambda: ih.CG(tol=-1.0), ValueError, "CG tol = -1.0"),
        (lambda: ih.CG(max_steps=0), ValueError, "CG max_steps = 0"),
        (lambda: ih.GMRES(restart=0), ValueError, "GMRES restart = 0"),
        (lambda: ih.Implicit("cg"), TypeError, "linear_solver"),
        (lambda: solve_host(lx.CG(1e-9, 1e-9), POSITIVE, RHS, None, 1e-9), TypeError, "lineax solver"),
    ],
)
def test_bad_input_gets_a_sentence(make, error, said):
    with pytest.raises(error, match=said):
        make()
