"""Smoothed norms: closed forms, the way to the exact hypergradient, and where the limit stands at a kink."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import scipy.sparse
import zoo
from scipy.optimize import brentq

import invhyper as ih
from invhyper import tree
from invhyper.certificate import smoothing_path

RNG = np.random.default_rng(3)
A, X = RNG.standard_normal((12, 5)), np.array([2.0, -1.0, 0.0, 0.5, 0.0])
Y = A @ X + 0.1 * RNG.standard_normal(12)
IMAGE = np.add.outer([0.0, 0.0, 1.0, 1.5, 2.0], [0.0, 0.0, 0.0, 2.0, 2.0, 1.0]) + 0.3 * RNG.standard_normal((5, 6))
DECADES = 10.0 ** -np.arange(1, 9)
BLUR = ih.Blur(np.full((1, 3), 1 / 3), boundary="neumann")


def criterion(x, theta):
    return jnp.sum((x - 0.3) ** 2) + 0.05 * sum(jnp.sum(v) for v in theta.values())


def moving_blur(theta):
    return ih.Blur(jnp.stack([theta["share"], 1 - 2 * theta["share"], theta["share"]])[None], boundary="neumann")


WEIGHTS = 0.5 + RNG.random(12)
# name: (lower level, theta)
CASES = {
    "elastic net": lambda: (ih.ElasticNet(A, Y), {"l1": np.linspace(0.2, 0.6, 5), "l2": 0.3}),
    "scaled regression": lambda: (
        ih.BPDN(A + 1, Y, intercept=True, standardise=True, sample_weight=WEIGHTS),
        {"weight": 0.4},
    ),
    "sparse matrix": lambda: (ih.ElasticNet(scipy.sparse.csr_array(A), Y, intercept=True), {"l1": 0.4, "l2": 0.1}),
    "more columns than rows": lambda: (ih.Lasso(A.T, RNG.standard_normal(5)), {"weight": 0.7}),
    "anisotropic": lambda: (ih.TotalVariation(IMAGE), {"weight": 0.3 + 0.1 * RNG.random((5, 6))}),
    "isotropic": lambda: (ih.TotalVariation(IMAGE, BLUR, isotropic=True), {"weight": 0.1}),
    "groups": lambda: (
        ih.AnalysisL1(IMAGE, ih.Identity((5, 6)), groups=np.arange(30).reshape(5, 6) // 4),
        {"weight": 0.6},
    ),
    "with Huber's norm": lambda: (
        ih.Composite(IMAGE, {"jumps": ih.TV(isotropic=True), "bends": ih.Huber(ih.Differences((5, 6), order=2), 0.3)}),
        {"jumps": 0.2, "bends": 0.1},
    ),
    "moving operator": lambda: (ih.TotalVariation(IMAGE, moving_blur), {"weight": 0.2, "share": 0.25}),
    "TGV": lambda: (ih.TGV(IMAGE), {"weight": 0.3, "weight2": 0.4}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_laws(name):
    lower, theta = CASES[name]()
    bent = lower.smoothed(0.05)
    laws.lower_level(bent, theta)
    if name != "TGV":  # its objective is a function of the field as well
        laws.minimiser(bent, theta, ih.solve(bent, bent.check(theta), tol=1e-11).x)
    laws.hypergradient(ih.Implicit(), ih.Bilevel(bent, criterion), theta)
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower.smoothed(1e-8), criterion), theta)


@pytest.mark.parametrize("eps", [1.0, 1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("weight", [0.4, 1.0, 1.7], ids=["active", "at the kink", "zero"])
def test_one_unknown(weight, eps):
    """x + w x / s = y, s = sqrt(x^2 + eps^2), and dx/dw = -(x / s) / (1 + w eps^2 / s^3)."""
    lower = ih.Lasso(np.eye(1), np.array([1.0])).smoothed(eps)
    x = eps * brentq(lambda t: eps * t + weight * t / np.hypot(t, 1.0) - 1.0, 0.0, 1 / eps, xtol=1e-300, rtol=1e-15)
    s = np.hypot(x, eps)
    stiffness = 1 + weight * eps**2 / s**3
    rounding = 1e-13 + 1e-15 / (x * stiffness)  # of x, relative: what a rounding of y does to it
    found = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: x[0]), {"weight": weight})
    assert found.value == pytest.approx(x, rel=rounding)
    assert found.gradient["weight"] == pytest.approx(-(x / s) / stiffness, rel=3 * rounding)
    assert found.certificate.lower_residual < 1e-13 and not found.certificate.kink


@pytest.mark.parametrize("name", CASES)
def test_the_path_leads_to_the_exact_hypergradient(name):
    """Off kinks the error falls like eps or faster, and the extrapolated limit is right to many digits."""
    lower, theta = CASES[name]()
    path = smoothing_path(ih.Bilevel(lower, criterion), theta, DECADES)
    size = tree.norm(path.exact.gradient)
    errors = [distance(jax.tree.map(lambda g: g[k], path.gradients), path.exact.gradient) / size for k in range(8)]  # noqa: B023
    assert np.all(np.array(errors[5:]) <= 0.12 * np.array(errors[4:-1]) + 1e-13)
    assert errors[-1] < 1e-5
    assert distance(path.limit, path.exact.gradient) <= 1e-8 * size
    assert np.isnan(path.order) or path.order > 0.99
    assert path.sides is None and "away (relative)" in path.verdict
    assert all(leaf.shape[0] == 8 for leaf in jax.tree.leaves(path.gradients)) and path.values.shape == (8,)


def distance(a, b):
    return float(tree.norm(tree.subtract(a, b)))


def test_folds_are_smoothed_together():
    path = smoothing_path(ih.KFold(ih.Lasso, A, Y, folds=3), {"weight": 0.5}, [1e-6, 1e-7, 1e-8])
    assert path.limit["weight"] == pytest.approx(path.exact.gradient["weight"], rel=1e-8)
    assert len(path.exact.solution.x) == 3


@pytest.mark.parametrize("isotropic", [False, True])
def test_far_down(isotropic):
    """At 1e-10 of the scale of x the equations are still solved to rounding, in a few steps a decade."""
    rng = np.random.default_rng(0)
    image = np.kron(np.array([[0.0, 1.0], [0.5, 0.2]]), np.ones((8, 8))) + 0.1 * rng.standard_normal((16, 16))
    lower = ih.TotalVariation(image, isotropic=isotropic)
    found = ih.solve(lower.smoothed(1e-10), {"weight": 0.2}, tol=1e-13)
    assert found.steps <= 60
    np.testing.assert_allclose(found.x, ih.solve(lower, {"weight": 0.2}).x, atol=3e-8)


def test_a_warm_start_is_from_the_eps_before():
    lower = ih.TotalVariation(IMAGE)
    cold = ih.solve(lower.smoothed(1e-7), {"weight": 0.3})
    warm = ih.solve(lower.smoothed(1e-7), {"weight": 0.3}, start=ih.solve(lower.smoothed(1e-6), {"weight": 0.3}))
    assert warm.steps < 0.4 * cold.steps
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-13)


def test_one_program_for_all_eps():
    traced = []

    @eqx.filter_jit
    def objective(lower, x):
        traced.append(lower)
        return lower.objective(x, {"l1": jnp.array(0.4), "l2": jnp.array(0.1)})

    lower = ih.ElasticNet(A, Y)
    high, low = (objective(lower.smoothed(eps), jnp.zeros(5) + 1e-3) for eps in (1e-2, 1e-4))
    assert high < low and len(traced) == 1


def test_layer_passes_theta():
    lower = ih.TotalVariation(IMAGE).smoothed(0.05)
    slope = jax.grad(lambda weight: jnp.sum((ih.layer(lower)({"weight": weight}) - 0.3) ** 2))(jnp.array(0.3))
    exact = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: jnp.sum((x - 0.3) ** 2)), {"weight": 0.3}).gradient
    assert float(slope) == pytest.approx(float(exact["weight"]), rel=1e-9)


# ---------------------------------------------------------------- at kinks


def differences(problem, theta, direction, h=1e-6):
    """One-sided slopes of the exact F from values of second order, for F that is smooth on either side."""

    def value(t):
        return problem.value(tree.axpy(t, direction, theta), tol=1e-12)

    here = value(0.0)
    right = (4 * value(h) - value(2 * h) - 3 * here) / (2 * h)
    left = -(4 * value(-h) - value(-2 * h) - 3 * here) / (2 * h)
    return SimpleNamespace(left=left, right=right)


def soft_threshold():
    """w = |y| = 1: x = max(y - w, 0), so dx/dw is -1 on the left and 0 on the right, and -1/3 for any small eps."""
    problem = ih.Bilevel(ih.Lasso(np.eye(1), np.array([1.0])), lambda x, theta: x[0] - 0.25 * x[0] ** 2)
    return problem, {"weight": 1.0}


def pair():
    """Two correlated columns; coefficient 1 enters at w exactly, coefficient 0 is in the support on both sides."""
    root = np.linalg.cholesky(np.array([[1.0, 0.6], [0.6, 1.0]])).T
    weight, x = 0.5, np.array([1.25, 0.0])
    pull = root.T @ root @ x + weight  # A^T y: both coefficients are pulled upwards by the weight exactly
    lower = ih.Lasso(root, np.linalg.solve(root.T, pull))
    return ih.Bilevel(lower, ih.Truth(np.array([0.4, -0.8]))), {"weight": weight}


def triple():
    """Three columns: 2 leaves the support where 0 and 1 stay."""
    root = np.linalg.cholesky(np.array([[1.0, 0.3, 0.2], [0.3, 1.5, -0.4], [0.2, -0.4, 1.2]])).T
    x, signs, weight = np.array([1.0, -0.8, 0.0]), np.array([1.0, -1.0, -1.0]), 0.7
    pull = root.T @ root @ x + weight * signs
    lower = ih.ElasticNet(root, np.linalg.solve(root.T, pull))
    return ih.Bilevel(lower, ih.Truth(np.ones(3))), {"l1": weight, "l2": 0.0}


def merging():
    """Two pixels of distance 2 that meet at weight 1: their difference shrinks by 2 w and then stays."""
    return ih.Bilevel(ih.TotalVariation(np.array([0.0, 2.0])), ih.Truth(np.array([0.5, 1.0]))), {"weight": 1.0}


@pytest.mark.parametrize("case", [soft_threshold, pair, merging])
def test_at_a_kink_the_limit_lies_between(case):
    """A third of the way from the slope with the coefficient at zero to the one with it free."""
    problem, theta = case()
    path = smoothing_path(problem, theta, [1e-6, 1e-7, 1e-8])
    assert path.exact.certificate.kink
    ((left, right, slope),) = path.sides.values()
    seen = differences(problem, theta, {"weight": np.ones(())})
    assert (left, right) == pytest.approx((seen.left, seen.right), abs=1e-5)
    assert abs(left - right) > 0.1
    # In all three what stands at the kink is free on the left, for the smaller weight, and zero on the right.
    assert slope == pytest.approx((2 * right + left) / 3, abs=2e-4)
    assert path.order == pytest.approx(2 / 3, abs=0.02)
    assert "lies between the slope on the left" in path.verdict


def test_at_the_simplest_kink_the_limit_is_known():
    problem, theta = soft_threshold()
    path = smoothing_path(problem, theta, [1e-9, 1e-10, 1e-11])
    assert path.limit["weight"] == pytest.approx(-1 / 3, abs=1e-6)
    assert path.sides["weight"][:2] == (-1.0, 0.0) and "between the slope on the left, -1" in path.verdict


def test_the_kink_of_the_diabetes_data():
    """Slopes 0.365280 and -0.193560 in alpha. Others stand at zero: the limit is reached like eps^(1/3)."""
    problem, n, _ = zoo.diabetes_lasso()
    theta = {"weight": n * 0.04882226864888}
    path = smoothing_path(problem, theta, [1e-7, 1e-8, 1e-9])
    assert path.exact.certificate.kink
    assert n * path.limit["weight"] == pytest.approx((0.365280 - 2 * 0.193560) / 3, abs=3e-6)
    assert path.order == pytest.approx(1 / 3, abs=0.01)
    assert "lies between the slope on the left, 0.00165285, and on the right, -0.000875839" in path.verdict


def test_three_variables_two_weights():
    problem, theta = triple()
    path = smoothing_path(problem, theta, [1e-6, 1e-7, 1e-8])
    assert path.exact.certificate.kink
    known = one_sided_of_triple(problem, theta, {"l1": 1.0, "l2": 0.0})
    assert path.sides["l1"][:2] == pytest.approx((known.left, known.right))
    for left, right, slope in path.sides.values():
        assert min(left, right) < slope < max(left, right)
    assert list(path.sides) == ["l1"]  # l2 = 0 is at its bound
    assert "lies between the slope on the left" in path.verdict


def one_sided_of_triple(problem, theta, direction):
    """Both closed forms, with coefficient 2 in the support and without; the sign of its pull says which is where."""
    lower = problem.lower
    x = np.array([1.0, -0.8, 0.0])
    slopes = {}
    for support in ([0, 1], [0, 1, 2]):
        gram = lower.A.T @ lower.A
        signs = np.array([1.0, -1.0, -1.0])
        dx = np.zeros(3)
        dx[support] = -np.linalg.solve(
            gram[np.ix_(support, support)], (signs * direction["l1"] + x * direction["l2"])[support]
        )
        slopes[len(support)] = float((x - 1.0) @ dx), dx[2]
    # Free, coefficient 2 moves by dx[2]; only downwards does it stay negative.
    right, left = (slopes[3], slopes[2]) if slopes[3][1] < 0 else (slopes[2], slopes[3])
    return SimpleNamespace(left=left[0], right=right[0])


def test_one_sided_differences_agree_with_the_closed_forms():
    problem, theta = triple()
    for direction in ({"l1": 1.0, "l2": 0.0}, {"l1": 0.0, "l2": 1.0}):
        direction = {key: np.asarray(value) for key, value in direction.items()}
        exact = one_sided_of_triple(problem, theta, direction)
        if direction["l2"]:  # l2 < 0 is no theta: the right side alone
            h = 1e-5
            values = [problem.value({"l1": 0.7, "l2": k * h}, tol=1e-12) for k in (0, 1, 2)]
            assert (4 * values[1] - values[2] - 3 * values[0]) / (2 * h) == pytest.approx(exact.right, abs=1e-5)
        else:
            seen = differences(problem, theta, direction, h=1e-5)
            assert (seen.left, seen.right) == pytest.approx((exact.left, exact.right), abs=1e-5)


def test_where_two_kinks_coincide_the_limit_may_lie_outside():
    """Coefficient 0 is free on the left, where x_0 = -dw, coefficient 1 on the right, where x_1 = 2/7 dw; F falls by dw
    on both sides, and by two thirds of it in the limit."""
    gram = np.array([[1.0, 0.0, 0.0], [0.0, 4.0, 1.5], [0.0, 1.5, 1.0]])
    root = np.linalg.cholesky(gram).T
    pull = gram @ np.array([0.0, 0.0, 2.0]) + 0.5
    problem = ih.Bilevel(ih.Lasso(root, np.linalg.solve(root.T, pull)), lambda x, theta: x[0] - 3.5 * x[1])
    path = smoothing_path(problem, {"weight": 0.5}, [1e-8, 1e-9, 1e-10])
    left, right, slope = path.sides["weight"]
    assert (left, right) == pytest.approx((-1.0, -1.0)) and slope == pytest.approx(-2 / 3, abs=0.1)
    assert "lies outside its one-sided slopes -1 and -1" in path.verdict


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "eps, wanted",
    [
        ([1e-2, 0.0], "eps holds 0: positive numbers are wanted"),
        ([-1.0], "eps holds -1"),
        ([1e-2, np.nan], "eps holds nan"),
        ([1e-3, 1e-2], "does not fall: 0.001 is followed by 0.01"),
        ([1e-3, 1e-3], "does not fall"),
        ([], r"has shape \(0,\)"),
        (1e-3, r"has shape \(\)"),
        ("small", "a falling sequence of positive numbers is wanted"),
    ],
)
def test_eps_is_checked(eps, wanted):
    problem, theta = soft_threshold()
    with pytest.raises(ValueError, match=wanted):
        smoothing_path(problem, theta, eps)


@pytest.mark.parametrize(
    "lower, wanted",
    [
        (lambda: ih.Ridge(A, Y), "nothing to smooth in Ridge"),
        (lambda: ih.HuberTV(IMAGE), "nothing to smooth in HuberTV"),
        (lambda: ih.Together([ih.Ridge(A, Y)]), "nothing to smooth in Ridge"),
        (lambda: ih.TotalVariation(IMAGE, nonnegative=True), "TotalVariation with bounds has no smoothed form"),
        (lambda: ih.BPDN(A, Y, equality=(np.ones((1, 5)), np.ones(1))), "BPDN with constraints has no smoothed form"),
        (lambda: ih.BasisPursuit(A, Y), "BasisPursuit has no smoothed form: ElasticNet"),
    ],
)
def test_what_has_no_smoothed_form_says_so(lower, wanted):
    lower = lower()
    theta = {key: 0.5 for key in lower.keys}
    with pytest.raises(TypeError, match=wanted):
        smoothing_path(ih.Bilevel(lower, criterion), theta, DECADES)


@pytest.mark.parametrize("eps", [0.0, -1.0, np.inf, True, np.array([1.0, 2.0]), "x"])
def test_a_single_eps_is_checked(eps):
    with pytest.raises(ValueError, match="a positive number is wanted"):
        ih.Lasso(A, Y).smoothed(eps)
    with pytest.raises(ValueError, match="SmoothedTV eps"):
        ih.SmoothedTV(eps)


def test_a_smoothed_term_is_no_term():
    with pytest.raises(TypeError, match=r"Composite term 'jumps' is smoothed: .* Composite\(...\).smoothed\(eps\)"):
        ih.Composite(IMAGE, {"jumps": ih.SmoothedTV(0.1)})


def test_a_big_image_behind_functions_is_refused():
    forward = ih.from_functions(lambda x: x, lambda y: y, (50, 50), (50, 50))
    lower = ih.TotalVariation(np.zeros((50, 50)), forward).smoothed(0.1)
    with pytest.raises(ValueError, match="2500 unknowns are too many to write it out"):
        ih.solve(lower, {"weight": 0.1})


def test_not_unique_is_said():
    lower = ih.Lasso(np.ones((3, 2)), np.ones(3)).smoothed(0.1)
    with pytest.raises(ValueError, match="no unique minimiser"):
        ih.solve(lower, {"weight": 0.0})


def test_unreachable_tolerance_is_said():
    lower, theta = CASES["anisotropic"]()
    with pytest.raises(ih.NotConverged, match="take a larger eps, scale the problem, or loosen tol"):
        ih.solve(lower.smoothed(1e-6), theta, tol=1e-30)


# ---------------------------------------------------------------- the penalties themselves


@pytest.mark.parametrize("eps", [1e-6, 0.1, 10.0])
def test_a_smoothed_norm_is_below_the_norm_by_at_most_eps(eps):
    sharp, bent = ih.L1(ih.Identity((7,))), ih.SmoothedL1(ih.Identity((7,)), eps)
    x = np.array([0.0, 1e-12, -1e-3, 0.1, -2.0, 1e3, 1e9])
    gaps = [float(sharp.at((7,)).value(e * x, 1.0) - bent.at((7,)).value(e * x, 1.0)) for e in np.eye(7)]
    assert min(gaps) >= -1e-6 and max(gaps) <= eps * (1 + 1e-6) + 1e-6 and gaps[0] == 0.0
    assert float(bent.at((7,)).value(np.eye(7)[1] * x, 1.0)) == pytest.approx(1e-24 / (2 * eps), rel=1e-5)


@pytest.mark.parametrize("eps", [1e-10, 1e-3, 5.0])
@pytest.mark.parametrize("step", [1e-3, 1.0, 50.0])
def test_proximal_step_of_a_smoothed_norm(step, eps):
    """t + step t / sqrt(t^2 + eps^2) = v, also where v = step and t is far from both."""
    penalty = ih.SmoothedL1(ih.Identity((4,)), eps).at((4,))
    v = np.array([0.3 * step, step, -2.0 * step, 1e-6])
    sharp, _, _ = zoo.soft(v, step)
    for t in (penalty.prox(v, step), np.asarray(penalty.prox(jnp.asarray(v), step))):
        s = np.hypot(t, eps)
        missed = (t + step * t / s - v) / (1 + step * eps**2 / s**3)  # in t, which is a difference from v
        assert np.all(np.abs(missed) <= 1e-14 * np.abs(v))
    assert np.all(np.abs(t - sharp) <= (step * eps**2) ** (1 / 3) + eps)
