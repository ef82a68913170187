"""The spectrum at a solution, the terms a Neumann series takes, and its refusal where it diverges."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as ssl
import zoo

import invhyper as ih
from invhyper.eigenvalues import spectrum_of

RNG = np.random.default_rng(5)
Q, _ = np.linalg.qr(RNG.standard_normal((300, 300)))
VALUES = np.geomspace(0.5, 8.0, 300)
LARGE = (Q * VALUES) @ Q.T


@pytest.mark.parametrize("step", [None, 0.2, 0.3])
@pytest.mark.parametrize("kind", ["dense", "sparse", "operator"])
def test_lanczos_finds_both_ends(kind, step):
    A = {"dense": LARGE, "sparse": scipy.sparse.csr_array(LARGE), "operator": ssl.aslinearoperator(LARGE)}[kind]
    found = spectrum_of(A, step)
    assert found.smallest == pytest.approx(0.5, rel=1e-4)
    assert found.largest == pytest.approx(8.0, rel=1e-6)
    assert found.radius == pytest.approx(np.max(np.abs(1 - (step or 0.125) * VALUES)), rel=1e-5)
    assert found.converges == (step != 0.3)


def test_one_that_is_not_symmetric():
    """A rotation by 60 degrees, shrunk by 0.8: I - A has the radius |1 - 0.8 exp(i pi / 3)|."""
    turn = 0.8 * np.array([[np.cos(np.pi / 3), -np.sin(np.pi / 3)], [np.sin(np.pi / 3), np.cos(np.pi / 3)]])
    wanted = abs(1 - 0.8 * np.exp(1j * np.pi / 3))
    assert spectrum_of(turn, 1.0, symmetric=False).radius == pytest.approx(wanted, rel=1e-12)
    many = scipy.sparse.block_diag([turn * scale for scale in np.linspace(0.5, 1.0, 150)]).tocsr()
    radii = [abs(1 - 0.8 * scale * np.exp(1j * np.pi / 3)) for scale in np.linspace(0.5, 1.0, 150)]
    assert spectrum_of(many, 1.0, symmetric=False).radius == pytest.approx(max(radii), rel=1e-4)


def test_terms_are_those_that_are_needed():
    """The error of k terms is radius^k, in the direction of the slowest eigenvector exactly."""
    A = np.diag([1.0, 4.0])
    found = spectrum_of(A, 0.25)
    k = found.terms(1e-6)
    slowest = np.array([1.0, 0.0])
    errors = [abs(ih.Neumann(n, step=0.25).host(A, slowest, None, 0)[0] - 1.0) for n in (k - 1, k)]
    assert errors[1] <= 1e-6 < errors[0]
    assert spectrum_of(A, found.best_step).radius == pytest.approx(0.6, rel=1e-12)
    assert "49 terms" not in found.verdict and str(found.terms(1e-8)) in found.verdict


def test_at_a_solution():
    K, y, _, _ = zoo.ridge_problem(30, 6)
    values = np.linalg.eigvalsh(K.T @ K) + 2.0
    for lower in (ih.Ridge(K, y), ih.ElasticNet(K, y)):
        theta = {"l2": 2.0} | ({"l1": 1e-6} if isinstance(lower, ih.ElasticNet) else {})
        found = ih.spectrum(lower, theta)
        assert found.smallest == pytest.approx(values[0], rel=1e-6)
        assert found.largest == pytest.approx(values[-1], rel=1e-6)


def test_at_a_fixed_point():
    """A = I - J: the radius is that of the descent, for the step 1/4 on curvatures 1 and 3 three quarters."""
    descent = ih.GradientDescent(
        lambda x, theta: 0.5 * jnp.sum(jnp.array([1.0, 3.0]) * (x - theta["a"]) ** 2), np.zeros(2), ih.Constant(0.25)
    )
    found = ih.spectrum(descent, {"a": 1.0})
    assert found.radius == pytest.approx(0.75, rel=1e-10) and found.step == 1.0
    pair = ih.Together([ih.Ridge(np.eye(2), np.ones(2)), ih.Ridge(3 * np.eye(2), np.ones(2))])
    assert ih.spectrum(ih.Bilevel(pair, lambda x, theta: 0.0), {"l2": 0.0 + 1.0}).largest == pytest.approx(10.0)


def problem():
    K, y, held, held_y = zoo.ridge_problem(30, 6)
    return K, ih.Bilevel(ih.Ridge(K, y), ih.HeldOut(held, held_y))


@pytest.mark.parametrize("terms", [1, 5, 200])
def test_a_series_that_diverges_is_refused_with_its_numbers(terms):
    K, bilevel = problem()
    top = np.linalg.norm(K, 2) ** 2 + 2.0
    with pytest.raises(ih.NotConverged, match=rf"spectral radius 1\.2.*take a step below {2 / top:.4g}"):
        ih.Implicit(ih.Neumann(terms, step=2.2 / top))(bilevel, {"l2": 2.0})
    ih.Implicit(ih.Neumann(terms, step=1.9 / top))(bilevel, {"l2": 2.0})


def test_it_is_refused_on_the_host_as_well():
    K, y, held, held_y = zoo.ridge_problem(30, 6)
    bilevel = ih.Bilevel(ih.ElasticNet(K, y), ih.HeldOut(held, held_y))
    with pytest.raises(ih.NotConverged, match="the Neumann series diverges"):
        ih.Implicit(ih.Neumann(3, step=1.0))(bilevel, {"l1": 0.1, "l2": 2.0})


def test_what_is_indefinite_has_no_step():
    found = spectrum_of(np.diag([-1.0, 2.0]))
    assert np.isnan(found.best_step)
    with pytest.raises(ValueError, match="not positive definite, no step converges"):
        found.terms(1e-3)
    with pytest.raises(ValueError, match="accuracy = 2.0"):
        spectrum_of(np.eye(2)).terms(2.0)


@pytest.mark.parametrize(
    ("A", "smallest", "radius"),
    [
        (np.eye(300), 1.0, 0.0),
        (np.zeros((300, 300)), 0.0, 1.0),
        (np.zeros((2, 2)), 0.0, 1.0),
        (-np.eye(2), -1.0, 2.0),
        (np.zeros((0, 0)), np.nan, 0.0),
    ],
    ids=["one eigenvalue", "zero", "small zero", "negative", "empty"],
)
def test_degenerate_matrices(A, smallest, radius):
    found = spectrum_of(A)
    assert found.smallest == pytest.approx(smallest, nan_ok=True) and found.radius == pytest.approx(radius)


def test_advice_for_complex_eigenvalues():
    """1 +- 5i: real parts allow a step below 2, the moduli only one below 1/13."""
    found = spectrum_of(np.array([[1.0, 5.0], [-5.0, 1.0]]), 0.1, symmetric=False)
    assert not found.converges and "take a smaller step, or GMRES()" in found.refusal
    assert spectrum_of(np.array([[1.0, 5.0], [-5.0, 1.0]]), 0.07, symmetric=False).converges


def test_an_empty_support_has_nothing_to_refuse():
    K, y, held, held_y = zoo.ridge_problem(30, 6)
    bilevel = ih.Bilevel(ih.ElasticNet(K, y), ih.HeldOut(held, held_y))
    found = ih.Implicit(ih.Neumann(3, step=1.0))(bilevel, {"l1": 1e6, "l2": 2.0})
    assert found.gradient["l1"] == 0


@pytest.mark.parametrize("build", [ih.Ridge, ih.ElasticNet])
def test_one_that_overflows_is_refused_with_its_numbers_too(build):
    K, y, held, held_y = zoo.ridge_problem(30, 6)
    theta = {"l2": 2.0} | ({"l1": 0.1} if build is ih.ElasticNet else {})
    with pytest.raises(ih.NotConverged, match=r"spectral radius 5\d.*take a step below 0.0"):
        ih.Implicit(ih.Neumann(400, step=1.0))(ih.Bilevel(build(K, y), ih.HeldOut(held, held_y)), theta)
