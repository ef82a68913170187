"""BasisPursuit: the smallest l1 norm within a ball of data."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import scipy.sparse

import invhyper as ih

RNG = np.random.default_rng(0)


def problem(n=40, p=90, k=6, seed=0):
    """A, y and the sparse truth."""
    rng = np.random.default_rng(seed)
    A, truth = rng.standard_normal((n, p)), np.zeros(p)
    truth[:k] = 3 * rng.standard_normal(k)
    return A, A @ truth + 0.3 * rng.standard_normal(n), truth


def distance(truth):
    return lambda x, theta: jnp.sum((x - truth) ** 2)


def test_identity_in_closed_form():
    """A = I: x = soft(y, mu); with |y_2| below mu, 2 mu^2 + y_2^2 = epsilon^2 and dx/depsilon = -s epsilon / (2 mu)."""
    y = np.array([3.0, -2.5, 0.4])
    lower = ih.BasisPursuit(np.eye(3), y)
    epsilon = np.sqrt(2 * 0.9**2 + 0.4**2)
    found = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x[0] - 2 * x[1]), {"epsilon": epsilon})
    np.testing.assert_allclose(found.solution.x, [2.1, -1.6, 0.0], atol=1e-14)
    np.testing.assert_allclose(found.gradient["epsilon"], -(1 + 2) * epsilon / (2 * 0.9), rtol=1e-13)


@pytest.mark.parametrize("shape", [(50, 100), (60, 30), (100, 400)])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.03])
def test_central_differences(shape, share):
    A, y, truth = problem(*shape, seed=3)
    epsilon = share * np.linalg.norm(y)
    if shape == (60, 30):
        epsilon = max(epsilon, 1.2 * np.linalg.norm(A @ np.linalg.lstsq(A, y)[0] - y))
    lower = ih.BasisPursuit(A, y)
    solution = ih.solve(lower, {"epsilon": epsilon})
    assert solution.error < 1e-14
    assert np.linalg.norm(A @ solution.x - y) == pytest.approx(epsilon, rel=1e-13)
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, distance(truth)), {"epsilon": epsilon})


def test_cone_agrees():
    A, y, truth = problem()
    x, epsilon = cp.Variable(90, name="x"), cp.Parameter(name="epsilon", nonneg=True)
    cone = ih.Cone(cp.Problem(cp.Minimize(cp.norm1(x)), [cp.norm(A @ x - y) <= epsilon]), [epsilon], [x])
    criterion = distance(truth)
    theta = {"epsilon": 2.0}
    ours = ih.Implicit()(ih.Bilevel(ih.BasisPursuit(A, y), criterion), theta)
    theirs = ih.Implicit()(ih.Bilevel(cone, lambda x, theta: criterion(x["x"], theta)), theta)
    np.testing.assert_allclose(ours.solution.x, theirs.solution.x["x"], atol=1e-11)
    np.testing.assert_allclose(ours.gradient["epsilon"], theirs.gradient["epsilon"], rtol=1e-9)


def test_sparse_data_stay_sparse_and_agree():
    A, y, truth = problem()
    A = np.where(np.abs(A) > 1.0, A, 0.0)
    dense, sparse = (ih.BasisPursuit(B, y) for B in (A, scipy.sparse.csr_array(A)))
    assert isinstance(sparse.A, ih.operators.Sparse)
    found = [ih.Implicit()(ih.Bilevel(lower, distance(truth)), {"epsilon": 3.0}) for lower in (dense, sparse)]
    np.testing.assert_allclose(found[0].solution.x, found[1].solution.x, atol=1e-12)
    np.testing.assert_allclose(found[0].gradient["epsilon"], found[1].gradient["epsilon"], rtol=1e-11)


def test_warm_start_follows_epsilon():
    A, y, truth = problem(100, 400)
    bilevel = ih.Bilevel(ih.BasisPursuit(A, y), distance(truth))
    cold = ih.Implicit()(bilevel, {"epsilon": 6.0})
    for epsilon in (5.9, 6.1, 3.0, 9.0):
        warm, again = (ih.Implicit()(bilevel, {"epsilon": epsilon}, warm=w) for w in (cold, None))
        np.testing.assert_allclose(warm.gradient["epsilon"], again.gradient["epsilon"], rtol=1e-10)
        if abs(epsilon - 6.0) < 0.2:
            assert warm.solution.steps < again.solution.steps


def test_layer_differentiates_epsilon_and_y():
    A, y, truth = problem()
    theta = {"epsilon": 2.0}

    def value(theta, y):
        return jnp.sum((ih.layer(ih.BasisPursuit(A, y))(theta) - truth) ** 2)

    slope, of_y = jax.jit(jax.grad(value, argnums=(0, 1)))(theta, jnp.asarray(y))
    wanted = ih.Implicit()(ih.Bilevel(ih.BasisPursuit(A, y), distance(truth)), theta)
    np.testing.assert_allclose(slope["epsilon"], wanted.gradient["epsilon"], rtol=1e-10)
    direction, h = RNG.standard_normal(40), 1e-6
    ends = [float(value(theta, jnp.asarray(y + sign * h * direction))) for sign in (1, -1)]
    np.testing.assert_allclose(of_y @ direction, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)
    both = jax.vmap(jax.grad(value, argnums=1), in_axes=(None, 0))(theta, jnp.stack([y, 1.1 * y]))
    np.testing.assert_allclose(both[0], of_y, rtol=1e-10)
    with pytest.raises(TypeError, match="no derivative in its field 'A'"):
        jax.grad(lambda A: ih.layer(ih.BasisPursuit(A, y))(theta).sum())(jnp.asarray(A))


def test_zero_solution_says_why():
    A, y, truth = problem()
    found = ih.Implicit()(ih.Bilevel(ih.BasisPursuit(A, y), distance(truth)), {"epsilon": 2 * np.linalg.norm(y)})
    assert not np.any(found.solution.x) and found.gradient["epsilon"] == 0.0
    assert "at least |y|" in found.certificate.verdict and "hypergradient is zero" in found.certificate.verdict
    edge = ih.Implicit()(ih.Bilevel(ih.BasisPursuit(A, y), distance(truth)), {"epsilon": np.linalg.norm(y)})
    assert edge.certificate.kink and "|y|" in edge.certificate.margin_of


def test_infeasible_says_how_far():
    A, y, truth = problem(60, 30)
    least = np.linalg.norm(A @ np.linalg.lstsq(A, y)[0] - y)
    bilevel = ih.Bilevel(ih.BasisPursuit(A, y), distance(truth))
    with pytest.raises(ih.NotConverged, match=f"infeasible: .* {least:.6g} away; raise epsilon"):
        ih.Implicit()(bilevel, {"epsilon": 0.9 * least})
    found = ih.Implicit()(bilevel, {"epsilon": 0.9 * least}, throw=False)
    assert np.all(np.isnan(found.solution.x)) and np.isnan(found.gradient["epsilon"])
    assert found.certificate.lower_residual == np.inf


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: ih.BasisPursuit(np.ones((3, 2)), np.ones(2)), r"wants y of shape \(3,\)"),
        (lambda: ih.BasisPursuit(np.full((3, 2), np.nan), np.ones(3)), "A holds NaN"),
        (lambda: ih.BasisPursuit(np.ones((3, 2)), np.full(3, np.inf)), "y holds NaN or infinity"),
        (lambda: ih.BasisPursuit(np.ones(3), np.ones(3)), "wants A of shape"),
    ],
)
def test_bad_data(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    "theta, said",
    [
        ({"epsilon": 0.0}, "below its bound"),
        ({"epsilon": -1.0}, "below its bound"),
        ({"epsilon": np.nan}, "not a finite number"),
        ({"epsilon": np.ones(2)}, "wants a scalar"),
        ({"eps": 1.0}, "did you mean 'epsilon'"),
    ],
)
def test_bad_theta(theta, said):
    A, y, truth = problem()
    with pytest.raises(ValueError, match=said):
        ih.Implicit()(ih.Bilevel(ih.BasisPursuit(A, y), distance(truth)), theta)


def test_repeated_column_is_refused():
    A, y, truth = problem()
    A[:, 1] = A[:, 0]
    with pytest.raises(ValueError, match="not unique"):
        ih.solve(ih.BasisPursuit(A, y), {"epsilon": 2.0})
