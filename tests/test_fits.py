"""Fits from many starts: every minimum found is one, every failure costs itself alone, executors change nothing."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax.numpy as jnp
import kinetics
import numpy as np
import pytest

import invhyper as ih

THETA = {"size": 1 / 40}
SCALES = ih.Parameters(w=ih.log(1.0, 0.2, 20.0))


@pytest.fixture(scope="module")
def frequency():
    """The fits of one frequency from 20 starts, three of which (w > 10) blow up before the last time."""
    calibration, starts = kinetics.frequency_calibration(), ih.latin_hypercube(SCALES, 20, seed=0)
    return calibration, starts, ih.fit_from(calibration, THETA, starts, chunk=10)


def wells(x, theta):
    """Minima near a = -1 and 1, b = a, a saddle between them; not finite for b < -5."""
    well = (x["a"] ** 2 - 1) ** 2 + theta["tilt"] * x["a"] + 0.5 * (x["b"] - x["a"]) ** 2
    return well + 0 * jnp.log(x["b"] + 5)


WELLS = ih.Smooth(wells, start={"a": 0.0, "b": 0.0})


def pairs(a, b):
    return [{"a": np.array(u), "b": np.array(v)} for u, v in zip(a, b, strict=True)]


def test_every_fit_is_a_local_minimum_and_the_best_is_the_truth(frequency):
    _, starts, fits = frequency
    places, values = kinetics.frequency_minima()
    assert fits.best.x["w"] == pytest.approx(3.0, rel=1e-9) and fits.value < 1e-18
    assert len(places) > 4 and len(fits.minima()) > 3
    for solution, value in zip(fits.solutions, fits.values, strict=True):
        if np.isfinite(value):
            nearest = np.argmin(np.abs(places - solution.x["w"]))
            assert solution.x["w"] == pytest.approx(places[nearest], rel=1e-6)
            assert value == pytest.approx(values[nearest], rel=1e-6, abs=1e-9)
    assert np.all(np.diff(fits.values[np.isfinite(fits.values)]) >= 0)
    assert [starts[i] for i in fits.order] == fits.starts
    assert fits.reached() == sum(abs(s.x["w"] - 3.0) < 1e-6 for s in fits.solutions) > 1


def test_a_failing_start_costs_itself_alone_and_says_where(frequency):
    _, starts, fits = frequency
    wanted = {k for k, start in enumerate(starts) if start["w"] > 10}
    assert set(fits.failures) == wanted and len(wanted) == 3
    assert fits.converged.sum() == 17 and np.all(np.isinf(fits.values[-3:]))
    for k, said in fits.failures.items():
        time = float(re.search(r"at t = ([\d.]+) after 400 steps", said).group(1))
        assert time == pytest.approx(40 / starts[k]["w"], rel=1e-4)
        assert (
            re.search(r"state \{phase 40; size \d", said) and f"p = w {starts[k]['w']:.4g}, theta = size 0.025" in said
        )


def test_the_table_lists_every_start(frequency):
    _, _, fits = frequency
    text = fits.table()
    assert all(re.search(rf"^ *{k} +\S+ +\S+ +\d+ +\S+$", text, re.M) for k in fits.order[:17])
    assert all(f"start {k} failed: Calibration: the simulation stopped" in text for k in fits.failures)
    assert text.endswith(fits.summary()) and max(map(len, text.splitlines())) <= 120
    assert re.fullmatch(
        r"\d of 20 starts reached the best objective, \S+; \d others up to [\d.]+; 3 failed", fits.summary()
    )
    assert "... and 12 more" in fits.table(limit=5) and str(fits) == text


def test_an_executor_changes_nothing(frequency):
    calibration, starts, fits = frequency
    with ThreadPoolExecutor(2) as pool:
        again = ih.fit_from(calibration, THETA, starts, pool, chunk=10)
    np.testing.assert_array_equal(again.values, fits.values)
    np.testing.assert_array_equal(again.order, fits.order)
    assert again.failures == fits.failures


@pytest.mark.slow
def test_a_calibration_travels_to_spawned_processes(frequency):
    calibration, starts, fits = frequency
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        again = ih.fit_from(calibration, THETA, starts, pool, chunk=10)
    np.testing.assert_allclose(again.values, fits.values, rtol=1e-12, atol=1e-15)
    assert again.failures == fits.failures


def test_lanes_equal_fits_one_by_one():
    lower, theta = WELLS, {"tilt": 0.3}
    rng = np.random.default_rng(0)
    starts = pairs(rng.uniform(-2, 2, 11), rng.uniform(-4, 2, 11))
    fits = ih.fit_from(lower, theta, starts, chunk=4)  # the last chunk is one lane short
    for place, solution in zip(fits.order, fits.solutions, strict=True):
        alone = ih.solve(lower, theta, start=ih.problem.Solution(starts[place]))
        assert solution.x["a"] == pytest.approx(float(alone.x["a"]), rel=1e-10)
        assert solution.x["b"] == pytest.approx(float(alone.x["b"]), rel=1e-10)
    default = ih.fit_from(lower, theta, starts)
    np.testing.assert_allclose(default.values, fits.values, rtol=1e-10)
    roots = np.roots([4, 0, -4, 0.3]).real  # where the slope in a is zero, and b = a
    assert {round(float(s.x["a"]), 8) for s in fits.solutions} == {round(r, 8) for r in (min(roots), max(roots))}
    assert fits.best.x["a"] == pytest.approx(min(roots)) and len(fits.minima()) == 2


def test_a_saddle_keeps_its_value_and_is_never_the_best():
    fits = ih.fit_from(WELLS, {"tilt": 0.0}, pairs([0.0, 1.5, -1.5, 1.2], [0.0, 1.0, -1.0, 1.0]), chunk=4)
    assert fits.converged.tolist() == [True, True, True, False] and fits.order[-1] == 0
    np.testing.assert_allclose(fits.values, [0, 0, 0, 1], atol=1e-12)
    assert fits.summary() == f"3 of 4 starts reached the best objective, {fits.value:.6g}; 1 did not converge"
    assert "not positive definite" in fits.table(width=300) and fits.failures == {}


def test_latin_hypercube_has_one_start_in_each_layer_and_repeats_with_its_seed():
    box = ih.Parameters(rate=ih.log10(1.0, 1e-3, 1e3), shift=ih.linear([0.0, 1.0], -1.0, [1.0, 3.0]))
    starts = ih.latin_hypercube(box, 12, seed=3)
    u = np.array([box.search(start) for start in starts])
    lower, upper = box.bounds
    layers = np.floor(12 * (u - lower) / (upper - lower)).astype(int)
    assert all(sorted(column) == list(range(12)) for column in layers.T)
    again, other = (ih.latin_hypercube(box, 12, seed=seed) for seed in (3, 4))
    assert np.array_equal([box.search(s) for s in again], u) and not np.allclose([box.search(s) for s in other], u)
    plain = ih.latin_hypercube(({"a": 0.0}, {"a": 12.0}), 12)
    assert sorted(int(start["a"]) for start in plain) == list(range(12))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: ih.latin_hypercube(ih.Parameters(a=ih.log(1.0)), 3), "a has bounds -inf and inf on its search scale"),
        (lambda: ih.latin_hypercube(SCALES, 0), "n = 0: a whole number"),
        (lambda: ih.latin_hypercube(3.0, 2), "given 3.0: Parameters, or a pair"),
        (lambda: ih.fit_from(WELLS, {"tilt": 0.1}, []), "no start"),
        (lambda: ih.fit_from(WELLS, {"tilt": 0.1}, [{"a": 1.0}]), "start 0 holds 'a': 'a', 'b' is wanted"),
        (lambda: ih.fit_from(WELLS, {"tilt": 0.1}, pairs([1, np.nan], [0, 0])), "start 1: 'a' = nan is not"),
        (lambda: ih.fit_from(WELLS, {"tilt": 0.1}, [{"a": np.ones(1), "b": 0.0}]), r"'a' has shape \(1,\), \(\) is"),
        (lambda: ih.fit_from(WELLS, {"tilt": 0.1}, pairs([1.0], [0]), chunk=0), "chunk = 0"),
        (
            lambda: ih.fit_from(kinetics.frequency_calibration(), THETA, [{"w": 1.0}, {"w": 21.0}]),
            "start 1 'w' = 21 is outside its bounds 0.2 to 20",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_host_lower_levels_are_sent_elsewhere():
    with pytest.raises(TypeError, match="BPDN is solved outside"):
        ih.fit_from(ih.Lasso(np.eye(2), np.ones(2)), {"weight": 0.1}, [np.ones(2)])


def test_when_every_start_fails_it_says_why():
    with pytest.raises(ih.NotConverged, match="none of 4 starts converged; the first: Smooth met NaN"):
        ih.fit_from(WELLS, {"tilt": 0.1}, pairs([0.0, 1.0, 2.0, 3.0], [-6.0, -7.0, -8.0, -9.0]))


def test_waterfall_draws_every_start():
    values = np.array([3.0, 1.0, np.inf, 1.0001, 2.0])
    figure = ih.plots.waterfall(values, np.array([True, True, False, True, False]))
    (axes,) = figure.axes
    drawn = {each.get_label(): each for each in axes.lines if not each.get_label().startswith("_")}
    assert list(drawn) == ["2 reached the best, 1", "1 elsewhere", "1 not converged", "1 failed"]
    np.testing.assert_allclose(drawn["1 elsewhere"].get_ydata(), [2.0])
    assert drawn["1 failed"].get_xdata().tolist() == [5] and drawn["1 not converged"].get_xdata().tolist() == [3]
    with pytest.raises(ValueError, match="one finite"):
        ih.plots.waterfall(np.full(3, np.inf))
