"""Bregman steps with Newton's method inside: strata that first-order steps and a plain Newton method do not find."""

import numpy as np
import pytest

import invhyper as ih
from invhyper.lower import bregman_solve
from invhyper.strata import augmented, multipliers, norms


def ramp(side, seed):
    """A ramp with a square on it, and noise: under TGV many norms are within 1e-8 of zero."""
    truth = np.add.outer(np.linspace(0.0, 1.0, side), np.linspace(0.0, 0.5, side))
    truth[4:10, 5:12] += 0.5
    return truth, truth + 0.05 * np.random.default_rng(seed).standard_normal(truth.shape)


def steps_of(lower, theta):
    """A problem's numbers, and multipliers to begin with: none."""
    structure = bregman_solve.make_structure(lower)
    theta = {key: np.asarray(value) for key, value in theta.items()}
    model = bregman_solve.make_model(lower, theta, structure, lower.forward_at(theta))
    rows, entries = model.D.shape
    zero = augmented.Multipliers(model.adjoint(model.y), np.zeros(rows), np.zeros(entries), np.ones(rows), 1.0)
    return model, zero


@pytest.mark.parametrize("seed", range(3))
def test_near_degenerate_tgv_is_certified(seed):
    truth, y = ramp(14, seed)
    problem = ih.Bilevel(ih.TGV(y), ih.Truth(truth))
    theta = {"weight": 0.05, "weight2": 0.1}
    here = ih.Implicit()(problem, theta)
    assert here.certificate.lower_residual <= 1e-8
    for key, h in (("weight", 5e-6), ("weight2", 1e-5)):
        ends = [ih.Implicit()(problem, {**theta, key: theta[key] + s * h}, warm=here).value for s in (1.0, -1.0)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(here.gradient[key]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0, 5.0])
def test_isotropic_from_small_to_large_weights(weight):
    truth, y = ramp(24, 0)
    problem = ih.Bilevel(ih.TotalVariation(y, isotropic=True), ih.Truth(truth))
    here = ih.Implicit()(problem, {"weight": weight})
    h = 1e-6 * weight
    ends = [ih.Implicit()(problem, {"weight": weight + s * h}, warm=here).value for s in (1.0, -1.0)]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(here.gradient["weight"]), rel=1e-4)


def test_carried_differences_are_those_of_z():
    truth, y = ramp(12, 1)
    model, at = steps_of(ih.TotalVariation(y, isotropic=True), {"weight": 0.1})
    for _ in range(6):
        at, _ = augmented.step(model, at, 1e-10)
        at = augmented.scaled(model, at, 10.0)
    np.testing.assert_allclose(at.d, model.D @ at.z, atol=1e-13)
    assert np.all(model.norms(at.p) <= model.weight * (1 + 1e-12))


def test_an_iterate_as_it_is_agrees_with_newton():
    _, y = ramp(12, 2)
    model, at = steps_of(ih.TotalVariation(y, isotropic=True), {"weight": 0.1})
    polished, at, _ = augmented.identify(model, at, 1e-10)
    taken = norms.certify(norms.taken(model, polished.stratum, polished.z, polished.d, polished.dual), at.p)
    balanced, dual = multipliers.balance(polished, at.p, at.q, 1e-10)
    assert balanced.certified <= 1e-10 and taken.excess <= 1e-12
    np.testing.assert_allclose(taken.z, polished.z, atol=1e-10)
    assert np.all(model.norms(dual) <= model.weight * (1 + 1e-12))


def test_a_wrong_stratum_finds_no_certificate():
    """One region for a step: the balance says how far from optimal the mean is, and it is far."""
    y = np.repeat([0.0, 1.0], 8)
    model, at = steps_of(ih.TotalVariation(y), {"weight": 0.1})
    everything = norms.Stratum(np.ones(model.weight.size, bool), np.zeros(16, bool), np.zeros(16))
    found = norms.polish(model, everything, at.z)
    np.testing.assert_allclose(found.z, 0.5)
    assert norms.certify(found, at.p).certified > 0.1
    mended, _ = multipliers.balance(found, at.p, at.q, 1e-8)
    assert mended.certified <= 1e-8
    np.testing.assert_allclose(mended.z, np.repeat([0.1 / 8, 1 - 0.1 / 8], 8), atol=1e-12)
