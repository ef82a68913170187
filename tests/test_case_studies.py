"""The case studies, run small from the command line: expected figures, known answers, and the files they leave."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solveh_banded
from scipy.optimize import least_squares
from sklearn.linear_model import ElasticNet

import invhyper as ih
from invhyper import cli

STUDIES = (
    "diabetes_elastic_net",
    "bpdn_weight",
    "breast_cancer_weight_decay",
    "ehrhardt_roberts",
    "tv_denoising",
    "spatially_varying_tv",
    "deblurring_split_bregman",
    "learning_from_many_images",
    "blind_blur",
    "ode_initial_condition",
    "hare_lynx",
    "epidemic",
    "population_q",
    "indometacin",
    "theophylline",
    "implicit_and_unrolled",
    "momentum_and_curvature",
    "hyper_cleaning",
    "learned_adam",
    "learned_schedule",
)
IMAGING = {  # their pictures are scikit-image's
    "bpdn_weight",
    "tv_denoising",
    "spatially_varying_tv",
    "deblurring_split_bregman",
    "learning_from_many_images",
    "blind_blur",
}
LIKELIHOODS = {"indometacin", "theophylline"}  # of too many parameters for a map of the criterion
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
    "ode_initial_condition": {"errors.png", "fits.png"},
    "hare_lynx": {"fit.png", "waterfall.png", "profiles.png"},
    "epidemic": {"fit.png", "waterfall.png", "profiles.png"},
    "population_q": {"cells.png", "shrinkage.png"},
    "implicit_and_unrolled": {"curse.png", "errors.png", "terms.png"},
    "theophylline": {"individual_fits.png", "observed_predicted.png", "predictive_check.png", "shrinkage.png"},
    "indometacin": {"individual_fits.png", "observed_predicted.png", "predictive_check.png", "shrinkage.png"},
    "momentum_and_curvature": {"momentum.png", "runs.png"},
    "hyper_cleaning": {"weights.png", "digits.png"},
    "learned_adam": {"training.png", "step_sizes.png"},
    "learned_schedule": {"schedules.png", "spent.png", "fresh.png"},
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """study name -> its report, run once with --quick, from a folder that is not the checkout."""
    home, done = tmp_path_factory.mktemp("elsewhere"), {}

    def report(name: str) -> ih.Report:
        if name in IMAGING:
            pytest.importorskip("skimage")
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(home)
                assert cli.main(["run", name, "--quick"]) == 0
            done[name] = home / "runs" / name
        return ih.Report.load(done[name])

    report.home = home
    return report


def expected(name: str, version: str) -> dict:
    return json.loads((cli.studies()[name] / "expected.json").read_text())[version]


def compare(found: dict, wanted: dict):
    off = {
        key: (found[key], want["value"])
        for key, want in wanted.items()
        if not abs(found[key] - want["value"]) <= want.get("rtol", 0.0) * abs(want["value"]) + want.get("atol", 0.0)
    }
    assert off == {}, "found, expected"


@pytest.mark.parametrize("name", STUDIES)
def test_quick_run_finds_what_is_expected(quick, name):
    compare(quick(name).findings, expected(name, "quick"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_full_run_finds_what_is_expected(name):
    study = cli._load(cli.studies()[name], "study")
    compare(study.run().findings, expected(name, "full"))


@pytest.mark.parametrize("name", STUDIES)
def test_files_of_a_run(quick, name):
    report, folder = quick(name), quick.home / "runs" / name
    figures = {"descent.png"} | PICTURES[name] | (set() if name in LIKELIHOODS else {"criterion.png"})
    assert {path.name for path in folder.iterdir()} == figures | {"report.json", "arrays.npz"}
    for figure in figures:
        assert (folder / figure).stat().st_size > 10_000
    assert report.findings["summary"] and report.provenance["seed"] == 0


@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_drawn_from_the_saved_report_alone(quick, name, tmp_path):
    drawn = cli._load(cli.studies()[name], "figures").draw(quick(name), tmp_path)
    assert sorted(drawn) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_it_is(name):
    folder = cli.studies()[name]
    text = (folder / "README.md").read_text()
    assert f"invhyper run {name}" in text and "## What to see" in text and "## Sources" in text
    assert set(expected(name, "quick")) <= set(expected(name, "full"))


def test_diabetes_loss_is_what_scikit_learn_computes_at_these_weights(quick):
    report = quick("diabetes_elastic_net")
    rows = cli._load(cli.studies()["diabetes_elastic_net"], "study").split(0)
    weights = ih.to_sklearn(report.theta, len(rows.y))
    model = ElasticNet(**weights, fit_intercept=False, tol=1e-12, max_iter=1_000_000)
    loss = np.mean((model.fit(rows.A, rows.y).predict(rows.A_val) - rows.y_val) ** 2)
    assert report.value == pytest.approx(loss, rel=1e-7)
    assert report.value < report.findings["sklearn_validation_loss"]
    assert report.value < report.findings["best_on_map"]


def test_diabetes_columns_are_standardised_by_the_fitted_rows():
    rows = cli._load(cli.studies()["diabetes_elastic_net"], "study").split(4)
    assert rows.A.shape == (295, 64) and rows.A_val.shape == (147, 64) and len(set(rows.names)) == 64
    np.testing.assert_allclose(rows.A.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(rows.A.std(axis=0), 1.0, atol=1e-12)
    assert np.linalg.matrix_rank(rows.A) == 64


def test_bpdn_measures_mask_sums_of_the_image():
    pytest.importorskip("skimage")
    study = cli._load(cli.studies()["bpdn_weight"], "study")
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


@pytest.mark.parametrize("name", sorted(IMAGING))
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
    return cli._load(cli.studies()[name], "study")


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


def test_ode_slopes_and_search_are_those_of_the_closed_form(quick):
    found = quick("ode_initial_condition").findings
    np.testing.assert_allclose(found["curve"], found["closed_curve"], rtol=1e-7)
    np.testing.assert_allclose(found["inner"], found["closed_inner"], rtol=1e-8, atol=1e-8)
    true = np.abs(found["slopes"] - found["closed_slopes"])
    assert np.all(true <= 1e-8 * np.max(np.abs(found["slopes"]))) and np.all(true <= 3 * found["estimates"])
    assert found["q"] == pytest.approx(found["closed_form_q"], rel=1e-7)
    assert found["solves"] <= 5


def study(name: str):
    return cli._load(cli.studies()[name], "study")


def test_ehrhardt_roberts_data_are_those_of_the_description():
    files, drawn = study("ehrhardt_roberts").published(), study("ehrhardt_roberts").signals(0)
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
    report, data = quick("ehrhardt_roberts"), study("ehrhardt_roberts").published()
    step = report.history[0] if place == "before" else min(report.history, key=lambda step: step.value)
    _, worst, value, slope = by_numpy(report.findings[place], data, float(step.theta["th"]), 0)
    assert worst <= 1e-10
    assert step.value == pytest.approx(value, rel=1e-12)
    assert float(step.gradient["th"]) == pytest.approx(slope, rel=1e-8, abs=1e-8)


def test_ehrhardt_roberts_value_and_slope_at_the_published_weight(quick):
    """The study's, and those known at the weight as it is printed, by solutions found without the library."""
    found, data = quick("ehrhardt_roberts").findings, study("ehrhardt_roberts").published()
    at, worst, value, slope = by_numpy(found["after"], data, study("ehrhardt_roberts").PUBLISHED_TH, 20)
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


def test_hare_lynx_fit_is_the_one_that_scipy_finds(quick):
    report, data = quick("hare_lynx"), study("hare_lynx").pelts()
    hare, lynx, weight = (float(report.theta[name]) for name in ("hare", "lynx", "weight"))
    guess, logs = np.log([1.0, 0.05, 1.0, 0.05]), np.log(data.counts)

    def deviations(p):
        a, b, c, d = np.exp(p)
        found = solve_ivp(lambda t, u: [a - b * np.exp(u[1]), d * np.exp(u[0]) - c], (0, 20), np.log([hare, lynx]),
                          t_eval=np.arange(21.0), rtol=1e-10, atol=1e-10)  # fmt: skip
        return (logs - found.y.T) / 0.25

    def residual(p):
        return np.r_[deviations(p)[~data.held].ravel(), np.sqrt(weight) * (p - guess)]

    p = least_squares(residual, np.log([0.5, 0.03, 0.8, 0.02]), xtol=1e-12, ftol=1e-12).x
    rates = [report.findings[f"{name}_rate"] for name in ("birth", "hunted", "death", "fed")]
    np.testing.assert_allclose(np.exp(p), rates, rtol=1e-5)
    assert np.sum(deviations(p)[data.held] ** 2) == pytest.approx(report.value, rel=1e-4)
    assert data.held.sum() == 7 and report.value < np.min(report.findings["curve"]) * (1 + 1e-9)


def test_epidemic_fit_is_the_one_that_scipy_finds(quick):
    report, data = quick("epidemic"), study("epidemic").colds()
    first = [float(report.theta["susceptible"]), float(report.theta["infective"]), 0.0]
    assert np.all(np.diff(data.counts.sum(axis=1)) >= 0) and np.all(np.diff(data.counts[:, 1]) >= 0)
    assert data.counts[-1].tolist() == [0, 37] and data.held.sum() == 7

    def deviations(p):
        a, b = np.exp(p)
        found = solve_ivp(lambda t, u: [-a * u[0] * u[1], a * u[0] * u[1] - b * u[1], b * u[1]], (1, 21), first,
                          t_eval=data.days, rtol=1e-10, atol=1e-10)  # fmt: skip
        return (data.counts - found.y[1:].T) / 2.0

    p = least_squares(lambda p: deviations(p)[~data.held].ravel(), np.log([0.02, 0.3]), xtol=1e-12, ftol=1e-12).x
    rates = [report.findings[f"{name}_rate"] for name in ("infection", "recovery")]
    np.testing.assert_allclose(np.exp(p), rates, rtol=1e-5)
    assert np.sum(deviations(p)[data.held] ** 2) == pytest.approx(report.value, rel=1e-4)
    assert report.value <= np.min(report.findings["values"])


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_unrolled_slopes_get_worse_first_and_two_cures(quick, name):
    report = quick("implicit_and_unrolled")
    found = {key.removeprefix(f"{name}_"): value for key, value in report.findings.items()}
    assert found["library_peak"] == pytest.approx(found["peak_plain"], rel=1e-10) and found["library_peak"] > 3
    assert found["cursed"]["plain"][-1] < 1e-4
    for cured in ("latest", "warm"):
        assert np.max(found["cursed"][cured]) <= 1 + 1e-9 and np.max(found["cursed_slopes"][cured]) <= 1 + 1e-9
        assert found["cursed"][cured][-1] < found["cursed"]["plain"][-1]
    assert 1 < found["peak_later"] < found["peak_plain"] < found["peak_momentum"]


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_implicit_errors_are_known_and_windows_are_neumann_series(quick, name):
    report = quick("implicit_and_unrolled")
    found = {key.removeprefix(f"{name}_"): value for key, value in report.findings.items()}
    assert 0.5 < found["ratio_low"] <= found["ratio_high"] < 2 and np.sum(found["linear"]) >= 5
    assert np.all(found["implicit"] <= found["unrolled"])
    np.testing.assert_allclose(found["window_errors"], found["series_errors"], rtol=1e-10)
    assert np.all(found["needed"] <= found["predicted"]) and np.all(np.diff(found["predicted"] / found["needed"]) < 0)


def test_learned_momentum_beats_the_closed_form_and_grids(quick):
    found = quick("momentum_and_curvature").findings
    for k in (10, 100):
        case = found[f"case_{k}"]
        assert case["log_loss"] <= case["closed_form_log_loss"]
        assert case["log_loss"] <= min(case["grid_log_losses"]) + np.log(1.1)
        assert case["numpy_differs"] < 1e-6 and case["runs"] < 20_000
    k, _, eta, beta = found["sweep"].T
    root = np.sqrt(k)
    np.testing.assert_allclose(beta, ((root - 1) / (root + 1)) ** 2, atol=0.02)
    np.testing.assert_allclose(eta, (2 / (root + 1)) ** 2, rtol=0.15)


def test_closed_form_has_double_roots_at_both_curvatures():
    """At it, r^2 - (1 + beta - eta lam) r + beta has double roots, of modulus sqrt(beta), at both ends of lam."""
    module = study("momentum_and_curvature")
    best = module.closed_form(9.0)
    assert best == pytest.approx({"eta": 0.25, "beta": 0.25})
    for curvature, sign in ((1.0, 1), (9.0, -1)):
        assert 1 + best["beta"] - best["eta"] * curvature == pytest.approx(2 * sign * np.sqrt(best["beta"]))
    assert module.lengths(200) == [6, 12, 25, 50, 100, 200] and module.lengths(7) == [7]


def test_hyper_cleaning_finds_the_wrong_labels(quick):
    report, data = quick("hyper_cleaning"), study("hyper_cleaning").digits(0)
    w, found = report.theta["w"], report.findings
    assert data.corrupted.sum() == 500 and np.array_equal(data.corrupted, found["corrupted"])
    assert np.mean(w[data.corrupted] < np.median(w)) == found["least_below_median"] >= 0.9
    x, labels = np.zeros((65, 10)), np.eye(10)

    def log_chance(A, x):
        scores = A @ x
        return scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))

    for _ in range(100):  # gradient descent of step 4 on the weighted loss, in NumPy
        wrong_by = w[:, None] * (np.exp(log_chance(data.A, x)) - labels[data.given])
        x = x - 4.0 * (data.A.T @ wrong_by / 1000 + 1e-3 * x)
    np.testing.assert_allclose(x, report.solution.x, atol=1e-9)
    value = -np.mean(np.sum(labels[data.y_val] * log_chance(data.A_val, x), axis=1))
    assert report.value == pytest.approx(value, rel=1e-9)
    assert np.mean(np.argmax(data.A_test @ x, axis=1) == data.y_test) == found["cleaned"] > found["all"] + 0.04


def test_learned_adam_beats_random_search_with_a_third_of_its_runs(quick):
    found = quick("learned_adam").findings
    assert found["learned_loss"] <= found["random_loss"] == found["random"].min()
    assert 3 * found["runs_spent"] <= found["random_runs"]
    assert found["optax_loss"] == pytest.approx(found["defaults_loss"], rel=1e-9)
    assert found["learned_loss"] == pytest.approx(found["curves"][-1, -1], rel=1e-9)


def test_learned_schedule_beats_its_grid_with_a_third_of_the_runs(quick):
    found = quick("learned_schedule").findings
    assert found["learned_loss"] <= found["grid_loss"] == np.nanmin(found["map"])
    assert 3 * found["evaluations"] <= found["grid_runs"] == 225 and found["inside"]
    assert found["path"][0, -1] > 1.5 * found["grid_loss"]
