"""BPDN under linear constraints: equality (C, d) and inequality (G, h)."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import scipy.sparse

import invhyper as ih


def problem(n=40, p=80, k=6, equalities=3, inequalities=12, seed=0):
    """A, y, constraints that the least-squares fit would break, and the sparse truth."""
    rng = np.random.default_rng(seed)
    A, truth = rng.standard_normal((n, p)), np.zeros(p)
    truth[:k] = 3 * rng.standard_normal(k)
    y = A @ truth + 0.3 * rng.standard_normal(n)
    C, G = rng.standard_normal((equalities, p)), rng.standard_normal((inequalities, p))
    equality, inequality = (C, 0.9 * C @ truth), (G, G @ truth + rng.uniform(-0.2, 1, inequalities))
    return A, y, equality if equalities else None, inequality if inequalities else None, truth


def distance(truth):
    return lambda x, theta: jnp.sum((x - truth) ** 2)


def test_nonnegative_identity_in_closed_form():
    """A = I, x >= 0: x = max(y - weight, 0). The row of x_j >= 0 at a zero is no kink."""
    y = np.array([3.0, -2.0, 0.5, 1.4])
    lower = ih.BPDN(np.eye(4), y, inequality=(-np.eye(4), np.zeros(4)))
    found = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x @ jnp.arange(1.0, 5.0)), {"weight": 0.8})
    np.testing.assert_allclose(found.solution.x, [2.2, 0.0, 0.0, 0.6], atol=1e-14)
    np.testing.assert_allclose(found.gradient["weight"], -(1.0 + 4.0), rtol=1e-14)
    assert not found.certificate.kink and found.certificate.margin > 0.1


def test_equality_in_closed_form():
    """A = I, sum x = d with all of x positive: x = y + (d - sum y) / p, whatever a common weight is."""
    y = np.array([3.0, 2.0, 1.5])
    lower = ih.BPDN(np.eye(3), y, equality=(np.ones(3), 5.0))
    found = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x[0]), {"weight": np.array([0.4, 0.4, 0.4])})
    np.testing.assert_allclose(found.solution.x, y - 0.5, atol=1e-14)
    np.testing.assert_allclose(found.gradient["weight"], [-2 / 3, 1 / 3, 1 / 3], rtol=1e-13)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(),
        dict(n=30, p=20, inequalities=30, seed=1),
        dict(equalities=0, seed=2),
        dict(inequalities=0, seed=3),
        dict(n=80, p=300, equalities=5, inequalities=40, seed=4),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.03])
def test_central_differences(sizes, share):
    A, y, equality, inequality, truth = problem(**sizes)
    lower = ih.BPDN(A, y, equality=equality, inequality=inequality)
    weight = share * np.max(np.abs(A.T @ y))
    solution = ih.solve(lower, {"weight": weight})
    assert solution.error < 1e-14
    if equality is not None:
        np.testing.assert_allclose(equality[0] @ solution.x, equality[1], atol=1e-12)
    if inequality is not None:
        assert np.max(inequality[0] @ solution.x - inequality[1]) < 1e-12
    each = weight * np.random.default_rng(5).uniform(0.5, 1.5, truth.size)
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, distance(truth)), {"weight": weight})
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, distance(truth)), {"weight": each})


def test_unpenalised_and_nonnegative_together():
    """Weights of zero on five coefficients, x >= 0, a budget, and sample weights."""
    A, y, _, _, truth = problem(30, 40)
    rows = (np.concatenate([-np.eye(40), np.ones((1, 40))]), np.append(np.zeros(40), 4.0))
    lower = ih.BPDN(A, y, inequality=rows, sample_weight=np.linspace(0.5, 2, 30))
    weight = np.append(np.zeros(5), np.linspace(2, 4, 35))
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, distance(truth)), {"weight": weight})
    assert ih.solve(lower, {"weight": weight}).x.min() == 0.0


def test_constraints_that_do_not_bind_change_nothing():
    A, y, _, _, truth = problem()
    plain, loose = ih.BPDN(A, y), ih.BPDN(A, y, inequality=(np.ones((1, 80)), np.array([1e3])))
    theta = {"weight": 5.0}
    found = [ih.Implicit()(ih.Bilevel(lower, distance(truth)), theta) for lower in (plain, loose)]
    np.testing.assert_allclose(found[0].solution.x, found[1].solution.x, atol=1e-13)
    np.testing.assert_allclose(found[0].gradient["weight"], found[1].gradient["weight"], rtol=1e-11)


def test_sparse_data_agree():
    A, y, equality, inequality, truth = problem()
    A = np.where(np.abs(A) > 1.0, A, 0.0)
    lowers = [ih.BPDN(B, y, equality=equality, inequality=inequality) for B in (A, scipy.sparse.csr_array(A))]
    found = [ih.Implicit()(ih.Bilevel(lower, distance(truth)), {"weight": 3.0}) for lower in lowers]
    np.testing.assert_allclose(found[0].gradient["weight"], found[1].gradient["weight"], rtol=1e-10)


def test_warm_start_is_polished_without_clarabel():
    A, y, equality, inequality, truth = problem()
    bilevel = ih.Bilevel(ih.BPDN(A, y, equality=equality, inequality=inequality), distance(truth))
    cold = ih.Implicit()(bilevel, {"weight": 5.0})
    warm, again = (ih.Implicit()(bilevel, {"weight": 5.2}, warm=w) for w in (cold, None))
    np.testing.assert_allclose(warm.gradient["weight"], again.gradient["weight"], rtol=1e-11)
    assert warm.solution.steps < again.solution.steps


def test_layer_differentiates_weight_and_y():
    A, y, equality, inequality, truth = problem()
    theta = {"weight": 5.0}

    def value(theta, y):
        return jnp.sum((ih.layer(ih.BPDN(A, y, equality=equality, inequality=inequality))(theta) - truth) ** 2)

    slope, of_y = jax.jit(jax.grad(value, argnums=(0, 1)))(theta, jnp.asarray(y))
    lower = ih.BPDN(A, y, equality=equality, inequality=inequality)
    wanted = ih.Implicit()(ih.Bilevel(lower, distance(truth)), theta)
    np.testing.assert_allclose(slope["weight"], wanted.gradient["weight"], rtol=1e-10)
    direction, h = np.random.default_rng(1).standard_normal(40), 1e-6
    ends = [float(value(theta, jnp.asarray(y + sign * h * direction))) for sign in (1, -1)]
    np.testing.assert_allclose(of_y @ direction, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)
    both = jax.vmap(jax.grad(value, argnums=1), in_axes=(None, 0))(theta, jnp.stack([y, 1.1 * y]))
    np.testing.assert_allclose(both[0], of_y, rtol=1e-10)


def test_zero_solution_says_why():
    A, y, _, _, truth = problem()
    lower = ih.BPDN(A, y, inequality=(-np.eye(80), np.zeros(80)))
    found = ih.Implicit()(ih.Bilevel(lower, distance(truth)), {"weight": 1e4})
    assert not np.any(found.solution.x) and found.gradient["weight"] == 0.0
    assert "x = 0" in found.certificate.verdict and "hypergradient is zero" in found.certificate.verdict


def test_an_inequality_just_touched_is_a_kink():
    lower = ih.BPDN(np.eye(2), np.array([3.0, 2.0]), inequality=(np.array([[1.0, 1.0]]), np.array([3.0])))
    found = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x[0]), {"weight": 1.0})
    assert found.certificate.kink and "inequality 0" in found.certificate.margin_of


def test_infeasible_and_not_unique():
    A, y, _, _, truth = problem()
    theta = {"weight": 1.0}
    apart = ih.BPDN(A, y, equality=(np.ones((1, 80)), np.array([1.0])), inequality=(np.ones((1, 80)), np.array([0.0])))
    with pytest.raises(ih.NotConverged, match="infeasible"):
        ih.Implicit()(ih.Bilevel(apart, distance(truth)), theta)
    found = ih.Implicit()(ih.Bilevel(apart, distance(truth)), theta, throw=False)
    assert np.all(np.isnan(found.solution.x)) and np.isnan(found.gradient["weight"])
    A = np.column_stack([A, A[:, 0]])
    twice = ih.BPDN(A, y, inequality=(np.ones((1, 81)), np.array([1e3])))
    with pytest.raises(ih.NotConverged, match="not unique"):
        ih.solve(twice, theta)


def test_redundant_equalities_do_no_harm():
    A, y, equality, inequality, truth = problem()
    C, d = equality
    doubled = (np.concatenate([C, 2 * C]), np.concatenate([d, 2 * d]))
    found = [
        ih.Implicit()(ih.Bilevel(ih.BPDN(A, y, equality=pair, inequality=inequality), distance(truth)), {"weight": 5.0})
        for pair in (equality, doubled)
    ]
    np.testing.assert_allclose(found[0].gradient["weight"], found[1].gradient["weight"], rtol=1e-9)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(equality=(np.ones((2, 5)), np.ones(2))), r"equality wants \(C, d\) of shapes \(m, 80\) and \(m,\)"),
        (dict(inequality=(np.ones((2, 80)), np.ones(3))), r"inequality wants \(G, h\)"),
        (dict(equality=(np.full((1, 80), np.nan), np.ones(1))), "equality holds NaN"),
        (dict(equality=(np.ones((1, 80)), np.ones(1)), intercept=True), "no intercept"),
    ],
)
def test_bad_constraints(arguments, said):
    A, y, *_ = problem()
    with pytest.raises(ValueError, match=said):
        ih.BPDN(A, y, **arguments)


def test_no_iteration_and_no_residual():
    A, y, equality, _, _ = problem()
    lower = ih.BPDN(A, y, equality=equality)
    with pytest.raises(TypeError, match="Use Implicit"):
        lower.iteration()
    with pytest.raises(TypeError, match="multipliers"):
        lower.residual(np.zeros(80), {"weight": 1.0})
