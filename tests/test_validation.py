"""Criteria from data, and the problems that share one theta."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse

import invhyper as ih


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    return rng.standard_normal((23, 4)), rng.standard_normal(23)


def ridge(A, y, l2):
    return np.linalg.solve(A.T @ A + l2 * np.eye(A.shape[1]), A.T @ y)


def test_truth_is_half_the_squared_distance():
    assert float(ih.Truth(np.array([1.0, 2.0]))(jnp.array([3.0, 5.0]), {})) == 6.5
    batch = ih.Truth(np.zeros((2, 3)))
    assert float(batch(jnp.ones((2, 3)), {})) == 3.0
    with pytest.raises(ValueError, match=r"Truth holds shape \(2, 3\), the solution has shape \(3,\)"):
        batch(jnp.ones(3), {})


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_held_out_is_the_mean_squared_error(data, make):
    A, y = data
    x = np.arange(4.0)
    assert float(ih.HeldOut(make(A), y)(x, {})) == pytest.approx(np.mean((A @ x - y) ** 2), rel=1e-14)
    with_intercept = ih.HeldOut(make(A), y)(np.append(x, 0.5), {})
    assert float(with_intercept) == pytest.approx(np.mean((A @ x + 0.5 - y) ** 2), rel=1e-14)


def test_truth_takes_images_and_the_tuple_of_a_training_set():
    truths = (np.zeros((2, 3)), np.ones((4, 4)))
    assert float(ih.Truth(truths)((np.ones((2, 3)), np.full((4, 4), 3.0)), {})) == 3.0 + 32.0
    assert float(ih.Truth(list(truths))((np.ones((2, 3)), np.full((4, 4), 3.0)), {})) == 35.0
    with pytest.raises(ValueError, match="Truth holds 2 arrays, the solution 1: one for each is wanted"):
        ih.Truth(truths)(np.ones((2, 3)), {})
    with pytest.raises(ValueError, match=r"Truth holds shape \(4, 4\), the solution has shape \(2, 3\)"):
        ih.Truth(truths)((np.ones((2, 3)), np.ones((2, 3))), {})


@pytest.fixture
def picture():
    rng = np.random.default_rng(5)
    keep = rng.random((6, 7)) < 0.4
    return rng.standard_normal((6, 7)), rng.standard_normal((6, 7)), keep


def test_held_out_pixels_are_the_mean_over_those_kept(picture):
    x, y, keep = picture
    wanted = np.mean((x - y)[keep] ** 2)
    assert float(ih.HeldOut(ih.Mask(keep), y)(x, {})) == pytest.approx(wanted, rel=1e-14)
    unseen = np.where(keep, y, np.nan)
    criterion = ih.HeldOut(ih.Mask(keep), unseen)
    assert float(criterion(x, {})) == pytest.approx(wanted, rel=1e-14)
    slope = jax.grad(lambda x: criterion(x, {}))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.where(keep, 2 * (x - y), 0.0) / keep.sum(), rtol=1e-13, atol=0)


def test_held_out_measurements_count_all_that_no_mask_drops(picture):
    x, y, keep = picture
    kernel = np.ones((3, 3)) / 9
    image = scipy.ndimage.convolve(x, kernel, mode="wrap")
    blur = ih.Blur(kernel, shape=x.shape)
    assert float(ih.HeldOut(blur, y)(x, {})) == pytest.approx(np.mean((image - y) ** 2), rel=1e-13)
    assert float(ih.HeldOut(ih.Blur(kernel), y)(x, {})) == pytest.approx(np.mean((image - y) ** 2), rel=1e-13)
    wanted = np.mean((image - y)[keep] ** 2)
    for operator in (ih.Mask(keep) @ blur, (ih.Mask(keep) @ ih.Identity(x.shape)) @ blur):
        assert float(ih.HeldOut(operator, np.where(keep, y, np.inf))(x, {})) == pytest.approx(wanted, rel=1e-13)
    # A mask behind the operator leaves out unknowns, no measurement.
    behind = scipy.ndimage.convolve(np.where(keep, x, 0.0), kernel, mode="wrap")
    found = ih.HeldOut(blur @ ih.Mask(keep), y)(x, {})
    assert float(found) == pytest.approx(np.mean((behind - y) ** 2), rel=1e-13)
    sums = ih.from_scipy(np.ones((2, 42)), (6, 7))
    assert float(ih.HeldOut(sums, np.zeros(2))(x, {})) == pytest.approx(x.sum() ** 2, rel=1e-13)


def test_held_out_measurements_of_an_operator_that_theta_moves(picture):
    _, y, keep = picture
    x = scipy.ndimage.gaussian_filter(y, 1.0)

    def forward(theta):
        return ih.Mask(keep) @ ih.Blur(width=theta["width"], shape=(6, 7))

    def value(width):
        distance = [np.minimum(np.arange(n), n - np.arange(n)) for n in (6, 7)]
        rows, columns = (np.exp(-0.5 * (d / width) ** 2) for d in distance)
        transfer = np.fft.fft2(np.outer(rows / rows.sum(), columns / columns.sum()))
        return np.mean((np.fft.ifft2(np.fft.fft2(x) * transfer).real - y)[keep] ** 2)

    criterion = ih.HeldOut(forward, y)
    assert float(criterion(x, {"width": 0.8})) == pytest.approx(value(0.8), rel=1e-13)
    slope = jax.grad(lambda width: criterion(x, {"width": width}))(0.8)
    assert float(slope) == pytest.approx((value(0.8 + 1e-5) - value(0.8 - 1e-5)) / 2e-5, rel=1e-7)
    with pytest.raises(TypeError, match="HeldOut A.theta. is a ndarray: an Operator is wanted"):
        ih.HeldOut(lambda theta: np.eye(2), y)(x, {})
    with pytest.raises(ValueError, match=r"HeldOut A gives arrays of shape \(3,\); y has shape \(6, 7\)"):
        ih.HeldOut(lambda theta: ih.Identity((3,)), y)(x, {})
    with pytest.raises(ValueError, match=r"HeldOut A\(theta\) looks up 'width', which theta lacks: theta has 'weight'"):
        criterion(x, {"weight": 0.1})
    with pytest.raises(ValueError, match=r"which theta lacks: theta has no keys"):
        criterion(x, {})
    with pytest.raises(KeyError, match="weight"):  # of a dict that is not theta
        ih.HeldOut(lambda theta: {}["weight"], y)(x, {"weight": 0.1})


@pytest.mark.parametrize(
    ("make", "y", "said"),
    [
        (
            lambda: ih.Mask(np.eye(3)),
            np.ones((2, 2)),
            r"A gives arrays of shape \(3, 3\); y has shape \(2, 2\)",
        ),
        (lambda: ih.Mask(np.eye(2)), np.array([[1.0, 0.0], [0.0, np.nan]]), "y holds NaN or infinity"),
        (lambda: ih.Identity((2, 2)), np.array([[1.0, np.nan], [0.0, 0.0]]), "y holds NaN or infinity"),
        (lambda: np.eye(4), np.ones((2, 2)), "for an image A is an Operator"),
    ],
)
def test_bad_measurements_get_their_sentence(make, y, said):
    with pytest.raises(ValueError, match=said):
        ih.HeldOut(make(), y)


def test_held_out_of_images_of_another_shape():
    with pytest.raises(ValueError, match=r"a Mask of images of shape \(2, 2\); the solution has shape \(3, 3\)"):
        ih.HeldOut(ih.Mask(np.eye(2)), np.ones((2, 2)))(np.ones((3, 3)), {})
    with pytest.raises(ValueError, match=r"HeldOut has 2 columns in A; the solution has shape \(2, 2\)"):
        ih.HeldOut(np.eye(2), np.ones(2))(np.ones((2, 2)), {})


def test_hypergradient_on_pixels_left_out_in_closed_form():
    """A step of two flat halves: each moves by weight / (pixels measured in it)."""
    y = np.array([0.1, -0.2, 0.3, 1.2, 0.9, 1.1])
    left_out = np.array([False, True, False, False, True, False])
    lower = ih.TotalVariation(y, forward=ih.Mask(~left_out))
    problem = ih.Bilevel(lower, ih.HeldOut(ih.Mask(left_out), y))
    weight = 0.25
    low, high = (0.1 + 0.3 + weight) / 2, (1.2 + 1.1 - weight) / 2
    evaluation = ih.Implicit()(problem, {"weight": weight})
    assert evaluation.value == pytest.approx(((low + 0.2) ** 2 + (high - 0.9) ** 2) / 2, rel=1e-12)
    slope = (low + 0.2) * 0.5 - (high - 0.9) * 0.5
    assert float(evaluation.gradient["weight"]) == pytest.approx(slope, rel=1e-10)


def test_training_set_of_images_is_the_sum_and_the_mean_of_its_members():
    rng = np.random.default_rng(2)
    truths = [np.kron(rng.standard_normal((2, 2)), np.ones((3, 4))), np.kron(rng.standard_normal(3), np.ones(4))]
    lowers = [ih.TotalVariation(truth + 0.1 * rng.standard_normal(truth.shape)) for truth in truths]
    single = [
        ih.Implicit()(ih.Bilevel(lower, ih.Truth(truth)), {"weight": 0.2})
        for lower, truth in zip(lowers, truths, strict=True)
    ]
    together = ih.Implicit()(ih.Bilevel(ih.Together(lowers), ih.Truth(tuple(truths))), {"weight": 0.2})
    assert together.value == pytest.approx(sum(e.value for e in single), rel=1e-12)
    slope = sum(float(e.gradient["weight"]) for e in single)
    assert float(together.gradient["weight"]) == pytest.approx(slope, rel=1e-10)
    mean = ih.Bilevel(ih.Together(lowers), ih.Mean([ih.Truth(truth) for truth in truths]))
    assert float(ih.Implicit()(mean, {"weight": 0.2}).gradient["weight"]) == pytest.approx(slope / 2, rel=1e-10)


def test_mean_wants_one_criterion_for_each_solution():
    pair = ih.Together([ih.Ridge(np.eye(2), np.ones(2))] * 2)
    with pytest.raises(ValueError, match="Mean holds 1 criteria and meets 2 lower levels"):
        ih.Bilevel(pair, ih.Mean([ih.Truth(np.ones(2))]))
    with pytest.raises(ValueError, match="Mean holds 2 criteria and was given one solution, not a tuple"):
        ih.Mean([ih.Truth(np.ones(2))] * 2)(np.ones(2), {})
    with pytest.raises(ValueError, match="Mean was given no criterion"):
        ih.Mean([])


def test_held_out_takes_the_loss_of_its_lower_level(data):
    A, _ = data
    labels = np.arange(23) % 2
    signs = np.where(labels == 0, -1.0, 1.0)
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(A, labels))
    x = np.linspace(-1, 1, 4)
    wanted = np.mean(np.log1p(np.exp(-signs * (A @ x))))
    assert float(problem.criterion(x, {})) == pytest.approx(wanted, rel=1e-13)
    chosen = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(A, signs, loss=ih.squared))
    assert float(chosen.criterion(x, {})) == pytest.approx(np.mean((A @ x - signs) ** 2), rel=1e-13)


@pytest.mark.parametrize(
    ("A", "y", "said"),
    [
        (np.ones((3, 2)), np.ones(2), r"HeldOut wants A \(m, p\) and y \(m,\); it was given A \(3, 2\) and y \(2,\)"),
        (np.full((3, 2), np.nan), np.ones(3), "A holds NaN or infinity"),
        (np.ones((3, 2)), np.array([1, np.inf, 0]), "y holds NaN or infinity"),
        (scipy.sparse.csr_array([[np.nan, 1.0]]), np.ones(1), "sparse matrix holds NaN or infinity"),
        (np.ones((0, 2)), np.ones(0), "HeldOut was given no rows"),
    ],
)
def test_bad_data_gets_its_sentence(A, y, said):
    with pytest.raises(ValueError, match=said):
        ih.HeldOut(A, y)


def test_criteria_pickle(data):
    A, y = data
    x = np.arange(4.0)
    mask = ih.Mask(np.array([True, False, True, True]))
    held = (ih.HeldOut(A, y), ih.HeldOut(mask, y[:4]), ih.HeldOut(mask @ ih.Blur(np.ones(3), shape=(4,)), y[:4]))
    for criterion in (*held, ih.Truth(np.ones(4)), ih.KFold(ih.Ridge, A, y).criterion):
        again = pickle.loads(pickle.dumps(criterion))
        where = (x,) * 5 if hasattr(criterion, "criteria") else x
        assert float(again(where, {})) == float(criterion(where, {}))


def test_k_fold_is_the_mean_over_folds_in_closed_form(data):
    A, y = data

    def value(l2):
        errors = []
        for held in np.array_split(np.random.default_rng(7).permutation(23), 4):
            kept = np.setdiff1d(np.arange(23), held)
            errors.append(np.mean((A[held] @ ridge(A[kept], y[kept], l2) - y[held]) ** 2))
        return np.mean(errors)

    evaluation = ih.Implicit()(ih.KFold(ih.Ridge, A, y, folds=4, seed=7), {"l2": 2.0})
    assert evaluation.value == pytest.approx(value(2.0), rel=1e-13)
    slope = (8 * (value(2.001) - value(1.999)) - (value(2.002) - value(1.998))) / 0.012
    assert float(evaluation.gradient["l2"]) == pytest.approx(slope, rel=1e-8)
    assert len(evaluation.solution.x) == 4


@pytest.mark.parametrize("folds", [1, 24, 2.5, "five"])
def test_k_fold_wants_a_sensible_number_of_folds(data, folds):
    with pytest.raises(ValueError, match="KFold folds = .*a whole number between 2 and the number of rows, 23"):
        ih.KFold(ih.Ridge, *data, folds=folds)


def test_k_fold_on_host_lower_levels_agrees_with_its_folds(data):
    A, y = data
    problem = ih.KFold(ih.BPDN, A, y, folds=3, seed=1)
    weight = 0.3 * ih.weight_max(A, y)
    together = ih.Implicit()(problem, {"weight": weight})
    single = [
        ih.Implicit()(ih.Bilevel(lower, criterion), {"weight": weight})
        for lower, criterion in zip(problem.lower.lowers, problem.criterion.criteria, strict=True)
    ]
    assert together.value == pytest.approx(np.mean([e.value for e in single]), rel=1e-13)
    slope = np.mean([float(e.gradient["weight"]) for e in single])
    assert float(together.gradient["weight"]) == pytest.approx(slope, rel=1e-12)
    assert together.certificate.margin == min(e.certificate.margin for e in single)
    warm = ih.Implicit()(problem, {"weight": weight}, warm=together)
    assert float(warm.gradient["weight"]) == pytest.approx(slope, rel=1e-10)
