"""Analysis penalties of one's own and several at once: closed forms, cvxpy, central differences, bad input."""

import laws
import numpy as np
import pytest
import scipy.sparse
import zoo

import invhyper as ih

SCENE = np.where(np.add.outer(np.arange(12), np.arange(12)) > 11, 1.0, np.linspace(0.0, 0.6, 12))
Y = SCENE + 0.1 * np.random.default_rng(0).standard_normal((12, 12))
SIZE = ih.L1(ih.Identity((12, 12)))
KERNEL = np.array([[0.1, 0.7, 0.2]])
ROWS = 0.02 + 0.1 * np.random.default_rng(1).random((2, 12, 12))
# Columns of the image three by three, and a matrix that is no difference operator.
TRIPLES = (np.arange(144) // 36 * 12 + np.arange(144) % 12).reshape(12, 12)
MIXED = scipy.sparse.random_array((90, 144), density=0.03, rng=np.random.default_rng(2)).tocsr()


# --- closed forms ----------------------------------------------------------------------------------------------


def inner_second_differences(n):
    return ih.from_scipy(scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n)), (n,))


@pytest.mark.parametrize("weight", [0.5, 3.0, 9.0])
def test_a_kink_under_second_differences(weight):
    """It flattens, then is gone: the mean of a symmetric kink is its best affine fit."""
    y, truth = np.abs(np.arange(9.0) - 4), np.linspace(0.0, 1.0, 9)
    x, slope = zoo.flattened_kink(4, weight)
    problem = ih.Bilevel(ih.AnalysisL1(y, inner_second_differences(9)), ih.Truth(truth))
    evaluation = ih.Implicit()(problem, {"weight": weight}, tol=1e-10)
    np.testing.assert_allclose(evaluation.solution.x, x, rtol=0, atol=1e-9)
    assert float(evaluation.gradient["weight"]) == pytest.approx((x - truth) @ slope, abs=1e-9)


def test_identity_is_soft_thresholding():
    """One weight an entry: x = soft(y, w), dL/dw = -(x - truth) sign(x)."""
    weight = 0.1 + np.random.default_rng(3).random((12, 12))
    problem = ih.Bilevel(ih.AnalysisL1(Y, ih.Identity((12, 12))), ih.Truth(SCENE))
    evaluation = ih.Implicit()(problem, {"weight": weight})
    x = zoo.soft(Y.ravel(), weight.ravel())[0].reshape(Y.shape)
    np.testing.assert_allclose(evaluation.solution.x, x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(evaluation.gradient["weight"], -(x - SCENE) * np.sign(x), rtol=0, atol=1e-12)


def test_groups_shrink_towards_zero():
    """x_g = (1 - w / |y_g|)_+ y_g; dx_g/dw = -y_g / |y_g| while it lasts."""
    labels, y = np.array([0, 0, 1, 1, 2]), np.array([3.0, 4.0, 0.3, -0.4, -2.0])
    problem = ih.Bilevel(ih.AnalysisL1(y, ih.Identity((5,)), groups=labels), ih.Truth(np.zeros(5)))
    evaluation = ih.Implicit()(problem, {"weight": np.array([2.0, 1.0, 0.5])}, tol=1e-10)
    np.testing.assert_allclose(evaluation.solution.x, [1.8, 2.4, 0.0, 0.0, -1.5], rtol=0, atol=1e-10)
    np.testing.assert_allclose(evaluation.gradient["weight"], [-3.0, 0.0, -1.5], rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [0.05, 0.4])
def test_fused_lasso_is_the_soft_threshold_of_total_variation(size):
    """Known of anisotropic total variation with an l1 norm; so the slopes follow from those of TV alone."""
    lower = ih.Composite(Y, {"jumps": ih.TV(), "size": SIZE})
    problem = ih.Bilevel(lower, ih.Truth(SCENE))
    evaluation = ih.Implicit()(problem, {"jumps": 0.08, "size": size}, tol=1e-10)
    plain = ih.TotalVariation(Y)
    smooth = ih.solve(plain, {"weight": 0.08}, tol=1e-11)
    x = zoo.soft(smooth.x.ravel(), size)[0].reshape(Y.shape)
    np.testing.assert_allclose(evaluation.solution.x, x, rtol=0, atol=1e-9)
    assert float(evaluation.gradient["size"]) == pytest.approx(-np.sum((x - SCENE) * np.sign(x)), rel=1e-8)
    # The pull of the criterion on TV's solution, through the threshold.
    target = smooth.x - np.where(x != 0, x - SCENE, 0.0)
    slope = ih.Implicit()(ih.Bilevel(plain, ih.Truth(target)), {"weight": 0.08}, tol=1e-11).gradient["weight"]
    assert float(evaluation.gradient["jumps"]) == pytest.approx(float(slope), rel=1e-7)


def test_box_cuts_total_variation():
    free = ih.solve(ih.TotalVariation(Y), {"weight": 0.08}, tol=1e-11).x
    bounded = ih.solve(ih.Composite(Y, {"jumps": ih.TV()}, box=(0.2, 0.9)), {"jumps": 0.08}, tol=1e-11).x
    np.testing.assert_allclose(bounded, np.clip(free, 0.2, 0.9), rtol=0, atol=1e-10)


@pytest.mark.parametrize("isotropic", [False, True])
def test_one_term_is_total_variation(isotropic):
    weight = 0.02 + 0.1 * np.random.default_rng(4).random((12, 12))
    one = ih.solve(ih.Composite(Y, {"tv": ih.TV(isotropic)}), {"tv": weight}, tol=1e-10).x
    two = ih.solve(ih.TotalVariation(Y, isotropic=isotropic), {"weight": weight}, tol=1e-10).x
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)


# --- against cvxpy ---------------------------------------------------------------------------------------------

FIRST, SECOND = zoo.differences_matrix((12, 12)), zoo.differences_matrix((12, 12), order=2)
PAIRS, EYE = np.tile(np.arange(144), 2), np.eye(144)
# name: (lower level, theta, terms in the order of theta, K, bounds)
AGAINST_CVXPY = {
    "second differences": (
        lambda: ih.AnalysisL1(Y, ih.Differences((12, 12), order=2)),
        {"weight": ROWS},
        [(SECOND, None, 0)],
        None,
        (-np.inf, np.inf),
    ),
    "second differences in pairs": (
        lambda: ih.AnalysisL1(Y, ih.Differences((12, 12), order=2), groups=0),
        {"weight": 0.1},
        [(SECOND, PAIRS, 0)],
        None,
        (-np.inf, np.inf),
    ),
    "periodic second differences": (
        lambda: ih.AnalysisL1(Y, ih.Differences((12, 12), "periodic", order=2), ih.Blur(KERNEL)),
        {"weight": 0.05},
        [(zoo.differences_matrix((12, 12), "periodic", 2), None, 0)],
        zoo.blur_matrix(KERNEL, (12, 12)),
        (-np.inf, np.inf),
    ),
    "a matrix": (
        lambda: ih.AnalysisL1(Y, ih.from_scipy(MIXED, (12, 12)), nonnegative=True),
        {"weight": 0.1},
        [(MIXED, None, 0)],
        None,
        (0.0, np.inf),
    ),
    "groups": (
        lambda: ih.AnalysisL1(Y, ih.Identity((12, 12)), groups=TRIPLES),
        {"weight": 0.3},
        [(EYE, TRIPLES.ravel(), 0)],
        None,
        (-np.inf, np.inf),
    ),
    "TV, size and second differences in a box": (
        lambda: ih.Composite(
            Y,
            {"jumps": ih.TV(isotropic=True), "size": SIZE, "bend": ih.L1(ih.Differences((12, 12), order=2))},
            box=(0.1, 0.9),
        ),
        {"jumps": 0.05, "size": 0.03 + ROWS[0], "bend": 0.04},
        [(FIRST, PAIRS, 0), (EYE, None, 0), (SECOND, None, 0)],
        None,
        (0.1, 0.9),
    ),
    "Huber and groups behind a blur": (
        lambda: ih.Composite(
            Y,
            {"smooth": ih.Huber(delta=0.1), "size": ih.L1(ih.Identity((12, 12)), TRIPLES)},
            ih.Blur(KERNEL),
            nonnegative=True,
        ),
        {"smooth": 0.05, "size": 0.05},
        [(FIRST, None, 0.1), (EYE, TRIPLES.ravel(), 0)],
        zoo.blur_matrix(KERNEL, (12, 12)),
        (0.0, np.inf),
    ),
}


@pytest.mark.parametrize("name", AGAINST_CVXPY)
def test_objective_is_that_of_cvxpy(name):
    make, theta, terms, K, bounds = AGAINST_CVXPY[name]
    lower = make()
    weighted = [(D, weight, *rest) for (D, *rest), weight in zip(terms, theta.values(), strict=True)]
    least, x = zoo.least_sum_of_norms(lower.y, weighted, K, *bounds)
    solution = ih.solve(lower, theta)
    assert float(lower.objective(solution.x, theta)) == pytest.approx(least, rel=1e-7)
    np.testing.assert_allclose(solution.x.ravel(), x, rtol=0, atol=1e-4)
    assert bounds[0] <= solution.x.min() and solution.x.max() <= bounds[1]


# --- hypergradients against central differences ------------------------------------------------------------------

CASES = [
    *[(name, 1e-6) for name in ("second differences", "periodic second differences", "a matrix")],
    *[(name, 1e-4) for name in ("second differences in pairs", "groups", *list(AGAINST_CVXPY)[-2:])],
]


@pytest.mark.parametrize("name, rtol, key", [(name, rtol, k) for name, rtol in CASES for k in AGAINST_CVXPY[name][1]])
def test_hypergradient_is_the_central_difference(name, rtol, key):
    make, theta, *_ = AGAINST_CVXPY[name]
    laws.hypergradient(ih.Implicit(), ih.Bilevel(make(), ih.Truth(SCENE)), theta, rtol, key=key)


@pytest.mark.parametrize("key", ["jumps", "size", "width"])
def test_operator_and_weights_together(key):
    """theta holds the weights of two norms and the width of the blur."""
    terms = {"jumps": ih.TV(), "size": SIZE}
    lower = ih.Composite(Y, terms, lambda theta: ih.Blur(width=theta["width"]), nonnegative=True)
    theta = {"jumps": 0.05, "size": 0.02, "width": 0.7}
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, ih.Truth(SCENE)), theta, 1e-4, key=key)


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: ih.AnalysisL1(Y, np.eye(144)), "analysis is a ndarray: an Operator is wanted"),
        (lambda: ih.AnalysisL1(Y, ih.Differences((5, 6))), r"takes arrays of shape \(5, 6\); the image has \(12, 12\)"),
        (lambda: ih.AnalysisL1(Y, ih.Identity((12, 12)), groups=np.zeros(144, int)), r"groups has shape \(144,\)"),
        (lambda: ih.AnalysisL1(Y, ih.Identity((12, 12)), groups=0.5 * TRIPLES), "dtype float64"),
        (lambda: ih.Composite(Y, {}), "at least one entry"),
        (lambda: ih.Composite(Y, {"jumps": 0.1}), "term 'jumps' is a float"),
        (lambda: ih.Composite(Y, {"a": ih.TV()}, box=(1.0, 0.0)), "lowest value is above its highest"),
        (lambda: ih.Composite(Y, {"a": ih.TV()}, box=(0.0, np.ones(3))), r"box holds shape \(3,\)"),
        (lambda: ih.Composite(Y, {"a": ih.TV()}, nonnegative=True, box=(0.0, 1.0)), "put the zero into the box"),
    ],
)
def test_refused_at_the_door(make, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make()


def test_theta_has_the_names_of_the_terms():
    lower = ih.Composite(Y, {"jumps": ih.TV(), "size": SIZE})
    with pytest.raises(ValueError, match="unknown key 'jump': did you mean 'jumps'"):
        ih.solve(lower, {"jump": 0.1, "size": 0.1})
    with pytest.raises(ValueError, match="theta lacks 'size'"):
        ih.solve(lower, {"jumps": 0.1})


def test_a_zero_weight_is_welcome_while_the_other_holds_x():
    keep = ih.Mask(np.random.default_rng(5).random((12, 12)) > 0.3)
    lower = ih.Composite(Y, {"jumps": ih.TV(), "size": SIZE}, keep)
    x = ih.solve(lower, {"jumps": 0.0, "size": 0.1}).x
    np.testing.assert_allclose(
        x, np.where(keep.keep, zoo.soft(Y.ravel(), 0.1)[0].reshape(Y.shape), 0.0), rtol=0, atol=1e-10
    )
    with pytest.raises(ValueError, match="holds zeros where the forward operator does not see x"):
        ih.solve(lower, {"jumps": 0.0, "size": 0.0})
