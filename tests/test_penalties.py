"""Weights by blocks: a coarse weight is a fine one that is constant on blocks, and its slope the sum over each."""

import numpy as np
import pytest

import invhyper as ih
from invhyper.penalties import L1, TV


def test_a_coarse_weight_fills_its_blocks():
    penalty = TV().at((2, 4))
    np.testing.assert_array_equal(penalty.fill(np.array([[1.0, 5.0]])), [[1, 1, 5, 5], [1, 1, 5, 5]])
    image = np.zeros((2, 4))
    image[0, 2] = 1.0  # edges: to the pixel below (weight 5), from the left (1), to the right (5)
    assert float(penalty.value(image, np.array([[1.0, 5.0]]))) == 11.0


def test_the_sum_over_blocks():
    penalty = TV().at((2, 4))
    ones = np.arange(16.0).reshape(2, 2, 4)
    np.testing.assert_array_equal(penalty.gather(ones, (1, 2)), [[52.0, 68.0]])
    np.testing.assert_array_equal(penalty.gather(ones, (2, 1, 2)), [[[10.0, 18.0]], [[42.0, 50.0]]])
    assert penalty.gather(ones, ()) == 120.0


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("shape", [(4, 4), (8, 2), (1, 1), (4,), (2, 4, 2)])
def test_slope_of_a_block_is_the_sum_of_its_pixels_slopes(shape, isotropic):
    rng = np.random.default_rng(0)
    image = {1: (12,), 2: (8, 8), 3: (4, 4, 4)}[len(shape)]
    truth = np.sign(rng.standard_normal(image))
    lower = ih.TotalVariation(truth + 0.3 * rng.standard_normal(image), isotropic=isotropic)
    problem = ih.Bilevel(lower, ih.Truth(truth))
    coarse = 0.1 + 0.2 * rng.random(shape)
    blocks = tuple(n // k for n, k in zip(image, shape, strict=True))
    one, two = (ih.Implicit()(problem, {"weight": w}, tol=1e-10) for w in (coarse, np.kron(coarse, np.ones(blocks))))
    assert one.value == pytest.approx(two.value, rel=1e-9)
    split = two.gradient["weight"].reshape([part for pair in zip(shape, blocks, strict=True) for part in pair])
    summed = split.sum(axis=tuple(range(1, 2 * len(shape), 2)))
    assert one.gradient["weight"].shape == shape
    np.testing.assert_allclose(one.gradient["weight"], summed, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 4), (16, 16), (4,), (0, 4), (1, 2, 4, 4)])
def test_blocks_that_do_not_divide_the_image_are_refused(shape):
    lower = ih.TotalVariation(np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"has shape .* wants a scalar or \(2, 8, 8\) or \(8, 8\), or equal blocks"):
        ih.solve(lower, {"weight": np.full(shape, 0.1)})


def test_one_weight_a_pixel_needs_an_anisotropic_edge_weight():
    lower = ih.TotalVariation(np.zeros((8, 8)), isotropic=True)
    with pytest.raises(ValueError, match="wants a scalar or"):
        ih.solve(lower, {"weight": np.full((2, 8, 8), 0.1)})


def test_labels_have_no_blocks():
    penalty = L1(ih.Identity((4,)), np.array([0, 0, 1, 2])).at((4,))
    assert penalty.grid((3,)) == (3,) and penalty.grid((1,)) is None
