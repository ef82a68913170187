"""Total variation and its Huber relative: closed forms, cvxpy, central differences, the camera, bad input."""

import laws
import numpy as np
import pytest
import zoo

import invhyper as ih

RNG = np.random.default_rng(0)
# A photograph in small: two flat regions, a slope, and noise.
SCENE = np.where(np.add.outer(np.arange(12), np.arange(12)) > 11, 1.0, np.linspace(0.0, 0.6, 12))
Y = SCENE + 0.1 * RNG.standard_normal((12, 12))
KEEP = np.random.default_rng(1).random((12, 12)) > 0.2
KERNEL = np.array([[0.0, 0.1, 0.0], [0.2, 0.4, 0.1], [0.0, 0.15, 0.05]])
PIXELS = 0.02 + 0.1 * np.random.default_rng(2).random((12, 12))
EDGES = 0.02 + 0.1 * np.random.default_rng(3).random((2, 12, 12))
SIGNAL, VOLUME = Y[5], np.stack([Y[:4, :4], Y[4:8, 4:8], Y[8:, 8:], Y[4:8, :4]])
LABELS = np.tile(np.arange(144), 2)


def gradient(lower, weight, truth):
    return ih.Implicit()(ih.Bilevel(lower, ih.Truth(truth)), {"weight": weight}, tol=1e-10)


# --- closed forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.1, 2.0])
def test_step_of_two_levels(weight):
    """Both levels move by weight / length until they meet; the slope is the sum of (u - truth) du/dw."""
    step = np.repeat([0.0, 1.0], [3, 5])
    levels, slopes = zoo.rof_two_levels((3, 5), (0.0, 1.0), weight)
    evaluation = gradient(ih.TotalVariation(step), weight, step)
    np.testing.assert_allclose(evaluation.solution.x, np.repeat(levels, [3, 5]), rtol=0, atol=1e-12)
    wanted = np.sum((np.repeat(levels, [3, 5]) - step) * np.repeat(slopes, [3, 5]))
    assert float(evaluation.gradient["weight"]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("boundary, edges", [("neumann", (1, 1)), ("periodic", (2, 2))])
@pytest.mark.parametrize("axis", [0, 1])
def test_step_image_along_an_axis(axis, boundary, edges, isotropic):
    step = np.repeat([0.0, 1.0], [4, 3])[:, None] * np.ones((1, 6))
    levels, slopes = zoo.rof_two_levels((4, 3), (0.0, 1.0), 0.25, edges)
    step, wanted, slope = (each if axis == 0 else each.T for each in (step, *_stripes(levels, slopes)))
    evaluation = gradient(ih.TotalVariation(step, isotropic=isotropic, boundary=boundary), 0.25, step)
    np.testing.assert_allclose(evaluation.solution.x, wanted, rtol=0, atol=1e-9)
    assert float(evaluation.gradient["weight"]) == pytest.approx(np.sum((wanted - step) * slope), abs=1e-8)


def _stripes(*values):
    return [np.repeat(value, [4, 3])[:, None] * np.ones((1, 6)) for value in values]


def test_zero_boundary_pulls_the_last_pixels_down():
    """Beyond the end stands a zero: the upper region has an edge on both sides."""
    step = np.repeat([0.0, 1.0], [4, 5])
    levels, slopes = zoo.rof_two_levels((4, 5), (0.0, 1.0), 0.25, (1, 2))
    evaluation = gradient(ih.TotalVariation(step, boundary="zero"), 0.25, step)
    np.testing.assert_allclose(evaluation.solution.x, np.repeat(levels, [4, 5]), rtol=0, atol=1e-12)
    wanted = np.repeat(levels - [0.0, 1.0], [4, 5]) @ np.repeat(slopes, [4, 5])
    assert float(evaluation.gradient["weight"]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("weight", [0.1, 0.9])
def test_huber_of_two_pixels(weight):
    y, truth = np.array([0.2, 1.4]), np.array([0.0, 1.0])
    x, slope = zoo.huber_pair(y, weight, 0.5)
    evaluation = gradient(ih.HuberTV(y, delta=0.5), weight, truth)
    np.testing.assert_allclose(evaluation.solution.x, x, rtol=0, atol=1e-10)
    assert float(evaluation.gradient["weight"]) == pytest.approx((x - truth) @ slope, abs=1e-9)


@pytest.mark.parametrize("shape", [(9,), (1, 9)])
def test_each_edge_of_a_staircase_has_its_weight(shape):
    """One weight a pixel and one an edge are the same in one dimension; edges without a jump have no slope."""
    sizes, weights = np.array([2, 3, 4]), np.array([0.3, 0.2])
    y, truth = np.repeat([0.0, 1.0, 2.0], sizes), np.repeat([0.1, 1.0, 1.7], sizes)
    levels, jacobian = zoo.rof_staircase(sizes, (0.0, 1.0, 2.0), weights)
    weight = np.full(shape, 0.7)
    weight.flat[[1, 4]] = weights
    evaluation = gradient(ih.TotalVariation(y), weight, truth)
    np.testing.assert_allclose(evaluation.solution.x, np.repeat(levels, sizes), rtol=0, atol=1e-12)
    wanted = np.zeros(9)
    wanted[[1, 4]] = (sizes * (levels - [0.1, 1.0, 1.7])) @ jacobian
    assert evaluation.gradient["weight"].shape == shape
    np.testing.assert_allclose(evaluation.gradient["weight"].ravel(), wanted, rtol=0, atol=1e-12)


def test_nonnegativity_cuts_the_unconstrained_solution():
    """Known of anisotropic total variation: bounds may be put on after the minimisation."""
    for y in (Y - 0.3, np.array([-0.5, -0.4, 1.0, 0.2])):
        free = ih.solve(ih.TotalVariation(y), {"weight": 0.1}, tol=1e-11).x
        bounded = ih.solve(ih.TotalVariation(y, nonnegative=True), {"weight": 0.1}, tol=1e-11).x
        assert free.min() < -0.05
        np.testing.assert_allclose(bounded, np.maximum(free, 0.0), rtol=0, atol=1e-10)


def test_blur_by_a_moved_delta_is_a_shift():
    moved = np.zeros((3, 5))
    moved[2, 0] = 1.0  # one pixel down, two to the left
    plain = ih.solve(ih.TotalVariation(Y, boundary="periodic"), {"weight": 0.08}, tol=1e-10).x
    found = ih.solve(ih.TotalVariation(Y, ih.Blur(moved), boundary="periodic"), {"weight": 0.08}, tol=1e-10).x
    np.testing.assert_allclose(np.roll(found, (1, -2), (0, 1)), plain, rtol=0, atol=1e-8)


def test_large_weights_leave_the_mean():
    evaluation = gradient(ih.TotalVariation(Y, isotropic=True), 50.0, SCENE)
    np.testing.assert_allclose(evaluation.solution.x, Y.mean(), rtol=0, atol=1e-10)
    assert abs(float(evaluation.gradient["weight"])) <= 1e-10


# --- against cvxpy ---------------------------------------------------------------------------------------------

NEUMANN = zoo.differences_matrix((12, 12))
MASK, BLUR = np.diag(KEEP.astype(float).ravel()), zoo.blur_matrix(KERNEL, (12, 12))
SUMS = np.random.default_rng(4).standard_normal((100, 144)) / 10
# name: (lower level, weight, D, labels, delta, K, lowest x)
AGAINST_CVXPY = {
    "anisotropic": (lambda: ih.TotalVariation(Y), 0.08, NEUMANN, None, 0, None, -np.inf),
    "isotropic": (lambda: ih.TotalVariation(Y, isotropic=True), 0.08, NEUMANN, LABELS, 0, None, -np.inf),
    "pixels": (lambda: ih.TotalVariation(Y), PIXELS, NEUMANN, None, 0, None, -np.inf),
    "isotropic pixels": (lambda: ih.TotalVariation(Y, isotropic=True), PIXELS, NEUMANN, LABELS, 0, None, -np.inf),
    "edges": (lambda: ih.TotalVariation(Y), EDGES, NEUMANN, None, 0, None, -np.inf),
    "nonnegative": (
        lambda: ih.TotalVariation(Y - 0.4, isotropic=True, nonnegative=True),
        *(0.08, NEUMANN, LABELS, 0, None, 0.0),
    ),
    "Huber": (lambda: ih.HuberTV(Y, delta=0.05), 0.1, NEUMANN, None, 0.05, None, -np.inf),
    "isotropic Huber": (
        lambda: ih.HuberTV(Y, delta=0.05, isotropic=True),
        *(PIXELS, NEUMANN, LABELS, 0.05, None, -np.inf),
    ),
    "mask": (lambda: ih.TotalVariation(Y, ih.Mask(KEEP), True), 0.08, NEUMANN, LABELS, 0, MASK, -np.inf),
    "blur": (lambda: ih.TotalVariation(Y, ih.Blur(KERNEL)), 0.02, NEUMANN, None, 0, BLUR, -np.inf),
    "blur nonnegative": (
        lambda: ih.TotalVariation(Y - 0.3, ih.Blur(KERNEL), True, True),
        *(0.02, NEUMANN, LABELS, 0, BLUR, 0.0),
    ),
    "matrix": (
        lambda: ih.TotalVariation(SUMS @ Y.ravel(), ih.from_scipy(SUMS, (12, 12))),
        *(0.02, NEUMANN, None, 0, SUMS, -np.inf),
    ),
    "functions": (
        lambda: ih.TotalVariation(
            Y, ih.from_functions(_smeared, lambda v: v + 0.5 * np.roll(v, -1, 0), *2 * [(12, 12)])
        ),
        *(0.05, NEUMANN, None, 0, np.eye(144) + 0.5 * np.roll(np.eye(144), 12, 0), -np.inf),
    ),
    "signal": (lambda: ih.TotalVariation(SIGNAL), 0.1, zoo.differences_matrix((12,)), None, 0, None, -np.inf),
    "volume": (
        lambda: ih.TotalVariation(VOLUME, isotropic=True),
        *(0.08, zoo.differences_matrix((4, 4, 4)), np.tile(np.arange(64), 3), 0, None, -np.inf),
    ),
    **{
        f"{boundary} {'isotropic' if labels is not None else 'anisotropic'}": (
            lambda boundary=boundary, labels=labels: ih.TotalVariation(Y, None, labels is not None, boundary=boundary),
            *(0.08, zoo.differences_matrix((12, 12), boundary), labels, 0, None, -np.inf),
        )
        for boundary in ("periodic", "zero")
        for labels in (None, LABELS)
    },
}


def _smeared(u):
    return u + 0.5 * np.roll(u, 1, 0)


@pytest.mark.parametrize("name", AGAINST_CVXPY)
def test_objective_is_that_of_cvxpy(name):
    make, weight, D, labels, delta, K, low = AGAINST_CVXPY[name]
    lower = make()
    both = weight if labels is not None or np.ndim(weight) != 2 else np.stack([weight, weight])
    least, x = zoo.least_sum_of_norms(lower.y, [(D, both, labels, delta)], K, low)
    solution = ih.solve(lower, {"weight": weight})
    assert float(lower.objective(solution.x, {"weight": weight})) == pytest.approx(least, rel=1e-7)
    np.testing.assert_allclose(solution.x.ravel(), x, rtol=0, atol=2e-5)
    assert solution.x.min() >= low


# --- hypergradients against central differences ------------------------------------------------------------------

POLYHEDRAL, CURVED = 1e-6, 1e-4
DIFFERENCES = {
    "anisotropic": (lambda: ih.TotalVariation(Y), {"weight": 0.08}, POLYHEDRAL),
    "pixels": (lambda: ih.TotalVariation(Y), {"weight": PIXELS}, POLYHEDRAL),
    "edges": (lambda: ih.TotalVariation(Y, boundary="periodic"), {"weight": EDGES}, POLYHEDRAL),
    "nonnegative": (lambda: ih.TotalVariation(Y - 0.3, nonnegative=True), {"weight": 0.08}, POLYHEDRAL),
    "blur": (lambda: ih.TotalVariation(Y, ih.Blur(KERNEL)), {"weight": 0.05}, POLYHEDRAL),
    "signal": (lambda: ih.TotalVariation(SIGNAL), {"weight": np.linspace(0.05, 0.1, 12)}, POLYHEDRAL),
    "volume": (lambda: ih.TotalVariation(VOLUME), {"weight": 0.08}, POLYHEDRAL),
    "isotropic": (lambda: ih.TotalVariation(Y, isotropic=True), {"weight": 0.08}, CURVED),
    "isotropic pixels": (lambda: ih.TotalVariation(Y, isotropic=True), {"weight": PIXELS}, CURVED),
    "isotropic nonnegative": (lambda: ih.TotalVariation(Y - 0.3, None, True, True), {"weight": 0.08}, CURVED),
    "isotropic mask": (lambda: ih.TotalVariation(Y, ih.Mask(KEEP), True), {"weight": 0.08}, CURVED),
    "isotropic blur": (lambda: ih.TotalVariation(Y, ih.Blur(KERNEL), True), {"weight": 0.05}, CURVED),
    "isotropic volume": (lambda: ih.TotalVariation(VOLUME, isotropic=True), {"weight": 0.08}, CURVED),
    "Huber": (lambda: ih.HuberTV(Y, delta=0.05), {"weight": PIXELS}, CURVED),
    "Huber isotropic": (lambda: ih.HuberTV(Y, delta=0.05, isotropic=True), {"weight": 0.1}, CURVED),
    "Huber nonnegative blur": (
        lambda: ih.HuberTV(Y - 0.3, ih.Blur(KERNEL), 0.05, nonnegative=True),
        {"weight": 0.05},
        CURVED,
    ),
    "blur of unknown width": (lambda: ih.TotalVariation(Y, widened), {"weight": 0.05, "width": 0.8}, CURVED),
    "isotropic blur of unknown widths": (
        lambda: ih.TotalVariation(Y, widened, True),
        {"weight": 0.05, "width": np.array([0.6, 0.9])},
        CURVED,
    ),
}


def widened(theta):
    return ih.Blur(width=theta["width"], boundary="neumann")


@pytest.mark.parametrize("name, key", [(name, key) for name, (_, theta, _) in DIFFERENCES.items() for key in theta])
def test_hypergradient_is_the_central_difference(name, key):
    make, theta, rtol = DIFFERENCES[name]
    lower = make()
    truth = {1: SCENE[5], 2: SCENE, 3: 0.9 * VOLUME}[lower.y.ndim]
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, ih.Truth(truth)), theta, rtol, key=key)


# --- weights of every shape ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isotropic", [False, True])
def test_equal_weights_are_one_weight(isotropic):
    lower = ih.TotalVariation(Y, isotropic=isotropic)
    shapes = [(), (12, 12)] if isotropic else [(), (12, 12), (2, 12, 12)]
    one, *others = (gradient(lower, np.full(shape, 0.08), SCENE) for shape in shapes)
    for other in others:
        np.testing.assert_allclose(other.solution.x, one.solution.x, rtol=0, atol=1e-9)
        assert np.sum(other.gradient["weight"]) == pytest.approx(float(one.gradient["weight"]), rel=1e-8)
    if not isotropic:
        pixels, edges = (each.gradient["weight"] for each in others)
        np.testing.assert_allclose(edges.sum(0), pixels, rtol=1e-8, atol=1e-10)


def test_a_pixel_owns_the_edges_to_the_next_row_and_the_next_column():
    """A step down the rows between 3 and 4: only the weights of row 3 matter, and among edges those of axis 0."""
    step = np.repeat([0.0, 1.0], [4, 3])[:, None] * np.ones((1, 6))
    lower = ih.TotalVariation(step)
    pixels = gradient(lower, np.full((7, 6), 0.25), step).gradient["weight"]
    edges = gradient(lower, np.full((2, 7, 6), 0.25), step).gradient["weight"]
    levels, slopes = zoo.rof_two_levels((4, 3), (0.0, 1.0), 0.25)
    wanted = np.zeros((7, 6))
    wanted[3] = np.array([4, 3]) * (levels - [0.0, 1.0]) @ slopes  # alike in all columns
    np.testing.assert_allclose(pixels, wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(edges, [wanted, 0 * wanted], rtol=0, atol=1e-12)


@pytest.mark.parametrize("isotropic", [False, True])
def test_absent_edges_have_no_slope(isotropic):
    lower = ih.TotalVariation(Y, isotropic=isotropic)
    pixels = gradient(lower, PIXELS, SCENE).gradient["weight"]
    assert pixels[-1, -1] == 0.0 and np.count_nonzero(pixels) > 20
    if not isotropic:
        edges = gradient(lower, EDGES, SCENE).gradient["weight"]
        assert not edges[0, -1].any() and not edges[1, :, -1].any()
        assert edges[0, :, -1].any() and edges[1, -1].any()


# --- the camera ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, slope, regions", [(128, 86.95676615926, 1517), (256, 245.09384336, 5209)])
def test_camera(n, slope, regions):
    truth, y = zoo.camera(n)
    lower = ih.TotalVariation(y)
    evaluation = ih.Implicit()(ih.Bilevel(lower, ih.Truth(truth)), {"weight": 0.08})
    assert float(evaluation.gradient["weight"]) == pytest.approx(slope, rel=1e-9)
    weight = {"weight": np.asarray(0.08)}
    assert len(np.unique(laws.stratum(lower, evaluation.solution, weight)[0])) == regions
    bare = ih.Solution(evaluation.solution.x)  # without what the solve remembers
    assert len(np.unique(laws.stratum(ih.TotalVariation(y), bare, weight)[0])) == regions
    if n == 128:
        assert evaluation.solution.steps <= 400
        assert "Newton" not in evaluation.solution.result  # all of them steps of Split Bregman


# --- bad input -------------------------------------------------------------------------------------------------


class Skewed(ih.operators.Operator):
    """An operator whose adjoint is wrong."""

    shape_in = shape_out = (12, 12)

    def _forward(self, x, out):
        return 2.0 * x

    def _adjoint(self, y, out):
        return 3.0 * y


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: ih.TotalVariation(Y, Skewed()), "Skewed: the adjoint fails the dot test"),
        (lambda: ih.AnalysisL1(Y, Skewed()), "Skewed: the adjoint fails the dot test"),
        (lambda: ih.TotalVariation(Y, ih.Mask(KEEP[:3])), r"forward gives arrays of shape \(3, 12\); y has \(12, 12\)"),
        (lambda: ih.TotalVariation(Y, np.eye(12)), "forward is a ndarray: an Operator"),
        (lambda: ih.TotalVariation(np.where(KEEP, Y, np.nan)), r"NaN or infinity in \d+ entries, the first at .*Mask"),
        (lambda: ih.TotalVariation(1j * Y), "y holds entries of type complex128: real numbers"),
        (lambda: ih.TotalVariation("noisy.png"), "real numbers are wanted"),
        (lambda: ih.TotalVariation(3.0), r"y has shape \(\): a signal, an image or a volume"),
        (lambda: ih.TotalVariation(Y, boundary="reflect"), "boundary 'reflect'; wanted is one of neumann, periodic"),
        (lambda: ih.HuberTV(Y, delta=0.0), "Huber delta = 0.0: a positive number"),
        (lambda: ih.HuberTV(Y, delta=np.ones((3, 2))), r"delta has shape \(3, 2\): a number or shape \(2, 12, 12\)"),
    ],
)
def test_refused_at_the_door(make, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make()


@pytest.mark.parametrize(
    "lower, theta, sentence",
    [
        (ih.TotalVariation(Y), {"weight": -0.1}, "'weight' = -0.1 is below its bound 0"),
        (
            ih.TotalVariation(Y),
            {"weight": PIXELS - 0.1},
            r"'weight' = -.* \(entry \(\d+, \d+\) of shape \(12, 12\)\) is below its bound 0",
        ),
        (ih.TotalVariation(Y), {"weight": np.nan}, "'weight' = nan is not a finite number"),
        (ih.TotalVariation(Y), {"weight": np.ones((12, 13))}, r"\(12, 13\): TotalVariation wants a scalar or"),
        (ih.TotalVariation(Y, isotropic=True), {"weight": EDGES}, r"\(2, 12, 12\): .* wants a scalar or \(12, 12\)"),
        (ih.TotalVariation(Y), {"wieght": 0.1}, "unknown key 'wieght': did you mean 'weight'"),
        (ih.TotalVariation(Y), {"weight": 0.1, "width": 1.0}, "unknown key 'width'"),
        (ih.TotalVariation(Y, widened), {"wieght": 0.1, "width": 1.0}, "lacks 'weight' .is 'wieght' a slip"),
        (ih.TotalVariation(Y, lambda theta: Skewed()), {"weight": 0.1}, "the adjoint fails the dot test"),
        (ih.TotalVariation(Y, lambda theta: 1.0), {"weight": 0.1}, "is a float: an Operator is wanted"),
        (
            ih.TotalVariation(Y, lambda theta: ih.Mask(KEEP[:3])),
            {"weight": 0.1},
            r"forward\(theta\) gives arrays of shape \(3, 12\)",
        ),
    ],
)
def test_refused_before_it_is_solved(lower, theta, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        ih.solve(lower, theta)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize(
    "forward, weight",
    [
        (ih.Mask(KEEP), 0.0),
        (ih.Mask(KEEP), PIXELS * (np.arange(12) > 5)),
        (ih.Blur(np.full((1, 3), 1 / 3)), 0.0),  # 12 is a multiple of 3: some waves are lost
    ],
)
def test_zero_weight_where_the_operator_sees_nothing(forward, weight, isotropic):
    lower = ih.TotalVariation(Y, forward, isotropic)
    with pytest.raises(ValueError, match="'weight' holds zeros where the forward operator does not see x"):
        ih.solve(lower, {"weight": weight})


def test_zero_weight_is_welcome_where_the_operator_sees_everything():
    """x* = K^-1 y; the slope at zero is that of small weights."""
    lower = ih.TotalVariation(Y, ih.Blur(np.array([[0.1, 0.8, 0.1]])))
    x = ih.solve(lower, {"weight": 0.0}, tol=1e-10).x
    wanted = np.linalg.solve(zoo.blur_matrix(np.array([[0.1, 0.8, 0.1]]), (12, 12)), Y.ravel())
    np.testing.assert_allclose(x.ravel(), wanted, rtol=0, atol=1e-9)
    half = PIXELS * (np.arange(12) > 5)
    assert np.all(np.isfinite(gradient(ih.TotalVariation(Y), half, SCENE).gradient["weight"]))


@pytest.mark.parametrize("weight, regions", [(10.0, ": 1 flat region,"), (0.2, ": 2 flat regions,")])
def test_result_counts_the_regions(weight, regions):
    assert regions in ih.solve(ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0])), {"weight": weight}).result
