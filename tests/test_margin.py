"""Distances to the edge of a stratum of the TV family, and warm starts from far away."""

import numpy as np
import pytest

import invhyper as ih

RNG = np.random.default_rng(3)
SCENE = np.linspace(0.0, 0.2, 10)[:, None] + np.zeros((10, 13))
SCENE[3:7, 4:10] += 1.0
Y = SCENE + 0.1 * RNG.standard_normal(SCENE.shape)


def certificate(lower, theta, truth=0.0):
    return ih.Implicit()(ih.Bilevel(lower, ih.Truth(truth + 0.0 * lower.y)), theta).certificate


def test_merging_regions_in_one_dimension():
    """Two levels 1 apart over m samples each merge at weight m / 2: there the margin is zero, from either side."""
    step = np.repeat([0.0, 1.0], 4)
    assert certificate(ih.TotalVariation(step), {"weight": 2.0}).kink
    just_below = certificate(ih.TotalVariation(step), {"weight": 2.0 - 1e-4})
    assert just_below.margin == pytest.approx(1e-4, rel=1e-3) and "merge" in just_below.margin_of
    below = certificate(ih.TotalVariation(step), {"weight": 1.0})  # p rises by a quarter of the weight a sample
    assert below.margin == pytest.approx(0.25) and "split" in below.margin_of
    above = certificate(ih.TotalVariation(step), {"weight": 2.5})
    assert above.margin == pytest.approx(0.2) and "split" in above.margin_of


def test_images_say_that_splitting_is_not_measured():
    assert "merging only" in certificate(ih.TotalVariation(Y), {"weight": 0.1}).margin_of


def test_weight_zero_on_ties_is_a_kink():
    found = certificate(ih.TotalVariation(np.array([0.0, 0.0, 1.0, 3.0, 3.0])), {"weight": 0.0})
    assert found.kink and "weight of zero" in found.margin_of
    assert not certificate(ih.TotalVariation(np.array([0.0, 0.5, 1.0, 3.0])), {"weight": 0.0}).kink


def test_equal_weights_of_a_tgv_signal_are_a_kink():
    """Where v may take over a jump at the same price the two penalties are exchangeable: a kink in their ratio."""
    y = np.random.default_rng(8).random(11)
    assert certificate(ih.TGV(y), {"weight": 0.1, "weight2": 0.1}).kink
    assert not certificate(ih.TGV(y), {"weight": 0.1, "weight2": 0.11}).kink


@pytest.mark.parametrize("key", ["weight", "weight2"])
def test_tgv_wants_positive_weights(key):
    with pytest.raises(ValueError, match="not unique"):
        ih.solve(ih.TGV(Y), {"weight": 0.1, "weight2": 0.1, key: 0.0})


def test_hard_tgv_signals_are_certified():
    y = np.random.default_rng(2).random(11)
    for theta in ({"weight": 0.04500622633053361, "weight2": 0.04720910946499043}, {"weight": 0.045, "weight2": 0.047}):
        assert ih.solve(ih.TGV(y), theta).error <= 1e-8


@pytest.mark.parametrize("lower", [ih.TGV(Y), ih.TotalVariation(Y), ih.TotalVariation(Y, isotropic=True)])
def test_warm_starts_from_far_away(lower):
    theta = {key: 0.1 for key in lower.keys}
    cold = ih.solve(lower, theta)
    for factor in (1e-5, 1e4):
        start = ih.solve(lower, {**theta, lower.keys[-1]: factor * 0.1})
        warm = ih.solve(lower, theta, start=start)
        np.testing.assert_allclose(warm.x, cold.x, atol=1e-7)
        assert warm.steps <= 3 * cold.steps
