"""Cone: any DPP cvxpy problem, against closed forms, central differences, and what must not be answered."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import zoo

import invhyper as ih

RNG = np.random.default_rng(1)


def parameter(name, *shape, **attributes):
    return cp.Parameter(shape, name=name, **attributes)


def jacobian(cone, theta, key):
    """dx*/dtheta[key], one adjoint a row, for a variable "x" that is a vector."""
    solution = ih.solve(cone, cone.check(theta))
    found = cone.linearise(solution, theta)
    rows = [found.P_transpose({"x": e}) for e in np.eye(solution.x["x"].size)]
    return solution.x["x"], np.array([-found.B_transpose(found.solve(row, True))[key] for row in rows])


# Closed forms


def test_projection_on_the_simplex():
    y = RNG.standard_normal(7)
    x, data = cp.Variable(7, name="x"), parameter("y", 7)
    cone = ih.Cone(cp.Problem(cp.Minimize(cp.sum_squares(x - data)), [x >= 0, cp.sum(x) == 1]), [data], [x])
    for got, wanted in zip(jacobian(cone, {"y": y}, "y"), zoo.project_simplex(y), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-13)


def test_projection_on_a_ball():
    y = np.array([2.0, -1.0, 0.5])
    x, data, radius = cp.Variable(3, name="x"), parameter("y", 3), parameter("r", pos=True)
    cone = ih.Cone(cp.Problem(cp.Minimize(cp.norm(x - data)), [cp.norm(x) <= radius]), [data, radius], [x])
    point, in_y, in_radius = zoo.project_ball(y, 1.2)
    theta = {"y": y, "r": 1.2}
    np.testing.assert_allclose(jacobian(cone, theta, "y")[1], in_y, atol=1e-13)
    np.testing.assert_allclose(jacobian(cone, theta, "r")[1], in_radius, atol=1e-13)
    np.testing.assert_allclose(jacobian(cone, theta, "r")[0], point, atol=1e-13)


def test_projection_on_a_box_declared_by_attributes():
    y = np.array([-0.5, 0.3, 2.0])
    x, data = cp.Variable(3, name="x", bounds=[0, 1]), parameter("y", 3)
    cone = ih.Cone(cp.Problem(cp.Minimize(cp.sum_squares(x - data))), [data], [x])
    point, slope = jacobian(cone, {"y": y}, "y")
    np.testing.assert_allclose(point, [0.0, 0.3, 1.0], atol=1e-14)
    np.testing.assert_allclose(slope, np.diag([0.0, 1.0, 0.0]), atol=1e-14)


def test_soft_threshold():
    y = np.array([3.0, -0.4, -2.0, 0.9])
    x, data, weight = cp.Variable(4, name="x"), parameter("y", 4), parameter("w", nonneg=True)
    objective = cp.Minimize(0.5 * cp.sum_squares(x - data) + weight * cp.norm1(x))
    cone = ih.Cone(cp.Problem(objective), [data, weight], [x])
    point, in_y, in_weight = zoo.soft(y, 0.7)
    theta = {"y": y, "w": 0.7}
    got, slope = jacobian(cone, theta, "y")
    np.testing.assert_allclose(got, point, atol=1e-14)
    np.testing.assert_allclose(slope, in_y, atol=1e-14)
    np.testing.assert_allclose(jacobian(cone, theta, "w")[1], in_weight, atol=1e-14)


def elastic_net(A, y, scale):
    x, l1, l2 = cp.Variable(A.shape[1], name="x"), parameter("l1", nonneg=True), parameter("l2", nonneg=True)
    penalties = l1 * cp.norm1(x) + 0.5 * l2 * cp.sum_squares(x)
    return ih.Cone(cp.Problem(cp.Minimize(0.5 * scale * cp.sum_squares(A @ x - y) + penalties)), [l1, l2], [x])


def test_elastic_net_against_the_closed_form():
    A, y, truth = zoo.wide_elastic_net()
    problem = ih.Bilevel(elastic_net(A, y, 1.0), lambda x, theta: jnp.sum((x["x"] - truth) ** 2))
    found = ih.Implicit()(problem, {"l1": 5.0, "l2": 0.5})
    x = ih.solve(ih.ElasticNet(A, y), {"l1": 5.0, "l2": 0.5}).x
    np.testing.assert_allclose(found.solution.x["x"], x, atol=1e-12)
    wanted = zoo.elastic_net_slope(A, y, x, 5.0, 0.5, 2 * (x - truth))
    np.testing.assert_allclose([found.gradient["l1"], found.gradient["l2"]], wanted, rtol=1e-8)
    np.testing.assert_allclose(wanted, [0.0565, 0.7936], atol=1e-4)


def test_elastic_net_where_another_cone_layer_is_twice_off():
    X, y, held, yv = zoo.tall_elastic_net()
    problem = ih.Bilevel(elastic_net(X, y, 1 / 60), lambda x, theta: jnp.mean((held @ x["x"] - yv) ** 2) / 2)
    found = ih.Implicit()(problem, {"l1": 0.15, "l2": 0.05})
    np.testing.assert_allclose([found.gradient["l1"], found.gradient["l2"]], [1.43797902, 2.80559080], rtol=1e-8)
    assert found.certificate.lower_residual < 1e-14


# Central differences


def quadratic():
    x = cp.Variable(8, name="x")
    q, G, h, l = parameter("q", 8), parameter("G", 5, 8), parameter("h", 5), parameter("l", nonneg=True)
    objective = 0.5 * cp.sum_squares(RNG.standard_normal((8, 8)) @ x) + q @ x + l * cp.sum_squares(x)
    theta = {"q": RNG.standard_normal(8), "G": RNG.standard_normal((5, 8)), "h": 0.1 * RNG.standard_normal(5), "l": 0.3}
    return cp.Problem(cp.Minimize(objective), [G @ x <= h, cp.sum(x) == 1, x[0] >= 0]), [q, G, h, l], [x], theta


def portfolio():
    w = cp.Variable(10, name="w")
    mean, factors, risk = parameter("mean", 10), parameter("factors", 3, 10), parameter("risk", nonneg=True)
    utility = mean @ w - cp.sum_squares(factors @ w) - risk * cp.sum_squares(w)
    theta = {"mean": RNG.uniform(0, 1, 10), "factors": RNG.standard_normal((3, 10)), "risk": 0.4}
    return cp.Problem(cp.Maximize(utility), [cp.sum(w) == 1, w >= 0]), [mean, factors, risk], [w], theta


def robust_least_squares():
    x, A, y, rho = cp.Variable(6, name="x"), parameter("A", 15, 6), parameter("y", 15), parameter("rho", nonneg=True)
    data = RNG.standard_normal((15, 6))
    theta = {"A": data, "y": data @ RNG.standard_normal(6) + 0.3 * RNG.standard_normal(15), "rho": 0.5}
    return cp.Problem(cp.Minimize(cp.norm(A @ x - y) + rho * cp.norm(x))), [A, y, rho], [x], theta


def group_lasso():
    x, y, weight = cp.Variable((5, 3), name="x"), parameter("y", 20), parameter("weight", nonneg=True)
    A, truth = RNG.standard_normal((20, 15)), np.zeros((5, 3))
    truth[:2] = 1.0
    loss = 0.5 * cp.sum_squares(A @ cp.vec(x, order="F") - y)
    theta = {"y": A @ truth.ravel(order="F") + 0.3 * RNG.standard_normal(20), "weight": 4.0}
    return cp.Problem(cp.Minimize(loss + weight * cp.sum(cp.norm(x, 2, axis=1)))), [y, weight], [x], theta


def nonnegative_least_squares():
    x, A, y = cp.Variable(8, name="x", nonneg=True), parameter("A", 12, 8), parameter("y", 12)
    theta = {"A": RNG.standard_normal((12, 8)), "y": RNG.standard_normal(12)}
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - y))), [A, y], [x], theta


def linear():
    x, c, A, b = cp.Variable(4, name="x"), parameter("c", 4), parameter("A", 6, 4), parameter("b", 6)
    theta = {"c": RNG.standard_normal(4), "A": RNG.standard_normal((6, 4)), "b": RNG.uniform(0.5, 1, 6)}
    return cp.Problem(cp.Minimize(c @ x), [A @ x <= b, x >= -1, x <= 1]), [c, A, b], [x], theta


def linear_over_balls():
    """One ball touched, one not (its epigraph variable is loose), and a half-space."""
    x, c, r = cp.Variable(5, name="x"), parameter("c", 5), parameter("r", pos=True)
    theta = {"c": RNG.standard_normal(5), "r": 1.3}
    constraints = [cp.norm(x - 1) <= r, x[0] >= 0.9, cp.norm(x) <= 20]
    return cp.Problem(cp.Minimize(c @ x), constraints), [c, r], [x], theta


def two_variables():
    """Huber loss, total variation, the largest entry; x as two variables of which one is a scalar."""
    x, level, y, k = (
        cp.Variable(5, name="x"),
        cp.Variable(name="level"),
        parameter("y", 20),
        parameter("k", nonneg=True),
    )
    A = RNG.standard_normal((20, 5))
    objective = cp.sum(cp.huber(A @ x + level - y, 0.5)) + k * cp.norm_inf(x) + k * cp.tv(x)
    return cp.Problem(cp.Minimize(objective)), [y, k], [x, level], {"y": RNG.standard_normal(20), "k": 0.8}


PROBLEMS = [
    quadratic,
    portfolio,
    robust_least_squares,
    group_lasso,
    nonnegative_least_squares,
    linear,
    linear_over_balls,
    two_variables,
]


def waves(x, theta):
    return sum(jnp.sum(jnp.sin(1.0 + part)) for part in jax.tree.leaves(x)) + 0.1 * jnp.sum(jax.tree.leaves(theta)[0])


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
def test_central_differences(make):
    problem, parameters, variables, theta = make()
    cone = ih.Cone(problem, parameters, variables)
    solution = ih.solve(cone, cone.check(theta))
    assert solution.error < 1e-13
    laws.hypergradient(ih.Implicit(), ih.Bilevel(cone, waves), theta, rtol=1e-6)


def test_large_sparse_problem_keeps_its_factor_sparse():
    """Total variation of a signal of 600: 2400 unknowns; flat regions average their share of y."""
    y = np.repeat([0.0, 2.0, 1.0], 200) + 0.1 * RNG.standard_normal(600)
    x, data, weight = cp.Variable(600, name="x"), parameter("y", 600), parameter("w", nonneg=True)
    objective = cp.Minimize(0.5 * cp.sum_squares(x - data) + weight * cp.tv(x))
    cone = ih.Cone(cp.Problem(objective), [data, weight], [x])
    found = ih.Implicit()(ih.Bilevel(cone, lambda x, theta: x["x"][0]), {"y": y, "w": 5.0})
    region = np.abs(found.solution.x["x"] - found.solution.x["x"][0]) < 1e-9
    np.testing.assert_allclose(found.gradient["y"], region / region.sum(), atol=1e-10)
    assert abs(found.gradient["w"] - 1 / region.sum()) < 1e-10


def test_warm_start_keeps_the_faces():
    problem, parameters, variables, theta = robust_least_squares()
    lower = ih.Bilevel(ih.Cone(problem, parameters, variables), waves)
    cold = ih.Implicit()(lower, theta)
    nearby = {**theta, "rho": 0.51}
    warm, again = ih.Implicit()(lower, nearby, warm=cold), ih.Implicit()(lower, nearby)
    assert "kept its faces" in warm.solution.result and warm.solution.steps < again.solution.steps
    np.testing.assert_allclose(warm.gradient["A"], again.gradient["A"], atol=1e-12)


def test_layer_is_implicit_under_grad_jit_and_vmap():
    problem, parameters, variables, theta = group_lasso()
    cone = ih.Cone(problem, parameters, variables)
    layer = ih.layer(cone)
    wanted = ih.Implicit()(ih.Bilevel(cone, waves), theta)

    def value(theta):
        return waves(layer(theta), theta)

    many = {"y": jnp.stack([theta["y"], 1.1 * theta["y"]]), "weight": jnp.array([4.0, 3.0])}
    for got in (
        jax.grad(value)(theta),
        jax.jit(jax.grad(value))(theta),
        jax.tree.map(lambda leaf: leaf[0], jax.vmap(jax.grad(value))(many)),
    ):
        for key in theta:
            np.testing.assert_allclose(got[key], wanted.gradient[key], atol=1e-10)
    assert layer(theta)["x"].shape == (5, 3)


# The user's problem


def test_two_cones_from_one_problem_agree_and_leave_it_alone():
    problem, parameters, variables, theta = nonnegative_least_squares()
    first = ih.Cone(problem, parameters, variables)
    variables[0].value, parameters[1].value = np.full(8, 7.0), np.full(12, 3.0)
    second = ih.Cone(problem, parameters, variables)
    evaluations = [ih.Implicit()(ih.Bilevel(cone, waves), theta) for cone in (first, second, first)]
    for other in evaluations[1:]:
        assert np.array_equal(evaluations[0].solution.x["x"], other.solution.x["x"])
        assert np.array_equal(evaluations[0].gradient["A"], other.gradient["A"])
    assert np.all(variables[0].value == 7.0) and np.all(parameters[1].value == 3.0) and parameters[0].value is None
    assert problem.value is None
    x = {"x": np.arange(8.0)}
    assert first.objective(x, theta) == pytest.approx(np.sum((theta["A"] @ x["x"] - theta["y"]) ** 2), rel=1e-14)
    assert np.all(variables[0].value == 7.0)


def test_parameters_that_are_not_listed_keep_their_value():
    x, y, weight = cp.Variable(2, name="x"), parameter("y", 2), parameter("w", nonneg=True)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - y) + weight * cp.norm1(x)))
    with pytest.raises(ValueError, match="'y' has no value and is not in `parameters`"):
        ih.Cone(problem, [weight], [x])
    y.value = np.array([2.0, -3.0])
    cone = ih.Cone(problem, [weight], [x])
    y.value = np.zeros(2)
    np.testing.assert_allclose(ih.solve(cone, {"w": 1.0}).x["x"], [1.0, -2.0], atol=1e-14)


# Kinks, and what has no answer

X = cp.Variable(2, name="x")
C, T, R = parameter("c", 2), parameter("t"), parameter("r", nonneg=True)
NEAR_C = 0.5 * cp.sum_squares(X - C)


def evaluate(objective, constraints, parameters, theta, throw=True):
    cone = ih.Cone(cp.Problem(cp.Minimize(objective), constraints), parameters, [X])
    return ih.Implicit()(ih.Bilevel(cone, lambda x, theta: jnp.sum(x["x"] ** 2) + x["x"][0]), theta, throw=throw)


@pytest.mark.parametrize(
    "objective, constraints, parameters, theta",
    [
        (NEAR_C, [X >= 0], [C], {"c": [0.3, 0.0]}),
        (NEAR_C + R * cp.norm1(X), [], [C, R], {"c": [2.0, 1.0], "r": 1.0}),
        (NEAR_C, [cp.norm(X) <= 1], [C], {"c": [0.6, 0.8]}),
        (NEAR_C + cp.norm(X), [], [C], {"c": [0.6, 0.8]}),
        (-X[0] - X[1], [X[0] <= 1, X[1] <= 1, X[0] + X[1] <= T], [T], {"t": 2.0}),
        (NEAR_C, [cp.sum(X) == T, 2 * cp.sum(X) == 2], [C, T], {"c": [0.3, 0.1], "t": 1.0}),
    ],
    ids=["bound", "soft threshold", "sphere", "apex", "vertex", "torn equalities"],
)
def test_kinks_are_called_kinks(objective, constraints, parameters, theta):
    certificate = evaluate(objective, constraints, parameters, theta).certificate
    assert certificate.kink and certificate.margin < 1e-12 and certificate.margin_of


def test_the_nearest_constraint_is_named():
    certificate = evaluate(NEAR_C, [cp.sum(X) <= 5, X[0] <= 1], [C], {"c": [1.001, 0.5]}).certificate
    assert not certificate.kink and "constraint 1, x[0] <= 1.0" in certificate.margin_of


def test_redundant_constraints_do_no_harm():
    """sum x = 1 thrice: multipliers are not unique, the slope is."""
    for constraints in ([cp.sum(X) == 1, 2 * cp.sum(X) == 2], [cp.sum(X) >= 1, X[0] + X[1] >= 1, cp.sum(X) >= 1]):
        found = evaluate(NEAR_C, constraints, [C], {"c": [0.3, 0.1]})
        np.testing.assert_allclose(found.gradient["c"], [0.7, -0.7], rtol=1e-12)
        assert not found.certificate.kink


@pytest.mark.parametrize(
    "objective, constraints, parameters, theta, said",
    [
        (cp.sum_squares(X), [X[0] >= T, X[0] <= -1], [T], {"t": 1.0}, "infeasible"),
        (X[0], [cp.norm(X - 3) <= T, X[0] <= 0], [T], {"t": 1.0}, "infeasible"),
        (X[0] + T * X[1], [X[0] <= -1], [T], {"t": 1.0}, "unbounded"),
        (R * (X[0] + X[1]), [X[0] + X[1] >= 1, X >= 0], [R], {"r": 1.0}, "not unique"),
        (cp.sum_squares(X[0] + X[1] - T), [], [T], {"t": 1.0}, "not unique"),
    ],
    ids=["infeasible", "infeasible ball", "unbounded", "edge of a polytope", "underdetermined"],
)
def test_no_answer_where_there_is_none(objective, constraints, parameters, theta, said):
    with pytest.raises(ih.NotConverged, match=said):
        evaluate(objective, constraints, parameters, theta)
    found = evaluate(objective, constraints, parameters, theta, throw=False)
    assert said in found.certificate.verdict and found.certificate.lower_residual == np.inf
    assert np.all(np.isnan(found.solution.x["x"])) and np.isnan(found.value)
    assert all(np.all(np.isnan(leaf)) for leaf in found.gradient.values())


MATRIX = cp.Variable((2, 2), name="X")


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: (cp.sum(cp.exp(X)) + T, [T], [X]), "not differentiable here yet: .* exponential"),
        (lambda: (cp.lambda_max(MATRIX) + T, [T], [MATRIX]), "not differentiable here yet: .* semidefinite"),
        (lambda: (cp.trace(V := cp.Variable((2, 2), PSD=True)) + T, [T], [V]), "not differentiable here yet: .* PSD"),
        (lambda: (cp.sum(V := cp.Variable(2, integer=True)) + T, [T], [V]), "not differentiable here yet: .* integer"),
        (lambda: (cp.sum_squares(cp.exp(T) * X), [T], [X]), "not DPP"),
        (lambda: (cp.sqrt(X[0]) + T, [T], [X]), "not convex"),
        (lambda: (cp.sum_squares(X - T), [T, R], [X]), "Parameter 'r' does not occur"),
        (lambda: (cp.sum_squares(X - T), [T], []), "no Variable"),
        (lambda: (cp.sum_squares(X - T) + parameter("t") * X[0], [T], [X]), "has no value"),
    ],
)
def test_refused_at_construction(make, said):
    objective, parameters, variables = make()
    with pytest.raises(ValueError, match=said):
        ih.Cone(cp.Problem(cp.Minimize(objective)), parameters, variables)


def test_refused_names_and_types():
    twin = parameter("t")
    with pytest.raises(ValueError, match="two Parameters are named 't'"):
        ih.Cone(cp.Problem(cp.Minimize(cp.sum_squares(X - T - twin))), [T, twin], [X])
    with pytest.raises(TypeError, match="wants a cvxpy.Problem first; it was given a int"):
        ih.Cone(3, [T], [X])
    with pytest.raises(TypeError, match="wants cvxpy Parameters; it was given a str"):
        ih.Cone(cp.Problem(cp.Minimize(cp.sum_squares(X - T))), ["t"], [X])


@pytest.mark.parametrize(
    "theta, said",
    [
        ({"c": [1.0, 2.0, 3.0], "r": 1.0}, r"'c' has shape \(3,\): its cvxpy Parameter has \(2,\)"),
        ({"c": [1.0, np.nan], "r": 1.0}, "not a finite number"),
        ({"c": [1.0, 2.0], "r": -1.0}, "below its bound 0"),
        ({"c": [1.0, 2.0], "q": 1.0}, "unknown key 'q': .* wants 'c', 'r'"),
        ({"c": [1.0, 2.0]}, "theta lacks 'r'"),
    ],
)
def test_theta_is_checked_at_the_door(theta, said):
    with pytest.raises(ValueError, match=said):
        evaluate(NEAR_C + R * cp.norm1(X), [], [C, R], theta)
