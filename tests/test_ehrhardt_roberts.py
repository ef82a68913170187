"""The 1-D denoising benchmark of Ehrhardt and Roberts (2021): its figures, and how soon its minimum is reached."""

import numpy as np
import pytest
from scipy.linalg import solveh_banded

import invhyper as ih
from invhyper import cli

STUDY = cli._load(cli.studies()["ehrhardt_roberts"], "study")
LEAST = 1.3714888338
PUBLISHED = {"th": -0.30893624}


@pytest.fixture(scope="module")
def problem():
    return STUDY.bilevel(STUDY.published())


def test_the_data_are_those_of_the_description():
    files, drawn = STUDY.published(), STUDY.signals(0)
    np.testing.assert_array_equal(files.truth, drawn.truth)
    np.testing.assert_array_equal(files.noisy, drawn.noisy)
    assert files.truth.shape == (10, 256) and set(np.unique(files.truth)) == {0.0, 1.0}


def test_value_and_slope_at_the_published_weight(problem):
    found = ih.Implicit()(problem, PUBLISHED)
    assert float(found.value) == pytest.approx(1.3715952, abs=5e-8)
    assert float(found.gradient["th"]) == pytest.approx(0.0355172840, abs=1e-10)


def test_the_slope_is_that_of_a_banded_solve(problem):
    """NumPy alone: the tridiagonal Hessian of each signal at the solution, and the right-hand side by hand."""
    found, data = ih.Implicit()(problem, PUBLISHED), STUDY.published()
    weight, value, slope = 10.0 ** PUBLISHED["th"], 0.0, 0.0
    for x, y, truth in zip(found.solution.x, data.noisy, data.truth, strict=True):
        x = np.asarray(x)
        jump = np.diff(x, prepend=0.0)
        size = np.sqrt(jump**2 + 1e-6)
        variation = jump / size - np.append(jump[1:] / size[1:], 0.0)  # the slope of the sum of sizes
        assert np.linalg.norm(x - y + weight * variation + 1e-3 * x) <= 1e-10
        bend = weight * 1e-6 / size**3
        upper = np.append(0.0, -bend[1:])
        hessian = np.stack([upper, 1.001 + bend + np.append(bend[1:], 0.0)])
        value += np.sum((x - truth) ** 2)
        slope -= 2 * np.log(10.0) * weight * variation @ solveh_banded(hessian, x - truth)
    assert float(found.value) == pytest.approx(value, rel=1e-12)
    assert float(found.gradient["th"]) == pytest.approx(slope, rel=1e-8)


def test_tune_reaches_the_minimum_in_ten_evaluations(problem):
    report = ih.tune(problem, ih.Parameters(th=ih.linear(0.0, -6.0, 3.0)))
    reached = [step.solves for step in report.history if step.value - LEAST <= 1e-8]
    assert float(report.history[0].theta["th"]) == 0.0
    assert reached[0] <= 10
    assert float(report.theta["th"]) == pytest.approx(-0.314921, abs=5e-7)
    assert report.value == pytest.approx(LEAST, abs=1e-10)
