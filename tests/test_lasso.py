"""ElasticNet and BPDN: closed forms on the active set, published cases, options, strata, and what they refuse."""

import tracemalloc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import zoo

import invhyper as ih


def held_out_slope(A_val, y_val, x):
    """The gradient in x of HeldOut's mean squared error, in NumPy."""
    p = A_val.shape[1]
    rows = A_val if x.size == p else np.hstack([A_val, np.ones((len(A_val), 1))])
    return 2 / len(y_val) * rows.T @ (rows @ x - y_val)


# Twenty problems, n 50 to 500, p 100 to 5000, weights 0.5 to 0.01 of weight_max, ridge part 0 or random.
SIZES = [
    (50, 100),
    (50, 400),
    (80, 200),
    (100, 1000),
    (150, 300),
    (200, 1000),
    (200, 2000),
    (300, 600),
    (400, 2000),
    (500, 5000),
]
CASES = [(n, p, seed) for n, p in SIZES for seed in (1, 2)]


@pytest.mark.parametrize("n, p, seed", CASES)
def test_closed_form(n, p, seed):
    rng = np.random.default_rng(seed)
    A, y, A_val, y_val = zoo.sparse_regression(n, p, seed=seed)
    weight = ih.weight_max(A, y) * 10 ** rng.uniform(-2, np.log10(0.5))
    l2 = 0.0 if seed == 1 else 10 ** rng.uniform(-2, 1)
    criterion = ih.HeldOut(A_val, y_val)
    if l2:
        evaluation = ih.Implicit()(ih.Bilevel(ih.ElasticNet(A, y), criterion), {"l1": weight, "l2": l2})
    else:
        evaluation = ih.Implicit()(ih.Bilevel(ih.BPDN(A, y), criterion), {"weight": weight})
    x = evaluation.solution.x
    support = np.flatnonzero(x)
    exact, along_l1, along_l2 = zoo.l1_closed_form(A, y, weight, l2, support, np.sign(x[support]))
    assert np.linalg.norm(x - exact) <= 1e-10 * np.linalg.norm(exact)
    slope = held_out_slope(A_val, y_val, exact)
    wanted = (
        {"l1": slope @ along_l1.sum(1), "l2": slope @ along_l2.sum(1)} if l2 else {"weight": slope @ along_l1.sum(1)}
    )
    for key, value in wanted.items():
        assert abs(evaluation.gradient[key] - value) <= 1e-8 * abs(value)
    assert evaluation.certificate.lower_residual <= 1e-13
    assert evaluation.certificate.error_estimate <= 1e-9 * max(abs(value) for value in wanted.values())


def test_published_lasso_slopes():
    A, y, A_val, y_val = zoo.sparse_regression(200, 1000)
    n, top = len(y), ih.weight_max(A, y)
    assert abs(top / n - 1.28109619235) <= 1e-11
    problem, warm = ih.Bilevel(ih.Lasso(A, y), ih.HeldOut(A_val, y_val)), None
    for part, slope in ((0.5, 14.10525690), (0.1, 1.295690103), (0.01, -14.48212861)):
        for start in (None, warm):
            evaluation = ih.Implicit()(problem, {"weight": part * top}, warm=start)
            assert abs(n * evaluation.gradient["weight"] / slope - 1) <= 1e-9
        warm = evaluation


def test_where_a_cone_layer_is_wrong():
    A, y, A_val, y_val = zoo.tall_elastic_net()
    n = len(y)
    evaluation = ih.Implicit()(
        ih.Bilevel(ih.ElasticNet(A, y), ih.HeldOut(A_val, y_val)), {"l1": 0.15 * n, "l2": 0.05 * n}
    )
    # The published criterion has 1/2 of the mean.
    ours = n / 2 * np.array([evaluation.gradient["l1"], evaluation.gradient["l2"]])
    np.testing.assert_allclose(ours, [1.43797902, 2.80559080], rtol=1e-8)


def test_where_another_cone_layer_is_wrong():
    A, y, truth = zoo.wide_elastic_net()
    evaluation = ih.Implicit()(ih.Bilevel(ih.ElasticNet(A, y), ih.Truth(truth)), {"l1": 5.0, "l2": 0.5})
    x = evaluation.solution.x
    exact = zoo.elastic_net_slope(A, y, x, 5.0, 0.5, 2 * (x - truth))
    ours = 2 * np.array([evaluation.gradient["l1"], evaluation.gradient["l2"]])
    np.testing.assert_allclose(ours, exact, rtol=1e-10)
    np.testing.assert_allclose(ours, [0.0565, 0.7936], atol=5e-5)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept, weighted", [(False, False), (True, False), (False, True), (True, True)])
def test_options_and_weights_per_coefficient(intercept, weighted, sparse):
    rng = np.random.default_rng(3)
    A, y = rng.standard_normal((40, 60)) + 1.0, rng.standard_normal(40) + 2.0
    A[rng.random(A.shape) < 0.7] = 0.0
    sample_weight = rng.random(40) + 0.1 if weighted else None
    theta = {"l1": 3.0 * rng.random(60), "l2": rng.random(60)}
    theta["l1"][4] = 0.0
    lower = ih.ElasticNet(
        scipy.sparse.csr_array(A) if sparse else A, y, intercept=intercept, sample_weight=sample_weight
    )
    A_val, y_val = rng.standard_normal((30, 60)), rng.standard_normal(30)
    evaluation = ih.Implicit()(ih.Bilevel(lower, ih.HeldOut(A_val, y_val)), theta)
    x = evaluation.solution.x
    support = np.flatnonzero(x[:60])
    assert 4 in support and support.size < 60
    signs = np.sign(x[support])
    exact, *along = zoo.l1_closed_form(A, y, theta["l1"], theta["l2"], support, signs, sample_weight, intercept)
    np.testing.assert_allclose(x, exact, atol=1e-12)
    slope = held_out_slope(A_val, y_val, exact)
    for key, jacobian in zip(("l1", "l2"), along, strict=True):
        assert evaluation.gradient[key].shape == (60,)
        np.testing.assert_allclose(evaluation.gradient[key], slope @ jacobian, atol=1e-11)


def test_standardise_is_a_weight_per_coefficient():
    rng = np.random.default_rng(4)
    A, y = rng.standard_normal((50, 20)) * 10 ** rng.uniform(-2, 2, 20) + 3.0, rng.standard_normal(50)
    A[:, 7] = 3.0
    sample_weight = rng.random(50)
    lower = ih.ElasticNet(A, y, intercept=True, standardise=True, sample_weight=sample_weight)
    means = np.average(A, axis=0, weights=sample_weight)
    scales = np.sqrt(np.average((A - means) ** 2, axis=0, weights=sample_weight))
    scales[7] = 1.0
    plain = ih.ElasticNet(A, y, intercept=True, sample_weight=sample_weight)
    x = ih.solve(lower, {"l1": 0.7, "l2": 0.3}).x
    np.testing.assert_allclose(x, ih.solve(plain, {"l1": 0.7 * scales, "l2": 0.3 * scales**2}).x, rtol=1e-9)
    assert 0 < np.count_nonzero(x[:-1]) < 20 and x[7] == 0.0
    # The slope of x in a shared weight, where every coefficient's penalty moves by its own scale.
    x_of = ih.layer(lower)
    slope = jax.grad(lambda theta: jnp.sum(x_of(theta) ** 2))({"l1": 0.7, "l2": 0.3})
    for key in slope:
        ends = [
            np.sum(ih.solve(lower, {"l1": 0.7, "l2": 0.3, key: v}).x ** 2)
            for v in (slope_at(key) + 1e-6, slope_at(key) - 1e-6)
        ]
        assert abs((ends[0] - ends[1]) / 2e-6 - slope[key]) <= 1e-6 * abs(slope[key])


def slope_at(key):
    return {"l1": 0.7, "l2": 0.3}[key]


@pytest.mark.parametrize("Lower, key", [(ih.BPDN, "weight"), (ih.ElasticNet, "l1")])
def test_zero_solution_says_why(Lower, key):
    A, y, A_val, y_val = zoo.sparse_regression(40, 25, k=3)
    top = ih.weight_max(A, y)
    theta = {key: 2 * top} if key == "weight" else {key: 2 * top, "l2": 1.0}
    evaluation = ih.Implicit()(ih.Bilevel(Lower(A, y), ih.HeldOut(A_val, y_val)), theta)
    assert not np.any(evaluation.solution.x)
    assert all(np.all(slope == 0) for slope in evaluation.gradient.values())
    assert f"x = 0: {key} {2 * top:.6g} is above weight_max {top:.6g}" in evaluation.certificate.verdict
    assert "hypergradient is zero" in evaluation.solution.result
    assert abs(evaluation.certificate.margin - 0.5) <= 1e-12
    per_coefficient = {name: np.full(25, value) for name, value in theta.items()}
    said = ih.solve(Lower(A, y), per_coefficient).result
    assert f"{key} is 2 times what makes x zero" in said
    assert "A^T y = 0" in ih.solve(Lower(A, 0 * y), theta).result


def test_margin_is_the_distance_to_the_kink():
    A, y, A_val, y_val = zoo.sparse_regression(40, 25, k=3)
    problem, top = ih.Bilevel(ih.BPDN(A, y), ih.HeldOut(A_val, y_val)), ih.weight_max(A, y)
    at_kink = ih.Implicit()(problem, {"weight": top})
    assert at_kink.certificate.kink and "one-sided" in at_kink.certificate.verdict
    entering = int(np.argmax(np.abs(A.T @ y)))
    below, above = (ih.Implicit()(problem, {"weight": top * (1 + h)}).certificate for h in (-1e-4, 1e-4))
    assert below.margin_of == f"coefficient {entering} leaves the support" and above.margin_of.endswith(
        "enters the support"
    )
    assert below.margin == pytest.approx(1e-4 * top / np.linalg.norm(A[:, entering]) / np.linalg.norm(y), rel=1e-3)
    assert above.margin == pytest.approx(1e-4, rel=1e-3)


def test_support_larger_than_the_samples():
    """l2 > 0 lets the support outgrow n: an n x n system then serves; against the closed form all the same."""
    rng = np.random.default_rng(5)
    A, y, A_val, y_val = zoo.sparse_regression(30, 200, k=40)
    for l2, weighted in ((5.0, False), (1e-3, True)):
        sample_weight = rng.random(30) + 0.1 if weighted else None
        lower = ih.ElasticNet(A, y, sample_weight=sample_weight, intercept=weighted)
        theta = {"l1": np.where(rng.random(200) < 0.5, 0.0, 1e-2), "l2": l2}
        evaluation = ih.Implicit()(ih.Bilevel(lower, ih.HeldOut(A_val, y_val)), theta)
        x = evaluation.solution.x
        support = np.flatnonzero(x[:200])
        assert support.size > 60
        closed = zoo.l1_closed_form(A, y, theta["l1"], l2, support, np.sign(x[support]), sample_weight, weighted)
        np.testing.assert_allclose(x, closed[0], rtol=0, atol=1e-9 * np.abs(x).max())
        slope = held_out_slope(A_val, y_val, closed[0])
        np.testing.assert_allclose(evaluation.gradient["l2"], slope @ closed[2].sum(1), rtol=1e-8)


def test_tiny_weights_where_samples_outnumber_columns():
    problem, _, top = zoo.diabetes_lasso()
    A, y = problem.lower.A, problem.lower.y
    for part in (1e-1, 1e-3, 1e-5):
        evaluation = ih.Implicit()(problem, {"weight": part * top})
        x = evaluation.solution.x
        support = np.flatnonzero(x)
        exact, along, _ = zoo.l1_closed_form(A, y, part * top, 0.0, support, np.sign(x[support]))
        slope = held_out_slope(np.asarray(problem.criterion.A), np.asarray(problem.criterion.y), exact)
        assert abs(evaluation.gradient["weight"] - slope @ along.sum(1)) <= 1e-9 * abs(slope @ along.sum(1))


def test_layer_in_theta_and_data():
    rng = np.random.default_rng(6)
    A, y = rng.standard_normal((15, 8)), rng.standard_normal(15)
    probe = rng.standard_normal(9)

    def value(A, y, theta):
        return jnp.vdot(probe, ih.layer(ih.ElasticNet(A, y, intercept=True))(theta))

    theta = {"l1": 1.0, "l2": 0.5}
    by_A, by_y, by_theta = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(jnp.asarray(A), jnp.asarray(y), theta)
    h = 1e-6
    for _ in range(4):
        dA, dy = rng.standard_normal(A.shape), rng.standard_normal(15)
        both = [float(value(A + s * h * dA, y + s * h * dy, theta)) for s in (1, -1)]
        slope = float(jnp.vdot(by_A, dA) + jnp.vdot(by_y, dy))
        assert abs((both[0] - both[1]) / (2 * h) - slope) <= 1e-6 * max(1.0, abs(slope))
    for key in theta:
        both = [float(value(A, y, {**theta, key: theta[key] + s * h})) for s in (1, -1)]
        assert abs((both[0] - both[1]) / (2 * h) - by_theta[key]) <= 1e-7
    # vmap over data and over theta gives what a loop gives.
    ys, l1s = jnp.asarray(rng.standard_normal((3, 15))), jnp.array([0.3, 1.0, 2.0])
    slope = jax.grad(lambda l1, y: value(A, y, {"l1": l1, "l2": 0.5}))
    loop = [slope(l1, y) for l1, y in zip(l1s, ys, strict=True)]
    np.testing.assert_allclose(jax.vmap(slope)(l1s, ys), jnp.array(loop), atol=1e-13)


def test_layer_in_the_entries_of_a_sparse_matrix():
    A = scipy.sparse.random_array((15, 8), density=0.5, format="csr", rng=np.random.default_rng(7))
    y, theta = np.random.default_rng(8).standard_normal(15), {"weight": 0.05}
    sparse = ih.operators.Sparse.from_scipy(A)

    def value(data):
        matrix = ih.operators.Sparse(data, sparse.indices, sparse.indptr, sparse.shape)
        return jnp.sum(ih.layer(ih.BPDN(matrix, y))(theta) ** 3)

    slope = jax.grad(value)(jnp.asarray(sparse.data))
    dense = jax.grad(lambda A: jnp.sum(ih.layer(ih.BPDN(A, y))(theta) ** 3))(jnp.asarray(A.toarray()))
    rows = np.repeat(np.arange(15), np.diff(A.indptr))
    np.testing.assert_allclose(slope, dense[rows, A.indices], atol=1e-13)
    assert np.any(slope != 0)


def test_a_derivative_that_is_not_given_is_refused():
    A, y = zoo.sparse_regression(20, 5, k=2)[:2]
    with pytest.raises(TypeError, match="no derivative in its field 'A'"):
        jax.grad(lambda A: ih.layer(ih.BPDN(A, y, standardise=True))({"weight": 1.0}).sum())(jnp.asarray(A))
    with pytest.raises(TypeError, match="no derivative in its field 'sample_weight'"):
        jax.grad(lambda w: ih.layer(ih.BPDN(A, y, sample_weight=w))({"weight": 1.0}).sum())(jnp.ones(20))


@pytest.mark.parametrize("sparse", [False, True])
def test_unrolled_proximal_gradient_reaches_the_implicit_slope(sparse):
    rng = np.random.default_rng(9)
    A, y, A_val, y_val = zoo.sparse_regression(40, 8, k=3)
    lower = ih.ElasticNet(scipy.sparse.csr_array(A) if sparse else A, y + 1.0, intercept=True, standardise=True)
    problem, theta = ih.Bilevel(lower, ih.HeldOut(A_val, y_val)), {"l1": 2.0 * rng.random(8) + 1.0, "l2": 0.5}
    implicit, unrolled = ih.Implicit()(problem, theta), ih.Unrolled(300)(problem, theta)
    assert abs(implicit.value - unrolled.value) <= 1e-12 * implicit.value
    for key in theta:
        np.testing.assert_allclose(unrolled.gradient[key], implicit.gradient[key], atol=1e-11)


def test_objective_and_residual_know_the_minimiser():
    rng = np.random.default_rng(10)
    A, y = rng.standard_normal((20, 6)) + 1.0, rng.standard_normal(20)
    sample_weight = rng.random(20)
    lower = ih.ElasticNet(A, y, intercept=True, standardise=True, sample_weight=sample_weight)
    theta = {"l1": 0.8, "l2": 0.4}
    x = ih.solve(lower, theta).x
    assert np.max(np.abs(lower.residual(x, theta))) <= 1e-12 * ih.weight_max(A, y)
    assert np.max(np.abs(lower.residual(x + 1e-3, theta))) > 1e-4
    scales = np.sqrt(np.average((A - np.average(A, axis=0, weights=sample_weight)) ** 2, axis=0, weights=sample_weight))
    misfit = A @ x[:6] + x[6] - y
    written = (
        0.5 * np.sum(sample_weight * misfit**2)
        + 0.8 * np.sum(scales * np.abs(x[:6]))
        + 0.2 * np.sum((scales * x[:6]) ** 2)
    )
    assert abs(float(lower.objective(x, theta)) - written) <= 1e-13 * written


def test_no_square_matrix_in_the_columns():
    A, y, A_val, y_val = zoo.sparse_regression(500, 5000)
    problem, top = ih.Bilevel(ih.BPDN(A, y), ih.HeldOut(A_val, y_val)), ih.weight_max(A, y)
    ih.Implicit()(problem, {"weight": 0.5 * top})
    for theta in ({"weight": 0.1 * top}, {"weight": 0.01 * top}):
        tracemalloc.start()
        ih.Implicit()(problem, theta)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6 < 5000 * 5000 * 8 / 3


def test_sparse_data_stay_sparse():
    rng = np.random.default_rng(11)
    n, p = 2000, 10_000
    A = scipy.sparse.random_array((n, p), density=1e-3, format="csr", rng=rng, data_sampler=rng.standard_normal)
    x = np.where(rng.random(p) < 2e-2, 3.0 * rng.standard_normal(p), 0.0)
    y, rows = A @ x + 0.1 * rng.standard_normal(n), rng.standard_normal((5, p))
    top = ih.weight_max(A, y)
    problem = ih.Bilevel(ih.BPDN(A, y), ih.HeldOut(rows, np.zeros(5)))
    ih.Implicit()(problem, {"weight": 0.9 * top})
    for part in (0.3, 0.03):
        tracemalloc.start()
        evaluation = ih.Implicit()(problem, {"weight": part * top})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        x = evaluation.solution.x
        support = np.flatnonzero(x)
        assert peak < max(10e6, 4 * 8 * support.size**2) < n * p * 8 / 4
        chosen = A[:, support].toarray()
        exact, along, _ = zoo.l1_closed_form(chosen, y, part * top, 0.0, np.arange(support.size), np.sign(x[support]))
        assert np.max(np.abs(A.T @ (y - chosen @ exact))) <= part * top * (1 + 1e-10)
        slope = held_out_slope(rows[:, support], np.zeros(5), exact) @ along.sum(1)
        assert abs(evaluation.gradient["weight"] - slope) <= 1e-8 * abs(slope)


A, Y = np.eye(3, 2) + 0.1, np.arange(3.0)
NAN, INF = np.array([0.0, np.nan, 0.0]), np.array([0.0, 1.0, np.inf])


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: ih.BPDN(A * np.nan, Y), "A holds NaN or infinity"),
        (lambda: ih.BPDN(A, NAN), "y holds NaN or infinity"),
        (lambda: ih.BPDN(A, INF), "y holds NaN or infinity"),
        (lambda: ih.BPDN(scipy.sparse.csr_array(A * np.inf), Y), "NaN or infinity"),
        (lambda: ih.BPDN(A, Y, sample_weight=INF), "sample_weight holds NaN or infinity"),
        (lambda: ih.BPDN(A, Y, sample_weight=-Y), "sample_weight holds -2"),
        (lambda: ih.BPDN(A, Y, sample_weight=0 * Y), "zero for every row"),
        (lambda: ih.BPDN(A, Y[:2]), r"y of shape \(3,\)"),
        (lambda: ih.BPDN(Y, Y), r"A of shape \(n, p\)"),
        (lambda: ih.BPDN(A[:, :0], Y), r"both at least 1; it was given \(3, 0\)"),
        (lambda: ih.BPDN(A * 1j, Y), "complex128"),
        (lambda: ih.BPDN([[1.0], [1.0, 2.0]], Y), "ragged"),
        (lambda: ih.solve(ih.BPDN(A, Y), {"weight": -1.0}), "'weight' = -1 is below its bound 0"),
        (lambda: ih.solve(ih.BPDN(A, Y), {"weight": np.nan}), "'weight' = nan is not a finite number"),
        (lambda: ih.solve(ih.BPDN(A, Y), {"weight": np.ones(3)}), r"wants a scalar or \(2,\)"),
        (lambda: ih.solve(ih.BPDN(A, Y), {"wieght": 1.0}), "did you mean 'weight'"),
        (lambda: ih.solve(ih.ElasticNet(A, Y), {"l1": 1.0}), "lacks 'l2'"),
    ],
)
def test_refused_at_the_door(make, said):
    with pytest.raises(ValueError, match=said):
        lower = make()
        raise AssertionError(f"{lower} was accepted")


def test_not_finite_inside_a_compiled_call_is_a_sentence():
    solve = jax.jit(lambda y: ih.layer(ih.BPDN(A, y))({"weight": 0.1}))
    with pytest.raises(jax.errors.JaxRuntimeError, match="A or y holds NaN or infinity"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.block_until_ready(solve(jnp.array([1.0, jnp.nan, 0.0])))


def test_a_start_that_is_not_finite_is_not_used():
    A, y, _, _ = zoo.sparse_regression(40, 60)
    lower, theta = ih.BPDN(A, y), {"weight": 0.2 * ih.weight_max(A, y)}
    cold = ih.solve(lower, theta)
    warm = ih.solve(lower, theta, start=ih.Solution(np.full(60, np.nan)))
    np.testing.assert_allclose(warm.x, cold.x, rtol=1e-12)
