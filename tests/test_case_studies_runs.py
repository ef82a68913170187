"""The case studies of runs that are differentiated, as test_case_studies.py has those of images."""

import numpy as np
import pytest
import studies

PICTURES = {
    "implicit_and_unrolled": {"curse.png", "errors.png", "terms.png"},
    "momentum_and_curvature": {"momentum.png", "runs.png"},
    "hyper_cleaning": {"weights.png", "digits.png"},
    "learned_adam": {"training.png", "step_sizes.png"},
    "learned_schedule": {"schedules.png", "spent.png", "fresh.png"},
}


class TestStudies(studies.Studies):
    pictures = PICTURES


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
    module = studies.module("momentum_and_curvature")
    best = module.closed_form(9.0)
    assert best == pytest.approx({"eta": 0.25, "beta": 0.25})
    for curvature, sign in ((1.0, 1), (9.0, -1)):
        assert 1 + best["beta"] - best["eta"] * curvature == pytest.approx(2 * sign * np.sqrt(best["beta"]))
    assert module.lengths(200) == [6, 12, 25, 50, 100, 200] and module.lengths(7) == [7]


def test_hyper_cleaning_finds_the_wrong_labels(quick):
    report, data = quick("hyper_cleaning"), studies.module("hyper_cleaning").digits(0)
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
    assert 3 * found["evaluations"] <= found["random_runs"] == found["random"].size
    assert found["optax_loss"] == pytest.approx(found["defaults_loss"], rel=1e-9)
    assert found["learned_loss"] == pytest.approx(found["curves"][-1, -1], rel=1e-9)


def test_learned_schedule_beats_its_grid_with_a_third_of_the_runs(quick):
    found = quick("learned_schedule").findings
    assert found["learned_loss"] <= found["grid_loss"] == np.nanmin(found["map"])
    assert 3 * found["evaluations"] <= found["grid_runs"] == 225 and found["inside"]
    assert found["path"][0, -1] > 1.5 * found["grid_loss"]
