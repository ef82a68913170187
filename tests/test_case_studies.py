"""The case studies of fits and images, run small from the command line: expected figures, known answers, files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import studies
from scipy.linalg import solveh_banded
from sklearn.linear_model import ElasticNet

import invhyper as ih
from invhyper import cli

PICTURES = {
    "diabetes_elastic_net": {"coefficients.png"},
    "bpdn_weight": {"coefficients.png", "pictures.png"},
    "breast_cancer_weight_decay": {"coefficients.png", "fresh_rows.png"},
    "ehrhardt_roberts": {"signals.png"},
    "tv_denoising": {"pictures.png"},
    "spatially_varying_tv": {"pictures.png", "weights.png"},
    "deblurring_split_bregman": {"pictures.png"},
    "learning_from_many_images": {"gains.png", "pictures.png"},
    "blind_blur": {"pictures.png", "widths.png"},
    "kinks_of_the_lasso": {"path.png", "halves.png"},
}


class TestStudies(studies.Studies):
    pictures = PICTURES


def test_diabetes_loss_is_what_scikit_learn_computes_at_these_weights(quick):
    report = quick("diabetes_elastic_net")
    rows = studies.module("diabetes_elastic_net").split(0)
    weights = ih.to_sklearn(report.theta, len(rows.y))
    model = ElasticNet(**weights, fit_intercept=False, tol=1e-12, max_iter=1_000_000)
    loss = np.mean((model.fit(rows.A, rows.y).predict(rows.A_val) - rows.y_val) ** 2)
    assert report.value == pytest.approx(loss, rel=1e-7)
    assert report.value < report.findings["sklearn_validation_loss"]
    assert report.value < report.findings["best_on_map"]


def test_diabetes_columns_are_standardised_by_the_fitted_rows():
    rows = studies.module("diabetes_elastic_net").split(4)
    assert rows.A.shape == (295, 64) and rows.A_val.shape == (147, 64) and len(set(rows.names)) == 64
    np.testing.assert_allclose(rows.A.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(rows.A.std(axis=0), 1.0, atol=1e-12)
    assert np.linalg.matrix_rank(rows.A) == 64


def test_bpdn_measures_mask_sums_of_the_image():
    pytest.importorskip("skimage")
    study = studies.module("bpdn_weight")
    scene = study.camera(18, 60, seed=0)
    masks = np.random.default_rng(0).choice([-1.0, 1.0], (60, 18, 18)) / np.sqrt(60)
    sums = np.sum(masks * (scene.image - scene.mean), axis=(1, 2))
    np.testing.assert_allclose(scene.A @ scene.truth, sums, atol=1e-12)
    np.testing.assert_allclose(scene.picture(scene.truth), scene.image, atol=1e-12)


def test_bpdn_knows_the_best_of_its_curves(quick):
    found = quick("bpdn_weight").findings
    assert found["held_out_loss"] <= found["held_out_curve"].min() * (1 + 1e-9)
    assert found["oracle_loss"] <= found["truth_curve"].min() * (1 + 1e-9)
    assert found["oracle_psnr"] >= found["held_out_psnr"] > found["start_psnr"]


@pytest.mark.parametrize("name", sorted(studies.IMAGING))
def test_without_scikit_image_it_says_what_to_install(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert cli.main(["run", name, "--quick"]) == 2
    assert "pip install 'invhyper[imaging]'" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())


def test_breast_cancer_shared_weight_is_the_known_one(quick):
    found = quick("breast_cancer_weight_decay").findings
    assert found["shared_weight"] == pytest.approx(0.0060869560, rel=1e-5)
    assert found["shared_loss"] == pytest.approx(0.10807402131945, rel=1e-10)
    assert found["each_loss"] < 0.7 * found["shared_loss"]


def imaging_study(name: str):
    pytest.importorskip("skimage")
    return studies.module(name)


def test_tv_best_single_weight_is_the_known_one():
    study = imaging_study("tv_denoising")
    truth, noisy = study.camera(128, seed=0)
    report = ih.tune(ih.Bilevel(ih.TotalVariation(noisy), ih.Truth(truth)), study.WEIGHT)
    assert ih.psnr(report.solution.x, truth) == pytest.approx(28.332, abs=1e-3)
    assert float(report.theta["weight"]) == pytest.approx(0.0631, abs=1e-4)


@pytest.mark.parametrize("kind", ["anisotropic", "isotropic"])
def test_tv_search_beats_its_grid_and_its_start(quick, kind):
    found = quick("tv_denoising").findings
    assert found[f"{kind}_loss"] <= found[f"{kind}_curve"].min() * (1 + 1e-9)
    assert found[f"{kind}_psnr"] > found[f"{kind}_before_psnr"] + 2.5
    assert found[f"{kind}_psnr"] > found["noisy_psnr"] + 7


# The weights learned within the number of lower-level solves, from 0.06 everywhere, and what they must reach.
LEARNED = [
    pytest.param(16, 16, 29.25, id="16x16 patches"),
    pytest.param(32, 70, 29.9, id="32x32 patches", marks=pytest.mark.slow),
    pytest.param(128, 70, 32.5, id="pixels", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("patches, solves, decibels", LEARNED)
def test_learned_weights_reach_their_decibels(patches, solves, decibels):
    study = imaging_study("spatially_varying_tv")
    truth, noisy = study.camera(128, seed=0)
    report = study.learn(truth, noisy, patches, solves)
    assert report.history[-1].solves <= solves <= study.SOLVES == 70
    assert ih.psnr(report.solution.x, truth) >= decibels


def test_finer_weights_gain_on_their_own_noise_and_little_on_other(quick):
    found = quick("spatially_varying_tv").findings
    own, fresh = ([found[f"{what}_{k}"] for k in found["patches"]] for what in ("psnr", "fresh_psnr"))
    assert np.all(np.diff(own) > 0.2)
    assert fresh[-1] - fresh[0] < 0.25 * (own[-1] - own[0])


def test_deblurring_gains_without_the_truth(quick):
    found = quick("deblurring_split_bregman").findings
    assert found["oracle_psnr"] >= found["held_out_psnr"] > max(found["blurred_psnr"], found["start_psnr"])
    assert found["oracle_loss"] <= np.nanmin(found["oracle_curve"]) * (1 + 1e-9)
    assert found["held_out_loss"] <= np.nanmin(found["held_out_curve"]) * (1 + 1e-9)


def test_blind_blur_finds_the_width(quick):
    found = quick("blind_blur").findings
    assert found["oracle_width"] == pytest.approx(found["true_width"], rel=0.01)
    assert found["held_out_width"] == pytest.approx(found["true_width"], rel=0.02)
    assert found["oracle_loss"] <= np.nanmin(found["truth_map"])
    assert found["held_out_loss"] <= np.nanmin(found["held_out_map"])


def test_learned_weights_serve_other_images(quick):
    found = quick("learning_from_many_images").findings
    assert found["two_loss"] < found["one_loss"] <= np.min(found["curves"].sum(axis=0)) * (1 + 1e-4)
    assert found["test_psnr_two_learned"] > found["test_psnr_noisy"] + 6.0
    for model in ("one", "two"):
        own, learned = (found["decibels"][f"{model}_{which}"] for which in ("own", "learned"))
        assert np.all(own >= learned - 1e-9)


def test_ehrhardt_roberts_data_are_those_of_the_description():
    files, drawn = studies.module("ehrhardt_roberts").published(), studies.module("ehrhardt_roberts").signals(0)
    np.testing.assert_array_equal(files.truth, drawn.truth)
    np.testing.assert_array_equal(files.noisy, drawn.noisy)
    assert files.truth.shape == (10, 256) and set(np.unique(files.truth)) == {0.0, 1.0}


def by_numpy(xs, data, th, steps):
    """Signals after so many Newton steps with tridiagonal Hessians, the largest residual, F and its slope."""
    weight, found, worst, value, slope = 10.0**th, [], 0.0, 0.0, 0.0
    for x, y, truth in zip(xs, data.noisy, data.truth, strict=True):
        for left in range(steps, -1, -1):
            jump = np.diff(x, prepend=0.0)
            size = np.sqrt(jump**2 + 1e-6)
            variation = jump / size - np.append(jump[1:] / size[1:], 0.0)  # the slope of the sum of sizes
            residual, bend = x - y + weight * variation + 1e-3 * x, weight * 1e-6 / size**3
            hessian = np.stack([np.append(0.0, -bend[1:]), 1.001 + bend + np.append(bend[1:], 0.0)])
            x = x - solveh_banded(hessian, residual) if left else x
        found.append(x)
        worst = max(worst, np.linalg.norm(residual))
        value += np.sum((x - truth) ** 2)
        slope -= 2 * np.log(10.0) * weight * variation @ solveh_banded(hessian, x - truth)
    return found, worst, value, slope


@pytest.mark.parametrize("place", ["before", "after"])
def test_ehrhardt_roberts_slope_is_that_of_a_banded_solve(quick, place):
    """At the solutions of the study, which are as exact as they say."""
    report, data = quick("ehrhardt_roberts"), studies.module("ehrhardt_roberts").published()
    step = report.history[0] if place == "before" else min(report.history, key=lambda step: step.value)
    _, worst, value, slope = by_numpy(report.findings[place], data, float(step.theta["th"]), 0)
    assert worst <= 1e-10
    assert step.value == pytest.approx(value, rel=1e-12)
    assert float(step.gradient["th"]) == pytest.approx(slope, rel=1e-8, abs=1e-8)


def test_ehrhardt_roberts_value_and_slope_at_the_published_weight(quick):
    """The study's, and those known at the weight as it is printed, by solutions found without the library."""
    found, data = quick("ehrhardt_roberts").findings, studies.module("ehrhardt_roberts").published()
    at, worst, value, slope = by_numpy(found["after"], data, studies.module("ehrhardt_roberts").PUBLISHED_TH, 20)
    assert worst <= 1e-10
    assert (found["published_value"], found["published_slope"]) == pytest.approx((value, slope), rel=1e-8)
    _, _, value, slope = by_numpy(at, data, -0.30893624, 2)
    assert value == pytest.approx(1.3715952, abs=5e-8) and slope == pytest.approx(0.0355172840, abs=1e-10)


def test_ehrhardt_roberts_minimum_is_reached_in_ten_evaluations(quick):
    report, least = quick("ehrhardt_roberts"), 1.3714888338
    reached = [step.solves for step in report.history if step.value - least <= 1e-8]
    assert float(report.history[0].theta["th"]) == 0.0
    assert reached[0] <= 10
    assert float(report.theta["th"]) == pytest.approx(-0.314921, abs=5e-7)
    assert report.value == pytest.approx(least, abs=1e-10)
