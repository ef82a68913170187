"""Total generalised variation: affine images, its parts, cvxpy, central differences."""

import laws
import numpy as np
import pytest
import zoo

import invhyper as ih

SCENE = np.where(np.add.outer(np.arange(12), np.arange(12)) > 11, 1.0, np.linspace(0.0, 0.6, 12))
Y = SCENE + 0.1 * np.random.default_rng(0).standard_normal((12, 12))
KEEP = np.random.default_rng(2).random((12, 12)) > 0.2
KERNEL = np.array([[0.1, 0.7, 0.2]])


@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 3, 5)])
def test_an_affine_image_is_itself(shape):
    slopes = np.array([0.3, -0.2, 0.5])[: len(shape)]
    y = 0.4 + np.tensordot(slopes, np.indices(shape), 1)
    lower = ih.TGV(y)
    theta = {"weight": 0.7, "weight2": 1.3}
    solution = ih.solve(lower, theta, tol=1e-10)
    np.testing.assert_allclose(solution.x, y, rtol=0, atol=1e-9)
    assert float(lower.objective(solution.x, theta, lower.field(solution))) == pytest.approx(0.0, abs=1e-8)
    evaluation = ih.Implicit()(ih.Bilevel(lower, ih.Truth(0 * y)), theta, tol=1e-10)
    assert all(abs(float(slope)) <= 1e-7 for slope in evaluation.gradient.values())


def test_dear_fields_leave_total_variation_of_what_is_not_affine():
    """With a great weight2 the field is one whose derivative vanishes; zero is one, so TGV costs no more than TV."""
    theta = {"weight": 0.08, "weight2": 50.0}
    lower = ih.TGV(Y)
    solution = ih.solve(lower, theta)
    field = lower.field(solution)
    np.testing.assert_allclose(np.diff(field[0, :-1], axis=0), 0.0, atol=1e-7)
    tv = ih.TotalVariation(Y, isotropic=True)
    least = float(tv.objective(ih.solve(tv, {"weight": 0.08}).x, {"weight": 0.08}))
    assert float(lower.objective(solution.x, theta, field)) <= least * (1 + 1e-9)


def test_cheap_second_weight_leaves_the_data():
    """With weight2 near zero the field takes every slope for itself."""
    x = ih.solve(ih.TGV(Y), {"weight": 1.0, "weight2": 1e-6}).x
    np.testing.assert_allclose(x, Y, rtol=0, atol=1e-4)


def tgv_terms(shape, weight, weight2):
    """D u - v on the edges, and the symmetric derivative of v by backward differences, as matrices on (u, v)."""
    n, axes = int(np.prod(shape)), len(shape)
    index = np.arange(n).reshape(shape)
    D = zoo.differences_matrix(shape).reshape(axes, n, n)
    first = np.zeros((axes, n, (1 + axes) * n))
    backward = np.zeros((axes, n, n))
    for axis in range(axes):
        for place in np.ndindex(*shape):
            here = index[place]
            if place[axis] + 1 < shape[axis]:
                first[axis, here, :n] = D[axis, here]
                first[axis, here, (1 + axis) * n + here] = -1.0
            if place[axis] > 0:
                before = list(place)
                before[axis] -= 1
                backward[axis, here, here], backward[axis, here, index[tuple(before)]] = 1.0, -1.0
    second = np.zeros((axes, axes, n, (1 + axes) * n))
    for k in range(axes):
        for l in range(axes):
            second[k, l, :, (1 + k) * n : (2 + k) * n] += backward[l] / 2
            second[k, l, :, (1 + l) * n : (2 + l) * n] += backward[k] / 2
    return [
        (first.reshape(-1, (1 + axes) * n), weight, np.tile(np.arange(n), axes), 0),
        (second.reshape(-1, (1 + axes) * n), weight2, np.tile(np.arange(n), axes**2), 0),
    ]


EYE, NOTHING = np.eye(144), np.zeros((144, 288))
# name: (lower level, theta, K)
AGAINST_CVXPY = {
    "denoising": (lambda: ih.TGV(Y), {"weight": 0.08, "weight2": 0.1}, EYE),
    "pixels": (
        lambda: ih.TGV(Y),
        {"weight": 0.05 + 0.05 * KEEP, "weight2": 0.1 + 0.1 * np.random.default_rng(3).random((12, 12))},
        EYE,
    ),
    "blur": (
        lambda: ih.TGV(Y, ih.Blur(KERNEL)),
        {"weight": 0.05, "weight2": 0.08},
        zoo.blur_matrix(KERNEL, (12, 12)),
    ),
    "mask": (lambda: ih.TGV(Y, ih.Mask(KEEP)), {"weight": 0.08, "weight2": 0.1}, np.diag(KEEP.astype(float).ravel())),
}


@pytest.mark.parametrize("name", AGAINST_CVXPY)
def test_objective_is_that_of_cvxpy(name):
    make, theta, K = AGAINST_CVXPY[name]
    lower = make()
    terms = tgv_terms((12, 12), *theta.values())
    least, z = zoo.least_sum_of_norms(Y, terms, np.hstack([K, NOTHING]))
    solution = ih.solve(lower, theta)
    assert float(lower.objective(solution.x, theta, lower.field(solution))) == pytest.approx(least, rel=1e-7)
    np.testing.assert_allclose(solution.x.ravel(), z[:144], rtol=0, atol=1e-4)


def test_signal_against_cvxpy():
    theta = {"weight": 0.1, "weight2": 0.15}
    lower = ih.TGV(Y[3])
    least, _ = zoo.least_sum_of_norms(Y[3], tgv_terms((12,), *theta.values()), np.eye(12, 24))
    solution = ih.solve(lower, theta)
    assert float(lower.objective(solution.x, theta, lower.field(solution))) == pytest.approx(least, rel=1e-7)


@pytest.mark.parametrize("key", ["weight", "weight2"])
@pytest.mark.parametrize("name", AGAINST_CVXPY)
def test_hypergradient_is_the_central_difference(name, key):
    make, theta, _ = AGAINST_CVXPY[name]
    laws.hypergradient(ih.Implicit(), ih.Bilevel(make(), ih.Truth(SCENE)), theta, 1e-4, key=key, tol=1e-10)


@pytest.mark.parametrize("key", ["weight", "weight2"])
@pytest.mark.parametrize("y", [Y[3], np.stack([Y[:3, :4], Y[3:6, 4:8], Y[6:9, 8:]])], ids=["signal", "volume"])
def test_hypergradient_of_signals_and_volumes(y, key):
    theta = {"weight": 0.1, "weight2": 0.15}
    laws.hypergradient(ih.Implicit(), ih.Bilevel(ih.TGV(y), ih.Truth(0.9 * y)), theta, 1e-4, key=key, tol=1e-10)


@pytest.mark.parametrize("key", ["weight", "weight2", "width"])
def test_hypergradient_of_a_blur_of_unknown_width(key):
    lower = ih.TGV(Y[2:8, 2:8], lambda theta: ih.Blur(width=theta["width"], boundary="neumann"))
    theta = {"weight": 0.05, "weight2": 0.08, "width": 0.7}
    laws.hypergradient(ih.Implicit(), ih.Bilevel(lower, ih.Truth(SCENE[2:8, 2:8])), theta, 1e-4, key=key, tol=1e-10)


def test_refusals():
    with pytest.raises(ValueError, match=r"'weight2' has shape \(2, 12, 12\): TGV wants a scalar or \(12, 12\)"):
        ih.solve(ih.TGV(Y), {"weight": 0.1, "weight2": np.ones((2, 12, 12))})
    with pytest.raises(ValueError, match="theta lacks 'weight2'"):
        ih.solve(ih.TGV(Y), {"weight": 0.1})
    with pytest.raises(TypeError, match="pass field=lower.field"):
        ih.TGV(Y).objective(Y, {"weight": 0.1, "weight2": 0.1})
    with pytest.raises(ValueError, match="'weight' = 0: TGV's vector field is not unique"):
        ih.solve(ih.TGV(Y, ih.Mask(KEEP)), {"weight": 0.0, "weight2": 0.1})
